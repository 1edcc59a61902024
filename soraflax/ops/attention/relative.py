"""Attention with a bias of relative positions (arXiv:1910.10683, section 2.1), in rows.

    s = scale q k^T + b[j - i],   p = softmax(s where mask),   out = p v          (1)

b is a line of R = N + M - 1 numbers for every head: `bias[h, j - i + N - 1]` is that of
key j for query i, whatever the row. No matrix `[H, N, M]` is made of it but by the
reference: pairs of blocks at one distance share a tile, so 2 C - 1 tiles serve a row of
C blocks, and cost follows the visited pairs of block_sparse.py. With ds of equation (5)
there, not yet scaled, the gradient is

    db[r] = sum of ds[i, j] over rows and j - i = r.                              (2)
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from soraflax import sharding
from soraflax.ops.attention import block_sparse, reference
from soraflax.ops.attention import kernel as kernels
from soraflax.ops.attention import plan as planning


def check(plan: planning.AttentionPlan) -> None:
    """Refuse a plan that is not of rows to themselves, whole on a device.

    Raises:
      ValueError: naming what differs.
    """
    sizes = plan.query_block, plan.key_block
    lengths = plan.query_segments.shape[1], plan.key_segments.shape[1]
    if len(set(sizes)) > 1 or len(set(lengths)) > 1 or plan.shards != (1, 1):
        raise ValueError(
            f"attention 'blocks' with a bias of {lengths[0]} queries to {lengths[1]} "
            f"keys in blocks of {sizes[0]} and {sizes[1]} on {plan.shards} shards: "
            "give a row to itself, on one shard, or use 'reference'"
        )


def attend(
    q: Float[Array, "B N H K"],
    k: Float[Array, "B N H K"],
    v: Float[Array, "B N H K"],
    *,
    bias: Float[Array, "H R"],
    plan: planning.AttentionPlan,
    scale: float,
) -> Float[Array, "B N H K"]:
    """Equation (1) over visited pairs of blocks; rows and heads over the mesh."""
    block, count = plan.query_block, plan.keys_of.start.shape[-1]
    # Up to whole blocks of either side; what is beyond the row is masked.
    short = block * count - q.shape[1]
    line = jnp.pad(bias.astype(jnp.float32), ((0, 0), (short, short)))
    mesh = sharding.auto_mesh()
    local = functools.partial(_local, scale=scale)
    if mesh is None:
        return local(q, k, v, line, plan)
    batch, heads = map(sharding.mesh_axes, ("batch", "heads"))
    spec = P(batch, None, heads, None)
    sharding.check_divides(q.shape, spec, mesh=mesh, what="attention [B, N, H, K]")
    return jax.shard_map(
        local,
        in_specs=(spec, spec, spec, P(heads), jax.tree.map(lambda _: P(batch), plan)),
        out_specs=spec,
        check_vma=False,
    )(q, k, v, line, plan)


def _local(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    line: jax.Array,
    plan: planning.AttentionPlan,
    *,
    scale: float,
) -> jax.Array:
    """The work of one device."""
    block, count = plan.query_block, plan.keys_of.start.shape[-1]
    # The tile of blocks `d` apart holds the 2 block - 1 distances around d block.
    tiles = jnp.stack(
        [
            reference.dense_bias(
                line[:, start : start + 2 * block - 1], block, keys=block
            )
            for start in range(0, (2 * count - 1) * block, block)
        ]
    )
    return _attend(q, k, v, tiles, plan, scale)


@functools.partial(jax.custom_vjp, nondiff_argnames=("scale",))
def _attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    tiles: jax.Array,
    plan: planning.AttentionPlan,
    scale: float,
) -> jax.Array:
    return block_sparse.forward(q, k, v, plan=plan, scale=scale, bias_tiles=tiles)[0]


def _forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    tiles: jax.Array,
    plan: planning.AttentionPlan,
    scale: float,
) -> tuple[jax.Array, tuple[kernels.Residuals, jax.Array]]:
    partial = block_sparse.forward(q, k, v, plan=plan, scale=scale, bias_tiles=tiles)
    out, lse = kernels.name_residuals(*partial)
    return out, (kernels.Residuals(q, k, v, plan, scale, out, lse), tiles)


def _backward(scale: float, residuals: Any, d_out: jax.Array) -> tuple:
    del scale  # the residuals have it
    *gradients, d_tiles = block_sparse.backward(
        residuals[0], d_out, bias_tiles=residuals[1]
    )
    return *gradients, d_tiles, None


_attend.defvjp(_forward, _backward)
