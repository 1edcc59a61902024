"""Attention over a mesh: every device holds some rows, some heads, perhaps some tokens.

Rows and heads do not interact in attention, so each device works on its own. The
compiler cannot partition a loop over blocks by itself; `shard_map` does it here. Tokens
do interact, and context parallelism is the two ways of it (context_layout.py chooses):

    Ulysses   an all-to-all gives a device all tokens of some heads; attention runs as
              on one device; a second all-to-all gives it its tokens back.
    ring      keys and values go round the devices; each adds what its own queries
              make of them (ring.py).
"""

import functools
from typing import Any

import jax
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from soraflax import sharding
from soraflax.ops.attention import context_layout
from soraflax.ops.attention import kernel as kernels
from soraflax.ops.attention import plan as planning
from soraflax.ops.attention import ring as rings


def sharded_attention(
    q: Float[Array, "B N H K"],
    k: Float[Array, "B M H K"],
    v: Float[Array, "B M H K"],
    *,
    plan: planning.AttentionPlan,
    kernel: kernels.Kernel,
    scale: float,
) -> Float[Array, "B N H K"]:
    """Attention by `kernel` on every device of the mesh.

    Without a mesh (`jax.set_mesh`), or inside another `shard_map`, just the kernel.

    Args:
      q: queries.
      k: keys.
      v: values.
      plan: from `make_plan` under the same mesh.
      kernel: what runs on a device.
      scale: factor of the scores.

    Raises:
      ValueError: rows or heads do not divide over their mesh axes, or the plan was made
        for another number of shards.
    """
    mesh = sharding.auto_mesh()
    layout = context_layout.context_layout(heads=q.shape[2], key_axis=plan.key_axis)
    if plan.shards != (layout.query_shards, layout.key_shards):
        raise ValueError(
            f"a plan of {plan.shards} shards of queries and keys, but {q.shape[2]} "
            f"heads need {(layout.query_shards, layout.key_shards)} here: "
            f"use make_plan(..., heads={q.shape[2]}) under the same mesh"
        )
    if mesh is None:
        return kernels.attend(q, k, v, plan, kernel, scale)
    batch, tokens, heads = map(sharding.mesh_axes, ("batch", "tokens", "heads"))
    if layout.query_shards == 1:
        # All Ulysses: heads over both axes. The compiler inserts the all-to-alls.
        query = key = P(batch, None, (*tokens, *heads), None)
    else:
        query = P(batch, tokens, heads, None)
        key = P(batch, tokens if layout.key_shards > 1 else None, heads, None)
    sharding.check_divides(q.shape, query, mesh=mesh, what="attention [B, N, H, K]")
    local = functools.partial(_local, kernel=kernel, scale=scale, layout=layout)
    return jax.shard_map(
        local,
        in_specs=(query, key, key, jax.tree.map(lambda _: P(batch), plan)),
        out_specs=query,
        check_vma=False,
    )(q, k, v, plan)


def _local(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    plan: planning.AttentionPlan,
    *,
    kernel: kernels.Kernel,
    scale: float,
    layout: context_layout.ContextLayout,
) -> jax.Array:
    """The work of one device, inside `shard_map`."""
    if layout.query_shards == 1:
        return kernels.attend(q, k, v, plan, kernel, scale)
    (axis,) = sharding.mesh_axes("tokens")
    if layout.key_shards == 1:
        plan = plan.pair(lax.axis_index(axis), 0)
        return kernels.attend(q, k, v, plan, kernel, scale)
    ring = rings.Ring(axis, groups=layout.query_shards, width=layout.head_shards)
    # Within a group: from some tokens of all heads to all tokens of some heads.
    q, k, v = (_all_to_all(x, ring, split=2, concat=1) for x in (q, k, v))
    out: Any = rings.ring_attention(q, k, v, plan, kernel, scale, ring)
    return _all_to_all(out, ring, split=1, concat=2)


def _all_to_all(
    x: jax.Array, ring: rings.Ring, *, split: int, concat: int
) -> jax.Array:
    """Ulysses within each group of the ring: `split` is cut, `concat` made whole."""
    if ring.width == 1:
        return x
    groups = [
        list(range(ring.width * group, ring.width * (group + 1)))
        for group in range(ring.groups)
    ]
    return lax.all_to_all(
        x, ring.axis, split, concat, axis_index_groups=groups, tiled=True
    )
