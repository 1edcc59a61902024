"""Checkpoints: the state, the data iterator, the configuration, and their digests.

Orbax writes asynchronously and commits a step by renaming it, but restores a flipped
bit without an error. So the digests of all files (`train.digests`) are part of a step
when it is committed; it is restored only if they agree, else the one before it is. What
is kept always includes the last step that is known to be whole.

Several processes agree on all of this: one lists the steps, each verifies a share.
"""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import orbax.checkpoint as ocp

from soraflax import buckets
from soraflax import config as config_lib
from soraflax.pretrained import migration
from soraflax.train import digests, saved_steps
from soraflax.train import state as train_state

DIGESTS = digests.DIGESTS
CheckpointError = digests.CheckpointError


@runtime_checkable
class DataIterator(Protocol):
    """Batches of a data pipeline, and its position among them."""

    def __next__(self) -> Any: ...

    def get_state(self) -> Any:
        """Its position, of JSON types."""
        ...

    def set_state(self, state: Any) -> None: ...


@runtime_checkable
class ElasticIterator(DataIterator, Protocol):
    """Data that another number of processes continues."""

    def set_states(self, states: Sequence[Any]) -> None:
        """Continue where processes, of whatever number, were together.

        Args:
          states: the state of each of them, in order of process.

        Raises:
          ValueError: this number of processes cannot.
        """
        ...


def set_states(iterator: DataIterator, states: Sequence[Any]) -> None:
    """Move an iterator to where the processes of a run were.

    Raises:
      ValueError: they were of another number, which the iterator cannot continue.
    """
    if isinstance(iterator, ElasticIterator):
        iterator.set_states(states)
    elif len(states) != jax.process_count():
        raise ValueError(
            f"saved by {len(states)} processes, read by {jax.process_count()}; resume "
            f"with {len(states)}"
        )
    else:
        iterator.set_state(states[jax.process_index()])


