"""Normalisation over the last axis, always computed in float32.

The backward pass keeps the input alone and computes the rest again: as written, the
square and the two quotients would be kept as well, three arrays for one.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.partial(jax.checkpoint, prevent_cse=False)
def rms_norm(
    x: Float[Array, "*batch D"], scale: Float[Array, "D"], *, eps: float = 1e-6
) -> Float[Array, "*batch D"]:
    """x / sqrt(mean(x^2) + eps) * scale (arXiv:1910.07467), in the dtype of `x`."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + eps)
    return (y * scale).astype(x.dtype)


@functools.partial(jax.checkpoint, prevent_cse=False)
def layer_norm(
    x: Float[Array, "*batch D"],
    scale: Float[Array, "D"] | None = None,
    bias: Float[Array, "D"] | None = None,
    *,
    eps: float = 1e-6,
) -> Float[Array, "*batch D"]:
    """(x - mean) / sqrt(var + eps), then scale and bias where given."""
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + eps)
    if scale is not None:
        y = y * scale
    if bias is not None:
        y = y + bias
    return y.astype(x.dtype)
