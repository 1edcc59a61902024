"""What all stages do around training: start JAX, open the run's directory, end it."""

import contextlib
import functools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from data_pipelines import account, elastic, pipeline, records
from experiments.stages import run_config
from soraflax import buckets, compilation_cache, process_memory, sharding
from soraflax import config as config_lib
from soraflax.ops import packing
from soraflax.pretrained import arrays, slices
from soraflax.train import (
    checkpoint,
    cluster,
    common_end,
    goodput,
    loop,
    metrics,
    saved_steps,
    stopping,
)

Config = TypeVar("Config", bound=run_config.RunConfig)


Interrupted = stopping.Interrupted


def start(values: Any, config_class: type[Config]) -> tuple[Config, Mesh]:
    """The configuration of a run and its mesh, with JAX set up for it.

    Raises:
      ConfigError: an unknown key, or an impossible value.
    """
    config = config_lib.to_dataclass(values, config_class)
    several = config.distributed or config.cluster.is_given
    if several and not jax.distributed.is_initialized():
        cluster.start(config.cluster)
    if jax.default_backend() == "cpu":
        process_memory.keep_freed()
    return config, config.mesh.make()


def host(mesh: Mesh) -> pipeline.HostShard:
    """This process's part of the data; processes of one batch shard have the same."""
    groups = sharding.batch_shard_processes(mesh)
    index = next(n for n, group in enumerate(groups) if jax.process_index() in group)
    return pipeline.HostShard(index, len(groups))


def to_one_end(
    batches: elastic.LaneBatches,
    data: pipeline.PackedDataConfig,
    *,
    patch_size: int,
    text_width: int | None,
) -> checkpoint.DataIterator:
    """Batches of packed rows that end (`data.passes`) at one step in all processes.

    Args:
      batches: of this process.
      data: what they are made of.
      patch_size, text_width: as of `Packed.zeros`.
    """
    if not data.passes:
        return batches
    sizes = {"patch_size": patch_size, "text_width": text_width}
    blank = functools.partial(packing.Packed.zeros, data.row, rows=data.rows, **sizes)
    return common_end.CommonEnd(batches, blank)


def evened(
    batches: Iterable[packing.Packed], *, empty: packing.Packed
) -> Iterator[packing.Packed]:
    """The batches of this process, and empty ones until all processes have as many."""
    own = list(batches)
    counts = map(int, saved_steps.allgather_text(str(len(own))))
    blank = jax.tree.map(np.zeros_like, own[0]) if own else empty
    yield from own + [blank] * (max(counts) - len(own))


def check_rows(rows: int, mesh: Mesh, *, key: str) -> None:
    """Refuse a batch (all processes together) that the mesh does not divide.

    Raises:
      ConfigError: naming `key` and both sizes.
    """
    spec = sharding.batch_sharding(mesh).spec
    try:
        sharding.check_divides((rows,), spec, mesh=mesh, what=key)
    except ValueError as error:
        raise config_lib.ConfigError(str(error)) from error


PROGRAMS = "compiled"  # in a run's directory
# What a run leaves in its folder before its first line of metrics.
_OF_A_START = {
    metrics.FILE,
    metrics.RATES,
    goodput.FILE,
    "heartbeats",
    "tensorboard",
}


@contextlib.contextmanager
def run_directory(
    workdir: str | os.PathLike[str], *, programs: str = "none"
) -> Iterator[buckets.Folder]:
    """The run's directory; bad input leaves no empty one that was not there before.

    What holds something stays: cached latents, checkpoints, a line of metrics. SIGTERM
    ends the block, where training does not heed it: in caching and in exporting; that
    of several processes they heed themselves (`together`, `heeding_signals`).

    Args:
      workdir: the directory, on a disk or in a bucket.
      programs: `RunConfig.compilation_cache`.

    Raises:
      ValueError: `workdir` is a file.
      BucketError: a bucket that cannot be used.
      Interrupted: SIGTERM, outside of training.
    """
    path = buckets.folder(workdir)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: is a file; give a directory as --workdir")
    try:
        with buckets.one_line(path), stopping.raised():
            new = not path.exists()
            path.mkdir(parents=True, exist_ok=True)
            with kept_programs(path, programs):
                yield path
    except (ValueError, OSError):
        if new and jax.process_index() == 0:
            remove_empty(path)
        raise


