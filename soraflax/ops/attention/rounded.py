"""Attention written out, with products of inputs rounded to bfloat16 (`ops.product`).

    s = [scale q] [k]^T + bias,   p = softmax(s where mask),   out = [p] [v]        (1)
    dv = [p]^T [do],   ds = p ([do] [v]^T - rowsum(do out))                         (2)
    dq = scale [ds] [k],   dk = [ds]^T [scale q],   d bias = sum of ds              (3)

[.] rounds, sums and results are float32, and what is kept for the gradient is rounded:
q, k, v and p, with heads before tokens, as products of a CPU with bfloat16 tiles (AMX)
want them. JAX would derive products of an array of each kind, which are slow there.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from soraflax.ops.attention import kernel as kernels
from soraflax.ops.attention import plan as planning
from soraflax.ops.attention import reference


def attention(
    q: Float[Array, "B N H K"],
    k: Float[Array, "B M H K"],
    v: Float[Array, "B M H K"],
    *,
    plan: planning.AttentionPlan,
    scale: float,
    bias: Float[Array, "H R"] | None = None,
) -> Float[Array, "B N H K"]:
    """Equation (1), float32; a query that sees no key has output 0."""
    pairs = None
    if bias is not None:
        pairs = reference.dense_bias(bias, q.shape[1], keys=k.shape[1])
    out = _attend(q.astype(jnp.float32) * scale, k, v, plan, pairs)
    return out.astype(q.dtype)


@jax.custom_vjp
def _attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    plan: planning.AttentionPlan,
    bias: Float[Array, "H N M"] | None,
) -> Float[Array, "B N H K"]:
    return _forward(q, k, v, plan, bias)[0]


def _forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    plan: planning.AttentionPlan,
    bias: jax.Array | None,
) -> tuple:
    q, k, v = _heads_first(q), _heads_first(k), _heads_first(v)
    added = jnp.where(plan.mask[:, None], 0.0, kernels.MASK_VALUE)
    added = added if bias is None else added + bias
    scores = _product(q, k, axes=(3, 3)) + added
    # Above the mask's value: in a row without keys, exp of every score is 0.
    peak = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.exp(scores - jnp.maximum(peak, kernels.MASK_VALUE / 2))
    total = jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), kernels.MIN_TOTAL)
    p = (weights / total).astype(jnp.bfloat16)
    out = _product(p, v, axes=(3, 2)).transpose(0, 2, 1, 3)
    return out, (q, k, v, p, out, bias is not None)


def _backward(residuals: tuple, d_out: jax.Array) -> tuple:
    q, k, v, p, out, biased = residuals
    delta = jnp.sum(d_out * out, axis=-1).transpose(0, 2, 1)[..., None]
    d_out = _heads_first(d_out)
    ds = p.astype(jnp.float32) * (_product(d_out, v, axes=(3, 3)) - delta)
    rounded = ds.astype(jnp.bfloat16)
    dq = _product(rounded, k, axes=(3, 2))
    dk = _product(rounded, q, axes=(2, 2))
    dv = _product(p, d_out, axes=(2, 2))
    dq, dk, dv = (x.transpose(0, 2, 1, 3) for x in (dq, dk, dv))
    return dq, dk, dv, None, jnp.sum(ds, axis=0) if biased else None


_attend.defvjp(_forward, _backward)


def _heads_first(x: Float[Array, "B N H K"]) -> Float[Array, "B H N K"]:
    return x.astype(jnp.bfloat16).transpose(0, 2, 1, 3)


def _product(
    a: Float[Array, "B H ..."], b: Float[Array, "B H ..."], *, axes: tuple[int, int]
) -> Float[Array, "B H ..."]:
    """Float32 products of all rows and heads, over an axis of each."""
    dimensions = (((axes[0],), (axes[1],)), ((0, 1), (0, 1)))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)
