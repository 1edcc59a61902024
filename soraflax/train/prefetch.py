"""Batches copied to the devices while the step before them runs.

`DevicePrefetch` reads ahead of the loop, but its state is that of the last batch handed
out, so a run that resumes there sees every batch once.
"""

import collections
import copy
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from soraflax import sharding
from soraflax.train import checkpoint


class DevicePrefetch:
    """Pairs `(batch, batch on the mesh)`; itself a `checkpoint.DataIterator`."""

    def __init__(
        self, iterator: checkpoint.DataIterator, mesh: Mesh, *, size: int = 2
    ) -> None:
        """Read `iterator`, which nothing else may advance from here on.

        Args:
          iterator: this process's batches, numpy arrays `[B, ...]`.
          mesh: mesh that they are copied to.
          size: batches in flight, the one being handed out included; 2 hides the
            reading and the copy behind the step.
        """
        self._iterator = iterator
        self._mesh = mesh
        self._size = max(1, size)
        self._ready: collections.deque[tuple[Any, Any, Any]] = collections.deque()
        self._state: Any = None

    def __next__(self) -> tuple[Any, Any]:
        """The next pair; errors as in `put_batch`."""
        while len(self._ready) < self._size:
            try:
                batch = next(self._iterator)
            except StopIteration:
                break
            state = copy.deepcopy(self._iterator.get_state())
            self._ready.append((batch, put_batch(batch, self._mesh), state))
        if not self._ready:
            raise StopIteration
        batch, on_device, self._state = self._ready.popleft()
        return batch, on_device

    def get_state(self) -> Any:
        """Position of the data after the last batch that was handed out."""
        return self._iterator.get_state() if self._state is None else self._state

    def set_state(self, state: Any) -> None:
        self._ready.clear()
        self._iterator.set_state(state)
        self._state = state

    def set_states(self, states: Sequence[Any]) -> None:
        """As `checkpoint.set_states` of the data."""
        self._ready.clear()
        checkpoint.set_states(self._iterator, states)
        self._state = None


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """This process's rows of a batch, as arrays over the whole mesh.

    Processes of one entry of `sharding.batch_shard_processes` pass the same rows.

    Raises:
      ValueError: the rows of all processes do not divide over the mesh's batch axes.
    """
    batch_sharding = sharding.batch_sharding(mesh)
    shards = len(sharding.batch_shard_processes(mesh))

    def put(x: Any) -> jax.Array:
        rows = x.shape[0] * shards
        shape = (rows, *x.shape[1:])
        sharding.check_divides(shape, batch_sharding.spec, mesh=mesh, what="batch")
        return jax.make_array_from_process_local_data(
            batch_sharding, np.asarray(x), shape
        )

    return jax.tree.map(put, batch)