@contextlib.contextmanager
def kept_programs(path: buckets.Folder, programs: str) -> Iterator[None]:
    """What is compiled inside is kept, and found by the next life of the run.

    Args:
      path: the run's directory.
      programs: `RunConfig.compilation_cache`.
    """
    place = programs or str(path / PROGRAMS)
    # Of several devices of a CPU they could wait for each other (`compilation_cache`).
    if programs == "none" or (not programs and jax.default_backend() == "cpu"):
        yield
        return
    settings = {"jax_persistent_cache_min_compile_time_secs": 1.0}
    with compilation_cache.configured(settings | {"jax_compilation_cache_dir": place}):
        yield


def remove_empty(path: buckets.Folder) -> None:
    """Remove what a run that recorded nothing left of its own, and `path` if empty."""
    if buckets.is_bucket(path):
        held = buckets.listing(path)
        kinds = {name.partition("/")[0] for name in held}
        recorded = held.get(metrics.FILE)
        if kinds <= _OF_A_START and (recorded is None or not recorded.bytes):
            buckets.remove(path, held)
        return
    recorded = path / metrics.FILE
    if not recorded.exists() or os.stat(recorded).st_size == 0:
        for name in (metrics.FILE, metrics.RATES, goodput.FILE):
            (path / name).unlink(missing_ok=True)
        for beat in path.glob("heartbeats/*.json"):
            beat.unlink()
        for events in path.glob("tensorboard/events.out.tfevents.*"):
            events.unlink()  # the header alone
    folders = (path / name for name in ("checkpoints", "heartbeats", "tensorboard"))
    for folder in (*folders, path):
        with contextlib.suppress(OSError):
            folder.rmdir()


def require_end(step: int, steps: int) -> None:
    """Refuse to go on unless training reached its last step.

    Raises:
      Interrupted: it was asked to stop before.
    """
    if step < steps:
        raise Interrupted(f"step {step} of {steps} is saved; the same command resumes")


def tell(notes: Iterable[str]) -> None:
    """Print notes, a line each, where errors go, from the first process alone."""
    if jax.process_index() == 0:
        for note in notes:
            print(note, file=sys.stderr, flush=True)


def tell_account(paths: Iterable[str]) -> None:
    """Print what became of every input of the datasets that a run trains on."""
    for path in paths:
        tell(account.block(path, records.read_info(path)))


def write_json(path: buckets.Folder, values: Any) -> None:
    """Write `values` as indented JSON, from the first process alone."""
    if jax.process_index() == 0:
        path.write_text(json.dumps(values, indent=2) + "\n")


@contextlib.contextmanager
def together(work: str) -> Iterator[None]:
    """What all processes do, each its own; where it fails in one, it fails in all.

    SIGTERM to one stops all of them (`stopping.raised_in_all`).

    Args:
      work: name of the work, another each time.

    Raises:
      ValueError: in the others, naming the process and its error.
      Interrupted: one was asked to stop.
    """
    failure: BaseException | None = None
    try:
        with stopping.raised_in_all(work):
            yield
    except (ValueError, OSError, Interrupted) as error:
        failure = error
    own = [isinstance(failure, Interrupted), str(failure) if failure else ""]
    said = map(json.loads, saved_steps.allgather_text(json.dumps(own)))
    if failure is not None:
        raise failure
    for number, (stopped, text) in enumerate(said):
        if stopped:
            raise Interrupted(text)
        if text:
            raise ValueError(f"process {number}: {text}")


def evaluate(job: loop.TrainJob, params: Any) -> dict[str, float]:
    """What a job measures of its result; nothing where it measures nothing.

    Raises:
      Interrupted: the run was asked to stop.
    """
    if job.evaluate is None:
        return {}
    return job.evaluate(params, check=heed)


def heed() -> None:
    """A place where several processes ask whether to stop, the same in all of them.

    Raises:
      Interrupted: the run was asked to stop.
    """
    stopping.StopSignals().check()


def heeding_signals(params: Any) -> Any:
    """Parameters before each piece of which several processes ask whether to stop.

    They raise `Interrupted` in all processes, where they are written. A single process
    needs no asking (`stopping.raised`).

    Args:
      params: tree of arrays of JAX or of numpy.
    """
    if jax.process_count() == 1:
        return params

    def asking(leaf: Any) -> arrays.LazyArray:
        def parts() -> Iterator[np.ndarray]:
            heed()
            for piece in slices.host_pieces(leaf):
                yield piece
                heed()

        return arrays.LazyArray(leaf.shape, np.dtype(leaf.dtype), parts)

    return jax.tree.map(asking, params)


def barrier(name: str) -> None:
    """Wait for all processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
