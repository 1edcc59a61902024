"""A function of every shard of a side of frames, with halos of its neighbours."""

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec as P

from soraflax import sharding


def map_side(
    function: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    *,
    kernel: jax.Array,
    axis: int,
    halo: tuple[int, int],
) -> jax.Array:
    """`function(x, kernel)` on every shard of a side, with halos of its neighbours.

    Args:
      function: maps a shard of `x` with its halo, and the whole kernel, to the shard of
        the result.
      x: array sharded along `axis` over `sharding.SIDE_AXIS`.
      kernel: any array, replicated.
      axis: the sharded axis of `x` and of the result.
      halo: entries from the shard before and from the shard after; zeros at the ends.
    """
    spec = P(*(sharding.SIDE_AXIS if i == axis else None for i in range(x.ndim)))

    def local(x: jax.Array, kernel: jax.Array) -> jax.Array:
        kernel = jax.lax.pcast(kernel, sharding.SIDE_AXIS, to="varying")
        return function(_with_halo(x, axis=axis, halo=halo), kernel)

    mapped = jax.shard_map(
        local, in_specs=(spec, P()), out_specs=spec, axis_names={sharding.SIDE_AXIS}
    )
    return mapped(x, kernel)


def _with_halo(x: jax.Array, *, axis: int, halo: tuple[int, int]) -> jax.Array:
    count = jax.lax.axis_size(sharding.SIDE_AXIS)
    before, after = halo
    parts = [x]
    # Pairs are (source, target). The first and the last shard are no target of theirs,
    # and `ppermute` gives them zeros, as padding does.
    if before:
        edge = jax.lax.slice_in_dim(x, x.shape[axis] - before, None, axis=axis)
        forward = [(shard, shard + 1) for shard in range(count - 1)]
        parts.insert(0, jax.lax.ppermute(edge, sharding.SIDE_AXIS, forward))
    if after:
        edge = jax.lax.slice_in_dim(x, 0, after, axis=axis)
        backward = [(shard + 1, shard) for shard in range(count - 1)]
        parts.append(jax.lax.ppermute(edge, sharding.SIDE_AXIS, backward))
    return jax.numpy.concatenate(parts, axis=axis)
