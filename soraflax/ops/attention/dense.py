"""Attention of every position to every other, without segments.

    y = softmax(q k^T / sqrt(D)) v

Long inputs are taken some queries at a time, so that memory follows N and not N^2.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

WHOLE = 4096
QUERIES = 1024


def attend(
    q: Float[Array, "B N D"], k: Float[Array, "B N D"], v: Float[Array, "B N D"]
) -> Float[Array, "B N D"]:
    """One head of attention; above `WHOLE` positions, `QUERIES` of them at a time."""
    if q.shape[1] <= WHOLE:
        return _attend(q, k, v)
    batch, tokens, size = q.shape
    some = jax.checkpoint(functools.partial(_attend, k=k, v=v), prevent_cse=False)
    queries = jnp.pad(q, [(0, 0), (0, -tokens % QUERIES), (0, 0)])
    queries = queries.reshape(batch, -1, QUERIES, size)
    y = jax.lax.map(some, jnp.einsum("bnqd->nbqd", queries))
    return jnp.einsum("nbqd->bnqd", y).reshape(batch, -1, size)[:, :tokens]


def _attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    logits = jnp.einsum("bqd,bkd->bqk", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits * q.shape[-1] ** -0.5, axis=-1)
    return jnp.einsum("bqk,bkd->bqd", weights.astype(v.dtype), v)
