"""Attention written out: every query against every key, then the mask.

    s = scale q k^T + bias,   p = softmax(s where mask),   out = p v              (1)

Cost follows the squared row. It is what the other implementations are tested against,
and the fastest for short rows.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from soraflax.ops.attention import plan as planning

# Finite, so that a row that sees nothing has no NaN in it or in its gradient.
MASKED = -1e30


def attention(
    q: Float[Array, "B N H K"],
    k: Float[Array, "B M H K"],
    v: Float[Array, "B M H K"],
    *,
    plan: planning.AttentionPlan,
    scale: float,
    bias: Float[Array, "H N M"] | None = None,
) -> Float[Array, "B N H K"]:
    """Equation (1); products accumulate, and the softmax is taken, in float32."""
    mask = plan.mask[:, None]
    scores = jnp.einsum("bnhk,bmhk->bhnm", q, k, preferred_element_type=jnp.float32)
    scores = scores * scale
    if bias is not None:
        scores = scores + bias.astype(jnp.float32)
    scores = jnp.where(mask, scores, MASKED)
    peak = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.where(mask, jnp.exp(scores - peak), 0.0)
    total = jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1e-30)
    weights = (weights / total).astype(v.dtype)
    out = jnp.einsum("bhnm,bmhk->bnhk", weights, v, preferred_element_type=jnp.float32)
    return out.astype(q.dtype)
