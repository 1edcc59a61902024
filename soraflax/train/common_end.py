"""Data of several processes that ends in one before it ends in another.

A process whose data has ended goes on with blank batches as long as another has one;
all end after the last batch of any. They agree by a word of each in the store of JAX's
coordination service, which takes no device: a process that has a batch waits for
nobody, and one that has none waits until another says that it has, or all that they
have not.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from soraflax.train import checkpoint

FOLDER = "soraflax/data_end/"
POLL_SECONDS = 0.005


class CommonEnd(Iterator[Any]):
    """Batches that end at one step in all processes; a `checkpoint.ElasticIterator`."""

    def __init__(
        self, iterator: checkpoint.DataIterator, blank: Callable[[], Any]
    ) -> None:
        """All processes make one alike.

        Args:
          iterator: batches of this process, which end.
          blank: makes a batch in which nothing counts, of their shapes.
        """
        self._iterator, self._blank = iterator, blank
        self._begin()

    def _begin(self) -> None:
        """Start to count, here and in the store."""
        self._count, self._ended = 0, False
        self._say()
        # Nobody reads what was said of other batches.
        multihost_utils.sync_global_devices("data begins")

    def __next__(self) -> Any:
        """The next batch, blank where this process has no more.

        Raises:
          StopIteration: in all processes.
        """
        batch = None if self._ended else next(self._iterator, None)
        first = batch is None and not self._ended
        self._ended = batch is None
        self._count += batch is not None
        self._say()
        if batch is not None:
            return batch
        if not self._another():
            raise StopIteration
        if first:
            print(
                f"process {jax.process_index()}: its part of the data ended after "
                f"{self._count} batches; it goes on with empty rows until that of all "
                "has",
                file=sys.stderr,
                flush=True,
            )
        self._count += 1
        return self._blank()

    def _say(self) -> None:
        """Write how many batches there were, and whether there may be more."""
        if jax.process_count() > 1:
            client = ocp.multihost.get_jax_distributed_client()
            word = f"{self._count} {'ended' if self._ended else 'more'}"
            key = f"{FOLDER}{jax.process_index()}"
            client.key_value_set(key, word, allow_overwrite=True)

    def _another(self) -> bool:
        """Whether another process has a batch at this place, once that is known."""
        if jax.process_count() == 1:
            return False
        client = ocp.multihost.get_jax_distributed_client()
        while True:
            found = [value.split() for _, value in client.key_value_dir_get(FOLDER)]
            if any(int(count) > self._count for count, _ in found):
                return True
            if all(more == "ended" for _, more in found):
                return False
            time.sleep(POLL_SECONDS)

    def get_state(self) -> Any:
        return self._iterator.get_state()

    def set_state(self, state: Any) -> None:
        """Continue at a state; all processes do."""
        self._iterator.set_state(state)
        self._begin()

    def set_states(self, states: Sequence[Any]) -> None:
        """As `checkpoint.set_states`, in all processes."""
        checkpoint.set_states(self._iterator, states)
        self._begin()
