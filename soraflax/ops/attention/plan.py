"""Which blocks of queries and keys touch, found once per step from segment ids.

A row is cut into blocks of tokens. Segments are contiguous, so the ids inside a block
span an interval [min, max] (padding aside), and a block of queries needs the blocks of
keys whose interval meets its own:

    visited[i, j] = min_i <= max_j  and  min_j <= max_i.                          (1)

For every block of queries those are a run of neighbours `[start, stop)`, and likewise
for every block of keys: two integers per block say all there is to visit, however long
the row. Ids that do not increase along a row are still correct (runs then also cover
blocks that equation (1) does not name; the token mask has the last word).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

DEFAULT_BLOCK = 128


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["start", "stop"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Runs:
    """For each block of one side, the run `[start, stop)` it visits of the other.

    Attributes:
      start: `[B, blocks]` int32.
      stop: `[B, blocks]` int32; equal to `start` where there is nothing to visit.
    """

    start: Any
    stop: Any


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["query_segments", "key_segments", "keys_of", "queries_of"],
    meta_fields=["query_block", "key_block"],
)
@dataclasses.dataclass(frozen=True)
class AttentionPlan:
    """What attention needs to know about a batch of packed rows.

    Built once per step, outside the layers; every layer reads it.

    Attributes:
      query_segments: `[B, N]` int32, 0 where padded.
      key_segments: `[B, M]` int32, 0 where padded.
      keys_of: `Runs`; for every block of queries, the run of key blocks it visits.
      queries_of: `Runs`; for every block of keys, the query blocks that visit it.
      query_block: tokens in a block of queries.
      key_block: tokens in a block of keys.
    """

    query_segments: Any
    key_segments: Any
    keys_of: Any
    queries_of: Any
    query_block: int
    key_block: int

    @property
    def mask(self) -> Bool[Array, "B N M"]:
        """Query n may attend to key m: same segment, and neither is padding."""
        query, key = self.query_segments[:, :, None], self.key_segments[:, None, :]
        return (query == key) & (query > 0)

    @property
    def visited(self) -> Int[Array, "B"]:
        """Block pairs each row visits; forward cost is proportional to it."""
        return jnp.sum(self.keys_of.stop - self.keys_of.start, axis=-1)


def make_plan(
    query_segments: Int[Array | np.ndarray, "B N"],
    key_segments: Int[Array | np.ndarray, "B M"],
    *,
    block: int = DEFAULT_BLOCK,
) -> AttentionPlan:
    """Plan attention from `query_segments` to `key_segments` (which may be traced).

    Args:
      query_segments: `[B, N]`, equal ids contiguous, 0 where padded.
      key_segments: `[B, M]`, likewise.
      block: tokens in a block of either side, cut to the row where that is shorter. A
        row that is not a multiple of it is padded inside.

    Raises:
      ValueError: the block is not positive.
    """
    if block < 1:
        raise ValueError(f"attention block {block} must be positive: use 128")
    query_segments = jnp.asarray(query_segments, jnp.int32)
    key_segments = jnp.asarray(key_segments, jnp.int32)
    query_block = min(block, query_segments.shape[1])
    key_block = min(block, key_segments.shape[1])
    query_low, query_high = _intervals(query_segments, query_block)
    key_low, key_high = _intervals(key_segments, key_block)
    touch = (query_low[:, :, None] <= key_high[:, None, :]) & (
        key_low[:, None, :] <= query_high[:, :, None]
    )
    return AttentionPlan(
        query_segments=query_segments,
        key_segments=key_segments,
        keys_of=_runs(touch),
        queries_of=_runs(touch.transpose(0, 2, 1)),
        query_block=query_block,
        key_block=key_block,
    )


def _intervals(segments: jax.Array, block: int) -> tuple[jax.Array, jax.Array]:
    """Least and greatest id of each block; (large, 0) where it holds none."""
    blocks = to_blocks(segments, block)
    large = jnp.iinfo(jnp.int32).max
    low = jnp.min(jnp.where(blocks > 0, blocks, large), axis=-1)
    return low, jnp.max(blocks, axis=-1)


def _runs(touch: jax.Array) -> Runs:
    """From the first to past the last neighbour that each block touches."""
    count = touch.shape[-1]
    place = jnp.arange(count, dtype=jnp.int32)
    start = jnp.min(jnp.where(touch, place, count), axis=-1)
    stop = jnp.max(jnp.where(touch, place + 1, 0), axis=-1)
    return Runs(start=jnp.minimum(start, stop), stop=stop)


def to_blocks(segments: Int[Array, "B N"], block: int) -> Int[Array, "B blocks block"]:
    """Cut rows into blocks; the last one is filled with 0, which is padding."""
    short = -segments.shape[1] % block
    segments = jnp.pad(segments, ((0, 0), (0, short)))
    return segments.reshape(segments.shape[0], -1, block)
