"""Attention where every device holds some rows and some heads.

Rows and heads never meet in attention, so each device works on its own. The compiler
cannot cut a loop over blocks by itself; `shard_map` tells it where. A mesh axis that
shards tokens elsewhere (`context`) takes heads here while they divide: the compiler
then moves tokens to heads and back by all-to-all (Ulysses, arXiv:2309.14509).
"""

import math
from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec as P

from soraflax import sharding
from soraflax.ops.attention import plan as planning

Local = Callable[[jax.Array, jax.Array, jax.Array, planning.AttentionPlan], jax.Array]


def over_rows_and_heads(
    local: Local,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    plan: planning.AttentionPlan,
) -> jax.Array:
    """`local(q, k, v, plan)` on each device's rows and heads.

    Without a mesh (`jax.set_mesh`), or inside another `shard_map`, just the call.

    Raises:
      ValueError: rows or heads do not divide over their mesh axes.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or mesh.manual_axes:
        return local(q, k, v, plan)
    tokens, heads = (
        sharding.DEFAULT_RULES.spec((name,))[0] or () for name in ("tokens", "heads")
    )
    tokens, heads = ((a,) if isinstance(a, str) else a for a in (tokens, heads))
    shards = math.prod(mesh.shape[axis] for axis in (*tokens, *heads))
    if q.shape[2] % shards == 0:
        heads = (*tokens, *heads)
    rows = sharding.DEFAULT_RULES.spec(("batch",))
    spec = P(rows[0], None, heads, None)
    sharding.check_divides(q.shape, spec, mesh, what="attention [B, N, H, K]")
    return jax.shard_map(
        local,
        in_specs=(spec, spec, spec, jax.tree.map(lambda _: rows, plan)),
        out_specs=spec,
        check_vma=False,
    )(q, k, v, plan)
