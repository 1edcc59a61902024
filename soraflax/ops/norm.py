"""Normalisation over the last axis, always computed in float32.

The backward pass keeps the input alone and recomputes the rest (`jax.checkpoint`):
otherwise the square and the quotient would be kept as well, three arrays for one.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def rms_norm(
    x: Float[Array, "*batch D"], scale: Float[Array, "D"], *, eps: float = 1e-6
) -> Float[Array, "*batch D"]:
    """x / sqrt(mean(x^2) + eps) * scale (arXiv:1910.07467), in the dtype of `x`."""
    return _rms_norm(x, scale, eps)


def layer_norm(
    x: Float[Array, "*batch D"],
    scale: Float[Array, "D"] | None = None,
    *,
    bias: Float[Array, "D"] | None = None,
    eps: float = 1e-6,
) -> Float[Array, "*batch D"]:
    """(x - mean) / sqrt(var + eps), then scale and bias where given."""
    return _layer_norm(x, scale, bias, eps)


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=2)
def _rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    y = _unit(x.astype(jnp.float32), eps) * scale.astype(jnp.float32)
    return y.astype(x.dtype)


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=3)
def _layer_norm(
    x: jax.Array, scale: jax.Array | None, bias: jax.Array | None, eps: float
) -> jax.Array:
    y = x.astype(jnp.float32)
    y = _unit(y - jnp.mean(y, axis=-1, keepdims=True), eps)
    if scale is not None:
        y = y * scale.astype(jnp.float32)
    if bias is not None:
        y = y + bias.astype(jnp.float32)
    return y.astype(x.dtype)


def _unit(x: jax.Array, eps: float) -> jax.Array:
    """`x` with a root mean square of 1 over the last axis."""
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(mean_square + eps)
