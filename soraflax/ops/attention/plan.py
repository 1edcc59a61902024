"""Which blocks of queries and keys touch, computed once per step from segment ids.

A row is cut into blocks of tokens. Segments are contiguous, so the ids inside a block
span an interval [min, max] (padding aside), and a block of queries needs the blocks of
keys whose interval meets its own:

    visited[i, j] = min_i <= max_j  and  min_j <= max_i.                          (1)

For every block of queries those are a run of neighbours `[start, stop)`, and likewise
for every block of keys: two integers per block define all visits, however long the row.
Ids that do not increase along a row are still correct: runs then also cover blocks that
equation (1) does not name, whose tokens the mask of each kernel excludes.

Where several devices hold a row (context_layout.py), blocks lie inside shards and there
are runs for every pair of shards. Ids need to increase within a shard only: a striped
row (`packing.stripe`) has runs as short as before.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from soraflax.ops.attention import context_layout

DEFAULT_BLOCK = 128


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["start", "stop"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Runs:
    """For each block of one side, the run `[start, stop)` it visits of the other.

    Both are `[B, query shards, key shards, blocks]` int32: an entry for every block of
    one side's shard, which counts blocks of the other side's shard.

    Attributes:
      start: first block to visit.
      stop: end of the run, exclusive; equal to `start` in an empty run.
    """

    start: Any
    stop: Any


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["query_segments", "key_segments", "keys_of", "queries_of"],
    meta_fields=["query_block", "key_block", "key_axis", "causal"],
)
@dataclasses.dataclass(frozen=True)
class AttentionPlan:
    """The segments of a batch of packed rows, and which of their blocks touch.

    Built once per step, outside the layers; every layer reads it.

    Attributes:
      query_segments: `[B, N]` int32, 0 where padded.
      key_segments: `[B, M]` int32, 0 where padded.
      keys_of: `Runs`: for every block of queries, the run of key blocks it visits.
      queries_of: `Runs`: for every block of keys, the run of query blocks that visit
        it.
      query_block: tokens in a block of queries.
      key_block: tokens in a block of keys.
      key_axis: logical axis of the keys.
      causal: query n sees no key m > n; both sides are then the same row.
    """

    query_segments: Any
    key_segments: Any
    keys_of: Any
    queries_of: Any
    query_block: int
    key_block: int
    key_axis: str
    causal: bool = False

    @property
    def mask(self) -> Bool[Array, "B N M"]:
        """Query n may attend to key m: same segment, and neither is padding.

        In a causal plan m is not after n either.
        """
        query, key = self.query_segments[:, :, None], self.key_segments[:, None, :]
        mask = (query == key) & (query > 0)
        return mask & jnp.tri(*mask.shape[1:], dtype=bool) if self.causal else mask

    @property
    def shards(self) -> tuple[int, int]:
        """Shards of the queries and of the keys of a row."""
        return self.keys_of.start.shape[1:3]

    @property
    def visited_by_shard(self) -> Int[Array, "B Q K"]:
        """Block pairs that each pair of shards visits; cost is proportional to it."""
        return jnp.sum(self.keys_of.stop - self.keys_of.start, axis=-1)

    @property
    def visited(self) -> Int[Array, "B"]:
        """Block pairs that each row visits."""
        return jnp.sum(self.visited_by_shard, axis=(1, 2))

    def pair(
        self, query: int | Int[Array, ""], key: int | Int[Array, ""]
    ) -> "AttentionPlan":
        """The plan of one shard of queries and one of keys, as rows that are not cut.

        Args:
          query: index of the shard of queries; may be traced.
          key: index of the shard of keys; may be traced.
        """

        def pair_runs(runs: Runs) -> Runs:
            return jax.tree.map(
                lambda x: _shard(_shard(x, query, axis=1), key, axis=2), runs
            )

        queries, keys = self.shards
        return dataclasses.replace(
            self,
            query_segments=_shard_ids(self.query_segments, queries, index=query),
            key_segments=_shard_ids(self.key_segments, keys, index=key),
            keys_of=pair_runs(self.keys_of),
            queries_of=pair_runs(self.queries_of),
        )


def make_plan(
    query_segments: Int[Array | np.ndarray, "B N"],
    key_segments: Int[Array | np.ndarray, "B M"],
    *,
    block: int = DEFAULT_BLOCK,
    heads: int | None = None,
    key_axis: str = "tokens",
    causal: bool = False,
) -> AttentionPlan:
    """Plan attention from `query_segments` to `key_segments` (which may be traced).

    Args:
      query_segments: `[B, N]`, equal ids contiguous, 0 where padded.
      key_segments: `[B, M]`, likewise.
      block: tokens in a block of either side, at most a shard. Kernels pad a shard that
        is not a multiple of it.
      heads: number of heads of the layers that read the plan; needed only where the
        mesh axis that shards tokens does not divide it.
      key_axis: logical axis of the keys: 'tokens', or 'text' for cross-attention.
      causal: a token attends to none after it in its row, which is that of the keys.

    Raises:
      ValueError: the block is not positive, shards do not divide a row, heads do not
        divide over the tensor axis, or a causal row is cut into shards.
    """
    if block < 1:
        raise ValueError(f"attention block {block} must be positive: use 128")
    query_segments = jnp.asarray(query_segments, jnp.int32)
    key_segments = jnp.asarray(key_segments, jnp.int32)
    layout = context_layout.context_layout(heads=heads, key_axis=key_axis)
    queries, keys = layout.query_shards, layout.key_shards
    query_block = min(block, _shard_length("queries", query_segments, shards=queries))
    key_block = min(block, _shard_length("keys", key_segments, shards=keys))
    query_low, query_high = _intervals(query_segments, queries, block=query_block)
    key_low, key_high = _intervals(key_segments, keys, block=key_block)
    # Equation (1) for all pairs: [B, query shards, key shards, query and key blocks].
    low, high = query_low[:, :, None, :, None], query_high[:, :, None, :, None]
    touch = (low <= key_high[:, None, :, None, :]) & (
        key_low[:, None, :, None, :] <= high
    )
    if causal:
        _check_causal(query_segments, key_segments, shards=(queries, keys))
        last = query_block * (jnp.arange(touch.shape[-2]) + 1) - 1
        first = key_block * jnp.arange(touch.shape[-1])
        touch = touch & (first <= last[:, None])
    return AttentionPlan(
        query_segments=query_segments,
        key_segments=key_segments,
        keys_of=_runs(touch),
        queries_of=_runs(jnp.einsum("bqknm->bqkmn", touch)),
        query_block=query_block,
        key_block=key_block,
        key_axis=key_axis,
        causal=causal,
    )


def _check_causal(
    queries: jax.Array, keys: jax.Array, *, shards: tuple[int, int]
) -> None:
    if queries.shape != keys.shape or shards != (1, 1):
        raise ValueError(
            f"causal attention of {queries.shape} queries to {keys.shape} keys in "
            f"{shards} shards: use one row for both, on one device each"
        )


def coarsen(plan: AttentionPlan, *, queries: int, keys: int) -> AttentionPlan:
    """The same plan in blocks `queries` and `keys` times as large.

    The visits of the result cover those of `plan`, and may cover more.
    """
    return dataclasses.replace(
        plan,
        keys_of=_coarse_runs(plan.keys_of, queries, other=keys),
        queries_of=_coarse_runs(plan.queries_of, keys, other=queries),
        query_block=queries * plan.query_block,
        key_block=keys * plan.key_block,
    )


def _coarse_runs(runs: Runs, own: int, *, other: int) -> Runs:
    """Runs of groups of `own` blocks, counted in groups of `other` blocks."""
    short = -runs.start.shape[-1] % own
    large = jnp.iinfo(jnp.int32).max

    def group(x: jax.Array, fill: int) -> jax.Array:
        # Empty runs and the blocks that complete the last group: `fill`, which neither
        # a minimum of starts nor a maximum of stops notices.
        x = jnp.where(runs.start < runs.stop, x, fill)
        x = jnp.pad(x, [(0, 0)] * 3 + [(0, short)], constant_values=fill)
        return x.reshape(*x.shape[:-1], -1, own)

    # Starts are rounded down, stops up: a group is visited if a block in it is.
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
    """Least and greatest id of each block, both `[B, shards, blocks]`.

    An empty block has (large, 0): by equation (1) it touches no block.
    """
    rows = segments.shape[0]
    blocks = to_blocks(segments.reshape(rows * shards, -1), block)
    large = jnp.iinfo(jnp.int32).max
    low = jnp.min(jnp.where(blocks > 0, blocks, large), axis=-1)
    high = jnp.max(blocks, axis=-1)
    return low.reshape(rows, shards, -1), high.reshape(rows, shards, -1)


def _runs(touch: jax.Array) -> Runs:
    """The run from the first to the last block that each block touches."""
    count = touch.shape[-1]
    index = jnp.arange(count, dtype=jnp.int32)
    start = jnp.min(jnp.where(touch, index, count), axis=-1)
    stop = jnp.max(jnp.where(touch, index + 1, 0), axis=-1)
    return Runs(start=jnp.minimum(start, stop), stop=stop)


def _shard(x: jax.Array, index: int | jax.Array, *, axis: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, index, 1, axis)


def _shard_ids(
    segments: jax.Array, shards: int, *, index: int | jax.Array
) -> jax.Array:
    by_shard = segments.reshape(segments.shape[0], shards, -1)
    return _shard(by_shard, index, axis=1)[:, 0]
