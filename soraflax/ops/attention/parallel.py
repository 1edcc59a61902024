"""Attention where every device holds some rows, some heads and perhaps some tokens.

Rows and heads never meet in attention, so each device works on its own. The compiler
cannot cut a loop over blocks by itself; `shard_map` tells it where. Tokens do meet:
layout.py says how the mesh axis that shards them is spent on heads and on a ring.
"""

import functools

import jax
from jax import lax
from jax.sharding import PartitionSpec as P

from soraflax import sharding
from soraflax.ops.attention import context_parallel as layouts
from soraflax.ops.attention import kernel as kernels
from soraflax.ops.attention import plan as planning
from soraflax.ops.attention import ring as rings


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    plan: planning.AttentionPlan,
    kernel: kernels.Kernel,
    scale: float,
) -> jax.Array:
    """Attention by `kernel` on what each device holds.

    Without a mesh (`jax.set_mesh`), or inside another `shard_map`, just the kernel.

    Raises:
      ValueError: rows or heads do not divide over their mesh axes, or the plan was made
        for another number of shards.
    """
    mesh = layouts.active_mesh()
    layout = layouts.make_layout(heads=q.shape[2], key_axis=plan.key_axis)
    if plan.shards != (layout.queries, layout.keys):
        raise ValueError(
            f"a plan of {plan.shards} shards of queries and keys, but {q.shape[2]} "
            f"heads need {(layout.queries, layout.keys)} here: "
            f"use make_plan(..., heads={q.shape[2]}) under the same mesh"
        )
    if mesh is None:
        return kernels.attend(q, k, v, plan, kernel, scale)
    batch, tokens, heads = map(layouts.mesh_axes, ("batch", "tokens", "heads"))
    if layout.queries == 1:
        # The compiler moves tokens to heads and back, by all-to-all.
        query = key = P(batch, None, (*tokens, *heads), None)
    else:
        query = P(batch, tokens, heads, None)
        key = P(batch, tokens if layout.keys > 1 else None, heads, None)
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
    layout: layouts.Layout,
) -> jax.Array:
    """What one device does."""
    if layout.queries == 1:
        return kernels.attend(q, k, v, plan, kernel, scale)
    (axis,) = layouts.mesh_axes("tokens")
    if layout.keys == 1:
        plan = plan.pair(lax.axis_index(axis), 0)
        return kernels.attend(q, k, v, plan, kernel, scale)
    ring = rings.Ring(axis, groups=layout.queries, width=layout.heads)
    q, k, v = (_to_heads(x, ring) for x in (q, k, v))
    return _to_tokens(rings.attend(q, k, v, plan, kernel, scale, ring), ring)


def _to_heads(x: jax.Array, ring: rings.Ring) -> jax.Array:
    """Within a group: all of its tokens, some of the heads."""
    return _trade(x, ring, split=2, concat=1)


def _to_tokens(x: jax.Array, ring: rings.Ring) -> jax.Array:
    """The inverse of `_to_heads`."""
    return _trade(x, ring, split=1, concat=2)


def _trade(x: jax.Array, ring: rings.Ring, *, split: int, concat: int) -> jax.Array:
    if ring.width == 1:
        return x
    groups = [
        list(range(ring.width * group, ring.width * (group + 1)))
        for group in range(ring.groups)
    ]
    return lax.all_to_all(
        x, ring.axis, split, concat, axis_index_groups=groups, tiled=True
    )
