"""An attention kernel of your own: keys a tile at a time, with a running softmax.

python examples/add_an_attention_kernel.py
"""

# --8<-- [start:kernel]
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from soraflax.ops import attention
from soraflax.ops.attention import kernel as kernels
from soraflax.ops.attention import kernel_check

TILE = 64  # keys


def tiles(x: jax.Array) -> jax.Array:
    """`[B, M, ...]` to `[tiles, B, TILE, ...]`, padded with zeros (segment id 0)."""
    x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % TILE), *[(0, 0)] * (x.ndim - 2)])
    x = x.reshape(x.shape[0], -1, TILE, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)


def scores(
    q: jax.Array, k: jax.Array, *, ids: tuple[jax.Array, jax.Array], scale: float
) -> tuple[jax.Array, jax.Array]:
    """Scores `[B, H, N, TILE]` in float32, and which of them count."""
    query_ids, key_ids = ids
    mask = query_ids[:, None, :, None] == key_ids[:, None, None, :]
    mask &= key_ids[:, None, None, :] > 0  # padding attends to nothing
    s = jnp.einsum("bnhk,bmhk->bhnm", q, k, preferred_element_type=jnp.float32)
    return jnp.where(mask, scale * s, kernels.MASK_VALUE), mask


def forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    plan: attention.AttentionPlan,
    scale: float,
) -> kernels.Partial:
    """Attention to each tile alone, merged by equations (4) and (5) of kernel.py."""

    def body(partial: kernels.Partial, tile: tuple) -> tuple[kernels.Partial, None]:
        k, v, key_ids = tile
        s, mask = scores(q, k, ids=(plan.query_segments, key_ids), scale=scale)
        peak = jnp.max(s, axis=-1, keepdims=True)
        p = jnp.where(mask, jnp.exp(s - peak), 0.0)
        total = jnp.maximum(jnp.sum(p, axis=-1, keepdims=True), kernels.MIN_TOTAL)
        out = jnp.einsum("bhnm,bmhk->bnhk", p / total, v.astype(jnp.float32))
        return kernels.merge(partial, (out, (peak + jnp.log(total))[..., 0])), None

    keys = (tiles(k), tiles(v), tiles(plan.key_segments))
    (out, lse), _ = lax.scan(body, kernels.empty_partial(q), keys)
    return out.astype(q.dtype), lse


def backward(residuals: kernels.Residuals, d_out: jax.Array) -> kernels.Gradients:
    """Equations (2) and (3), which are sums over keys: a tile at a time as well."""
    r, scale = residuals, residuals.scale
    d_out = d_out.astype(jnp.float32)
    delta = kernels.row_sums(d_out, r.out)
    q = r.q.astype(jnp.float32)

    def body(dq: jax.Array, tile: tuple) -> tuple[jax.Array, tuple]:
        k, v, key_ids = tile
        s, mask = scores(r.q, k, ids=(r.plan.query_segments, key_ids), scale=scale)
        p = jnp.where(mask, jnp.exp(s - r.lse[..., None]), 0.0)
        dv = jnp.einsum("bhnm,bnhk->bmhk", p, d_out)
        dp = jnp.einsum("bnhk,bmhk->bhnm", d_out, v.astype(jnp.float32))
        ds = scale * p * (dp - delta[..., None])
        dq += jnp.einsum("bhnm,bmhk->bnhk", ds, k.astype(jnp.float32))
        return dq, (jnp.einsum("bhnm,bnhk->bmhk", ds, q), dv)

    keys = (tiles(r.k), tiles(r.v), tiles(r.plan.key_segments))
    dq, parts = lax.scan(body, jnp.zeros_like(q), keys)
    length = r.k.shape[1]
    whole = [jnp.moveaxis(x, 0, 1).reshape(q.shape[0], -1, *q.shape[2:]) for x in parts]
    dk, dv = (x[:, :length] for x in whole)
    return dq.astype(r.q.dtype), dk.astype(r.k.dtype), dv.astype(r.v.dtype)


KERNEL = kernels.Kernel(forward, backward)
# --8<-- [end:kernel]

# --8<-- [start:check]
# Forward and backward beside the reference: padding, a segment without keys, lengths
# that do not divide by a tile. What the project itself asks before it chooses a kernel.
assert kernel_check.matches_reference(KERNEL, head_size=32, dtype="float32")
assert kernel_check.matches_reference(KERNEL, head_size=32, dtype="bfloat16")

ids = np.repeat(np.array([1, 2, 0], np.int32), (100, 80, 20))[None]
plan = attention.make_plan(ids, ids)
keys = jax.random.split(jax.random.key(0), 3)
q, k, v = (jax.random.normal(key, (1, 200, 2, 32)) for key in keys)
out = jnp.asarray(kernels.attend(q, k, v, plan, KERNEL, 32**-0.5))
exact = attention.attention(q, k, v, plan=plan, implementation="reference")
present = jnp.asarray(ids > 0)[..., None, None]
error = jnp.max(jnp.where(present, jnp.abs(out - exact), 0))
print(f"differs from the reference by {error:.1e} at most")
# --8<-- [end:check]
