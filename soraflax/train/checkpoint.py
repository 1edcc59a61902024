"""Checkpoints: the state, the data iterator, the configuration, and their digests.

Orbax writes asynchronously and atomically, but restores a flipped bit without an error.
So once a step is committed, the SHA-256 of every file in it is written to
`digests.json` beside them; a step without that file counts as unfinished, and a step
whose files do not match it is refused.
"""

import concurrent.futures
import hashlib
import json
import pathlib
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from soraflax import config as config_lib
from soraflax.pretrained import migration
from soraflax.train import state as train_state

DIGESTS = "digests.json"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one line."""


@runtime_checkable
class DataIterator(Protocol):
    """Batches of a data pipeline, and its position among them."""

    def __next__(self) -> Any: ...

    def get_state(self) -> Any:
        """Its position, of JSON types."""
        ...

    def set_state(self, state: Any) -> None: ...


class Checkpointer:
    """Saves and restores one run in `directory/<step>/`.

    Attributes:
      directory: parent of the steps.
    """

    def __init__(self, directory: str | pathlib.Path, *, keep: int = 2) -> None:
        """Open `directory`, making it if need be; the last `keep` steps are kept."""
        self.directory = pathlib.Path(directory).absolute()
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=max(2, keep), cleanup_tmp_directories=True
            ),
        )
        self._executor = concurrent.futures.ThreadPoolExecutor(1)
        self._pending: concurrent.futures.Future[None] | None = None

    def latest(self) -> int | None:
        """The last finished step, or None."""
        return max(_finished_steps(self.directory), default=None)

    def save(
        self,
        step: int,
        state: train_state.TrainState,
        *,
        iterator: DataIterator,
        config: Any,
    ) -> None:
        """Start writing; returns once the state is copied off the device."""
        self.wait()
        if step == self.latest():
            return
        if step in self._manager.all_steps():
            self._manager.delete(step)
        positions = _allgather_text(json.dumps(iterator.get_state()))
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                iterator=ocp.args.JsonSave({"positions": positions}),
                config=ocp.args.JsonSave(config_lib.to_dict(config)),
            ),
            force=True,
        )
        self._pending = self._executor.submit(self._finish, step)

    def restore(
        self,
        target: train_state.TrainState,
        *,
        iterator: DataIterator,
        config: Any,
        mutable_keys: Iterable[str] = (),
    ) -> train_state.TrainState:
        """The last finished step in the shardings of `target`; moves `iterator` there.

        Args:
          target: shapes, dtypes and shardings (`state.abstract`); the mesh may be
            another than the one that saved.
          iterator: data, set to the position it had.
          config: configuration of this run.
          mutable_keys: dotted keys of the configuration that need not agree.

        Raises:
          CheckpointError: no finished step, a damaged file, another configuration, or
            another number of processes.
        """
        step = self.latest()
        if step is None:
            raise CheckpointError(f"{self.directory}: no finished checkpoint")
        folder = self.directory / str(step)
        verify_digests(folder)
        saved = self._manager.restore(
            step,
            args=ocp.args.Composite(
                iterator=ocp.args.JsonRestore(), config=ocp.args.JsonRestore()
            ),
        )
        _check_config(folder, config, theirs=saved["config"], mutable_keys=mutable_keys)
        positions = saved["iterator"]["positions"]
        if len(positions) != jax.process_count():
            raise CheckpointError(
                f"{folder}: saved by {len(positions)} processes, read by "
                f"{jax.process_count()}; resume with {len(positions)}"
            )
        state = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
        )["state"]
        iterator.set_state(json.loads(positions[jax.process_index()]))
        return state

    def wait(self) -> None:
        """Return once the last save is committed and its digests are written."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None
        self._manager.wait_until_finished()

    def close(self) -> None:
        self.wait()
        self._executor.shutdown()
        self._manager.close()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _finish(self, step: int) -> None:
        self._manager.wait_until_finished()
        if jax.process_index() == 0:
            write_digests(self.directory / str(step))


def write_digests(folder: pathlib.Path) -> None:
    """Write the SHA-256 of every file under `folder` to its `digests.json`."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != DIGESTS)
    digests = {str(p.relative_to(folder)): _sha256(p) for p in files}
    draft = folder / f"{DIGESTS}.tmp"
    draft.write_text(json.dumps(digests, indent=1, sort_keys=True))
    draft.replace(folder / DIGESTS)


def verify_digests(folder: pathlib.Path) -> None:
    """Check every file under `folder` against `digests.json`.

    Raises:
      CheckpointError: a file is missing or differs from what was written.
    """
    try:
        digests = json.loads((folder / DIGESTS).read_text())
        items = list(digests.items())
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder / DIGESTS}: damaged or missing") from error
    for name, expected in items:
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path}: missing from the checkpoint")
        if _sha256(path) != expected:
            raise CheckpointError(
                f"{path}: damaged (its SHA-256 is not the one written); "
                f"remove {folder} to resume from an earlier step"
            )


def _check_config(
    folder: pathlib.Path, ours: Any, *, theirs: Any, mutable_keys: Iterable[str]
) -> None:
    """Refuse a checkpoint of a run with another configuration."""
    ours = json.loads(config_lib.to_json(ours))
    theirs = migration.migrate(theirs, "run")
    difference = config_lib.first_difference(ours, theirs, ignore=mutable_keys)
    if difference:
        key, here, there = difference
        raise CheckpointError(
            f"{folder}: trained with {key}={there!r}, this run has {here!r}; "
            f"use {there!r} or another workdir"
        )


def _finished_steps(directory: pathlib.Path) -> list[int]:
    folders = [p for p in directory.glob("*") if p.name.isdigit()]
    return [int(p.name) for p in folders if (p / DIGESTS).exists()]


def _allgather_text(text: str) -> list[str]:
    """The text of every process, in order of process."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray([data.size]))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded)
    return [
        bytes(row[:size]).decode()
        for row, size in zip(rows, sizes.ravel(), strict=True)
    ]


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
