"""Which blocks of queries and keys touch, found once per step from segment ids.

A row is cut into blocks of tokens. Segments are contiguous, so the ids inside a block
span an interval [min, max] (padding aside), and a block of queries needs the blocks of
keys whose interval meets its own:

    visited[i, j] = min_i <= max_j  and  min_j <= max_i.                          (1)

For every block of queries those are a run of neighbours `[start, stop)`, and likewise
for every block of keys: two integers per block say all there is to visit, however long
the row. Ids that do not increase along a row are still correct (runs then also cover
blocks that equation (1) does not name; the token mask has the last word).

Where several devices hold a row (layout.py), blocks lie inside shards and there are
runs for every pair of shards. Ids need to increase within a shard only: a row whose
blocks were dealt out over shards (`packing.stripe`) has runs as short as before.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from soraflax.ops.attention import context_parallel

DEFAULT_BLOCK = 128


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["start", "stop"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Runs:
    """For each block of one side, the run `[start, stop)` it visits of the other.

    Both are `[B, query shards, key shards, blocks]` int32, blocks being those of the
    shard on the one side, counted in the shard on the other.

    Attributes:
      start: the first block to visit.
      stop: past the last one; equal to `start` where there is nothing to visit.
    """

    start: Any
    stop: Any


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["query_segments", "key_segments", "keys_of", "queries_of"],
    meta_fields=["query_block", "key_block", "key_axis"],
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
      key_axis: logical axis of the keys.
    """

    query_segments: Any
    key_segments: Any
    keys_of: Any
    queries_of: Any
    query_block: int
    key_block: int
    key_axis: str

    @property
    def mask(self) -> Bool[Array, "B N M"]:
        """Query n may attend to key m: same segment, and neither is padding."""
        query, key = self.query_segments[:, :, None], self.key_segments[:, None, :]
        return (query == key) & (query > 0)

    @property
    def shards(self) -> tuple[int, int]:
        """Into how many shards queries and keys are cut along a row."""
        return self.keys_of.start.shape[1:3]

    @property
    def work(self) -> Int[Array, "B Q K"]:
        """Block pairs that each pair of shards visits; cost is proportional to it."""
        return jnp.sum(self.keys_of.stop - self.keys_of.start, axis=-1)

    @property
    def visited(self) -> Int[Array, "B"]:
        """Block pairs that each row visits."""
        return jnp.sum(self.work, axis=(1, 2))

    def pair(self, query: int | jax.Array, key: int | jax.Array) -> "AttentionPlan":
        """The plan of one shard of queries and one of keys; whole rows to themselves.

        Args:
          query: which shard of the queries; may be traced.
          key: which shard of the keys; may be traced.
        """

        def runs(runs: Runs) -> Runs:
            return jax.tree.map(
                lambda x: _shard(_shard(x, query, axis=1), key, axis=2), runs
            )

        queries, keys = self.shards
        return AttentionPlan(
            query_segments=_piece(self.query_segments, queries, index=query),
            key_segments=_piece(self.key_segments, keys, index=key),
            keys_of=runs(self.keys_of),
            queries_of=runs(self.queries_of),
            query_block=self.query_block,
            key_block=self.key_block,
            key_axis=self.key_axis,
        )


def make_plan(
    query_segments: Int[Array | np.ndarray, "B N"],
    key_segments: Int[Array | np.ndarray, "B M"],
    *,
    block: int = DEFAULT_BLOCK,
    heads: int | None = None,
    key_axis: str = "tokens",
) -> AttentionPlan:
    """Plan attention from `query_segments` to `key_segments` (which may be traced).

    Args:
      query_segments: `[B, N]`, equal ids contiguous, 0 where padded.
      key_segments: `[B, M]`, likewise.
      block: tokens in a block of either side, cut to the shard where that is shorter. A
        shard that is not a multiple of it is padded inside.
      heads: of the layers that will read the plan; needed only where the mesh axis that
        shards tokens does not divide them.
      key_axis: logical axis of the keys: 'tokens', or 'text' for cross-attention.

    Raises:
      ValueError: the block is not positive, shards do not divide a row, or heads do not
        divide over the tensor axis.
    """
    if block < 1:
        raise ValueError(f"attention block {block} must be positive: use 128")
    query_segments = jnp.asarray(query_segments, jnp.int32)
    key_segments = jnp.asarray(key_segments, jnp.int32)
    cut = context_parallel.make_layout(heads=heads, key_axis=key_axis)
    query_block = min(
        block, _shard_length("queries", query_segments, shards=cut.queries)
    )
    key_block = min(block, _shard_length("keys", key_segments, shards=cut.keys))
    query_low, query_high = _intervals(query_segments, cut.queries, block=query_block)
    key_low, key_high = _intervals(key_segments, cut.keys, block=key_block)
    low, high = query_low[:, :, None, :, None], query_high[:, :, None, :, None]
    touch = (low <= key_high[:, None, :, None, :]) & (
        key_low[:, None, :, None, :] <= high
    )
    return AttentionPlan(
        query_segments=query_segments,
        key_segments=key_segments,
        keys_of=_runs(touch),
        queries_of=_runs(jnp.einsum("bqknm->bqkmn", touch)),
        query_block=query_block,
        key_block=key_block,
        key_axis=key_axis,
    )