class Checkpointer:
    """Saves and restores one run in `directory/<step>/`; all processes call it alike.

    Attributes:
      directory: parent of the steps.
      saved: the steps in it.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int = 2,
        keep_period: int = 0,
        say: Callable[[str], None] = saved_steps.say,
    ) -> None:
        """Open `directory`, making it if need be.

        Args:
          directory: parent of the steps, on a disk or in a bucket.
          keep: number of last steps that are kept, at least 2; the last one that is
            known to be whole is kept beside them.
          keep_period: steps that it divides are kept beside them; 0 for none.
          say: takes lines about steps that are passed over.
        """
        self.directory = buckets.absolute(directory)
        self._say = say
        self.saved = saved_steps.SavedSteps(
            self.directory, keep=max(2, keep), keep_period=keep_period, say=say
        )
        self._handler = _StateHandler()
        self._manager = _Manager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self.saved,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(
                    post_finalization_callback=self._handler.seal
                ),
            ),
            item_handlers={
                "state": self._handler,
                "iterator": ocp.JsonCheckpointHandler(),
                "config": ocp.JsonCheckpointHandler(),
            },
        )
        self._current: int | None = None  # what was saved or restored last
        self._begun: int | None = None  # what is, or was last, being written
        self._since = time.monotonic()

    def age(self) -> float:
        """Seconds since the last save began, or since this was opened."""
        return time.monotonic() - self._since

    def save(
        self,
        step: int,
        state: train_state.TrainState,
        *,
        iterator: DataIterator,
        config: Any,
    ) -> None:
        """Start writing; returns once the state is copied off the device.

        Raises:
          CheckpointError: this step, or the last one, cannot be written.
        """
        self.wait()
        if step == self._current:
            return
        if step in self.saved.steps():
            self._say(f"{self.directory / str(step)}: written again")
            self._manager.reload()
            self._manager.delete(step)
            self.saved.damaged.discard(step)
        positions = saved_steps.allgather_text(json.dumps(iterator.get_state()))
        self._begun = step
        with self._writing():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=_StateSave(state),
                    iterator=ocp.args.JsonSave({"positions": positions}),
                    config=ocp.args.JsonSave(config_lib.to_dict(config)),
                ),
                force=True,
            )
        self._current, self._since = step, time.monotonic()

    def restore(
        self,
        target: train_state.TrainState,
        *,
        iterator: DataIterator,
        config: Any,
        mutable_keys: Iterable[str] = (),
        check: Callable[[], object] = lambda: None,
    ) -> train_state.TrainState:
        """The last whole step in the shardings of `target`; moves `iterator` there.

        A damaged step is passed over, and said.

        Args:
          target: shapes, dtypes and shardings (`state.abstract`); the mesh may be
            another than the one that saved.
          iterator: data, set to the position it had.
          config: configuration of this run.
          mutable_keys: dotted keys of the configuration that need not agree.
          check: called while files are verified, before they are read, and after, as
            often in all processes; may raise.

        Raises:
          CheckpointError: no whole step, another configuration, or a number of
            processes that cannot continue its data.
        """
        self.wait()
        step = self.saved.last_whole(check=check)
        folder = self.directory / str(step)
        saved = self._manager.restore(
            step,
            args=ocp.args.Composite(
                iterator=ocp.args.JsonRestore(), config=ocp.args.JsonRestore()
            ),
        )
        _check_config(folder, config, theirs=saved["config"], mutable_keys=mutable_keys)
        check()
        state = self._manager.restore(
            step, args=ocp.args.Composite(state=_StateRestore(target))
        )["state"]
        positions = map(json.loads, saved["iterator"]["positions"])
        try:
            set_states(iterator, list(positions))
        except ValueError as error:
            raise CheckpointError(f"{folder}: {error}") from error
        self._current = step
        check()
        return state

    def wait(self) -> None:
        """Return once the last save is committed, its digests with it.

        Raises:
          CheckpointError: it cannot be written, as on a full disk.
        """
        with self._writing():
            self._manager.wait_until_finished()
        if (self.directory / str(self._current) / DIGESTS).exists():
            self.saved.whole.add(int(self._current or 0))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Errors of the disk inside, in one line; steps before stay as they are."""
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: of tensorstore
            reason = str(error).partition(" [tensorstore_spec")[0].splitlines()[0]
            folder = self.directory / str(self._begun)
            raise CheckpointError(
                f"{folder}: cannot be written ({reason}); steps before it stay"
            ) from error

    def close(self) -> None:
        try:
            self.wait()
        finally:
            with self._writing():
                self._manager.close()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class _Manager(ocp.CheckpointManager):
    """Orbax's, which does not ask the preemption service: the run does.

    The service compares counts, and tells those who ask with another one nothing.
    """

    def reached_preemption(self, step: int) -> bool:
        del step
        return False


class _StateHandler(ocp.StandardCheckpointHandler):
    """Arrays, and digests of the files that each process wrote of them."""

    def __init__(self) -> None:
        super().__init__()
        self._step: buckets.Folder | None = None

    async def async_save(self, directory: Any, *args: Any, **kwargs: Any) -> Any:
        item = buckets.folder(directory)
        self._step = item.parent
        futures = await super().async_save(directory, *args, **kwargs)
        return [_Digested(futures or [], item)]

    def seal(self) -> None:
        """Complete the digests of the step, in the first process, before its commit."""
        if self._step is not None:
            digests.seal(self._step)


@dataclasses.dataclass
class _Digested:
    """The writing of arrays, and then of the digests of this process's files."""

    futures: Sequence[Any]
    item: buckets.Folder

    def result(self, timeout: float | None = None) -> None:
        for future in self.futures:
            future.result(timeout=timeout)
        digests.write_share(self.item, jax.process_index())

    def cancel(self) -> None:
        for future in self.futures:
            future.cancel()


@ocp.args.register_with_handler(_StateHandler, for_save=True)
@dataclasses.dataclass
class _StateSave(ocp.args.StandardSave):
    """As its parent, for `_StateHandler`."""


@ocp.args.register_with_handler(_StateHandler, for_restore=True)
@dataclasses.dataclass
class _StateRestore(ocp.args.StandardRestore):
    """As its parent, for `_StateHandler`."""


def _check_config(
    folder: buckets.Folder, ours: Any, *, theirs: Any, mutable_keys: Iterable[str]
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
