"""What all stages share: the mesh of a run, its process's data, its folder."""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from data_pipelines import pipeline
from soraflax import config as config_lib
from soraflax import sharding

# Where a run is, how it is logged and how long it is may change when it is resumed;
# what it computes may not.
MAY_DIFFER = (
    "autoencoder",
    "compilation_cache",
    "data.also",
    "data.path",
    "data.read.ahead",
    "data.read.buffer",
    "data.read.threads",
    "distributed",
    "evaluation",
    "loss.lpips_path",
    "mesh",
    "train.checkpoint_every",
    "train.evaluate_every",
    "train.keep",
    "train.log_every",
    "train.steps",
)


MeshConfig = sharding.MeshConfig


class Interrupted(Exception):
    """The run was asked to stop, and saved what it has."""


@runtime_checkable
class RunConfig(Protocol):
    """What the configurations of all stages have."""

    @property
    def distributed(self) -> bool: ...
    @property
    def compilation_cache(self) -> str: ...
    @property
    def mesh(self) -> MeshConfig: ...


Run = TypeVar("Run", bound=RunConfig)


def begin(values: Any, kind: type[Run]) -> tuple[Run, Mesh]:
    """The configuration of a run and its mesh, with JAX set up for it.

    Raises:
      ConfigError: an unknown key, or an impossible value.
    """
    config = config_lib.to_dataclass(values, kind)
    if config.distributed:
        jax.distributed.initialize()
    if config.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", config.compilation_cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    return config, config.mesh.make()


def host(mesh: Mesh) -> pipeline.Host:
    """This process's share of the data; processes that hold the same rows share it."""
    groups = sharding.batch_shard_processes(mesh)
    mine = next(n for n, group in enumerate(groups) if jax.process_index() in group)
    return pipeline.Host(mine, len(groups))


def check_rows(rows: int, mesh: Mesh, *, key: str) -> None:
    """Refuse a batch (all processes together) that the mesh does not divide."""
    place = sharding.batch_sharding(mesh)
    try:
        sharding.check_divides((rows,), place.spec, mesh=mesh, what=key)
    except ValueError as error:
        raise config_lib.ConfigError(str(error)) from error


@contextlib.contextmanager
def folder(workdir: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """The run's folder; bad input leaves none behind that was not there before.

    Raises:
      ValueError: `workdir` is a file.
    """
    path = pathlib.Path(workdir)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: is a file; give a directory as --workdir")
    new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield path
    except (ValueError, OSError):
        if new and jax.process_index() == 0 and not any(path.glob("checkpoints/*")):
            shutil.rmtree(path)
        raise


def require_end(step: int, steps: int) -> None:
    """Stop here unless training reached its end.

    Raises:
      Interrupted: it was asked to stop before.
    """
    if step < steps:
        raise Interrupted(
            f"stopped at step {step} of {steps}; the same command resumes"
        )


def to_host(params: Any, mesh: Mesh) -> Any:
    """A whole copy of sharded parameters in this process's memory."""
    gather = jax.jit(lambda tree: tree, out_shardings=sharding.replicated(mesh))
    return jax.device_get(gather(params))


def write_json(path: pathlib.Path, values: Any) -> None:
    if jax.process_index() == 0:
        path.write_text(json.dumps(values, indent=2) + "\n")


def barrier(name: str) -> None:
    """Wait for all processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
