"""Attention written out: every query against every key, then the mask.

    s = scale q k^T + bias[j - i],   p = softmax(s where mask),   out = p v       (1)

Cost follows the squared row. The other implementations are tested against it, and for
short rows it is the fastest. `attention` is differentiated by JAX; `KERNEL` is the same
with the gradient of kernel.py, for keys that come in parts.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from soraflax.ops.attention import kernel as kernels
from soraflax.ops.attention import plan as planning


def attention(
    q: Float[Array, "B N H K"],
    k: Float[Array, "B M H K"],
    v: Float[Array, "B M H K"],
    *,
    plan: planning.AttentionPlan,
    scale: float,
    bias: Float[Array, "H R"] | None = None,
) -> Float[Array, "B N H K"]:
    """Equation (1); products accumulate, and the softmax is taken, in float32."""
    return _forward(q, k, v, plan=plan, scale=scale, bias=bias)[0]


def _forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    plan: planning.AttentionPlan,
    scale: float,
    bias: jax.Array | None = None,
) -> kernels.Partial:
    mask = plan.mask[:, None]
    scores = _scores(q, k, scale=scale)
    if bias is not None:
        scores = scores + dense_bias(bias, q.shape[1], keys=k.shape[1])
    scores = jnp.where(mask, scores, kernels.MASK_VALUE)
    peak = jnp.max(scores, axis=-1, keepdims=True)
    # Masked again: in a row without keys every score is its own peak, exp of it 1.
    weights = jnp.where(mask, jnp.exp(scores - peak), 0.0)
    total = jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), kernels.MIN_TOTAL)
    lse = (peak + jnp.log(total))[..., 0]
    weights = (weights / total).astype(v.dtype)
    out = jnp.einsum("bhnm,bmhk->bnhk", weights, v, preferred_element_type=jnp.float32)
    return out.astype(q.dtype), lse


def dense_bias(
    bias: Float[Array, "H R"], queries: int, *, keys: int
) -> Float[Array, "H N M"]:
    """The bias of every pair from that of every distance, R = queries + keys - 1.

    Copies of the line and one more number, laid end to end and cut into rows of R, move
    by one place from row to row. The gradient is a sum over copies; nothing is
    scattered.
    """
    heads, length = bias.shape
    line = jnp.pad(bias.astype(jnp.float32), ((0, 0), (0, 1)))
    copies = jnp.broadcast_to(line[:, None], (heads, queries, length + 1))
    flat = copies.reshape(heads, -1)[:, queries - 1 : queries - 1 + queries * length]
    return flat.reshape(heads, queries, length)[:, :, :keys]


def _scores(q: jax.Array, k: jax.Array, *, scale: float) -> jax.Array:
    scores = jnp.einsum("bnhk,bmhk->bhnm", q, k, preferred_element_type=jnp.float32)
    return scale * scores


def _backward(residuals: kernels.Residuals, d_out: jax.Array) -> kernels.Gradients:
    """Equations (2) and (3) of kernel.py."""
    q, k, v, scale = residuals.q, residuals.k, residuals.v, residuals.scale
    p = jnp.exp(_scores(q, k, scale=scale) - residuals.lse[..., None])
    p = jnp.where(residuals.plan.mask[:, None], p, 0.0)
    d_out = d_out.astype(jnp.float32)
    dv = jnp.einsum("bhnm,bnhk->bmhk", p, d_out)
    delta = kernels.row_sums(d_out, residuals.out)
    dp = jnp.einsum("bnhk,bmhk->bhnm", d_out, v.astype(jnp.float32))
    ds = scale * p * (dp - delta[..., None])
    dq = jnp.einsum("bhnm,bmhk->bnhk", ds, k.astype(jnp.float32))
    dk = jnp.einsum("bhnm,bnhk->bmhk", ds, q.astype(jnp.float32))
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)


KERNEL = kernels.Kernel(_forward, _backward)