def coarsen(plan: AttentionPlan, *, queries: int, keys: int) -> AttentionPlan:
    """The same plan in blocks `queries` and `keys` times as large.

    What is visited covers what was, and may cover more.
    """
    return dataclasses.replace(
        plan,
        keys_of=_coarse_runs(plan.keys_of, queries, other=keys),
        queries_of=_coarse_runs(plan.queries_of, keys, other=queries),
        query_block=queries * plan.query_block,
        key_block=keys * plan.key_block,
    )


def _coarse_runs(runs: Runs, own: int, *, other: int) -> Runs:
    """Runs of `own` blocks at a time, counted in `other` blocks at a time."""
    short = -runs.start.shape[-1] % own
    large = jnp.iinfo(jnp.int32).max

    def group(x: jax.Array, fill: int) -> jax.Array:
        x = jnp.where(runs.start < runs.stop, x, fill)
        x = jnp.pad(x, [(0, 0)] * 3 + [(0, short)], constant_values=fill)
        return x.reshape(*x.shape[:-1], -1, own)

    stop = -(-jnp.max(group(runs.stop, 0), axis=-1) // other)
    start = jnp.min(group(runs.start, large), axis=-1) // other
    return Runs(start=jnp.minimum(start, stop), stop=stop)


def to_blocks(segments: Int[Array, "B N"], block: int) -> Int[Array, "B blocks block"]:
    """Cut rows into blocks; the last one is filled with 0, which is padding."""
    short = -segments.shape[1] % block
    segments = jnp.pad(segments, ((0, 0), (0, short)))
    return segments.reshape(segments.shape[0], -1, block)


def _shard_length(side: str, segments: jax.Array, *, shards: int) -> int:
    length = segments.shape[1]
    if length % shards:
        nearest = max(shards, round(length / shards) * shards)
        raise ValueError(
            f"a row of {length} {side} does not divide over {shards} shards; nearest "
            f"that does: {nearest}"
        )
    return length // shards


def _intervals(
    segments: jax.Array, shards: int, *, block: int
) -> tuple[jax.Array, jax.Array]:
    """`[B, shards, blocks]`: least and greatest id; (large, 0) of an empty block."""
    rows = segments.shape[0]
    blocks = to_blocks(segments.reshape(rows * shards, -1), block)
    large = jnp.iinfo(jnp.int32).max
    low = jnp.min(jnp.where(blocks > 0, blocks, large), axis=-1)
    high = jnp.max(blocks, axis=-1)
    return low.reshape(rows, shards, -1), high.reshape(rows, shards, -1)


def _runs(touch: jax.Array) -> Runs:
    """From the first to past the last neighbour that each block touches."""
    count = touch.shape[-1]
    place = jnp.arange(count, dtype=jnp.int32)
    start = jnp.min(jnp.where(touch, place, count), axis=-1)
    stop = jnp.max(jnp.where(touch, place + 1, 0), axis=-1)
    return Runs(start=jnp.minimum(start, stop), stop=stop)


def _shard(x: jax.Array, index: int | jax.Array, *, axis: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, index, 1, axis)


def _piece(segments: jax.Array, shards: int, *, index: int | jax.Array) -> jax.Array:
    pieces = segments.reshape(segments.shape[0], shards, -1)
    return _shard(pieces, index, axis=1)[:, 0]
