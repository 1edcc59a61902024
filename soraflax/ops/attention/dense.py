"""Dense attention of every position to every other: one head, no segments.

    y = softmax(q k^T / sqrt(D)) v                                                (1)

The queries of long inputs are processed in chunks, so that memory follows N, not N^2.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

UNCHUNKED = 4096  # positions up to which all queries are one chunk
CHUNK = 1024


def dense_attention(
    q: Float[Array, "B N D"], k: Float[Array, "B N D"], v: Float[Array, "B N D"]
) -> Float[Array, "B N D"]:
    """Equation (1); above `UNCHUNKED` positions, `CHUNK` queries at a time."""
    if q.shape[1] <= UNCHUNKED:
        return _attend(q, k, v)
    batch, tokens, size = q.shape
    chunk = jax.checkpoint(functools.partial(_attend, k=k, v=v), prevent_cse=False)
    queries = jnp.pad(q, [(0, 0), (0, -tokens % CHUNK), (0, 0)])
    queries = queries.reshape(batch, -1, CHUNK, size)
    y = jax.lax.map(chunk, jnp.einsum("bnqd->nbqd", queries))
    return jnp.einsum("nbqd->bnqd", y).reshape(batch, -1, size)[:, :tokens]


def _attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    logits = jnp.einsum("bqd,bkd->bqk", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits * q.shape[-1] ** -0.5, axis=-1)
    return jnp.einsum("bqk,bkd->bqd", weights.astype(v.dtype), v)
