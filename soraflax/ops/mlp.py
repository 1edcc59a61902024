"""Two products with a GELU between them, laid out for a CPU's fast products.

    u = W_1^T x^T + b_1,   h = gelu(u),   y = (W_2^T h)^T + b_2                     (1)

with the hidden features first, `[F, tokens]`, and inputs of products rounded to
bfloat16 (`ops.product`). In this layout the gradients of both kernels,

    dW_2 = h g,   dW_1 = (du x)^T,   du = gelu'(u) (W_2 g^T)                        (2)

sum over the last axis of one factor and the first of the other, as fast products want.
With tokens first, XLA transposes h and du for them, and evaluates the GELU anew in the
transposed order. What is kept for (2) is x,
u and, rounded, h.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from soraflax.ops import product

_gelu = functools.partial(jax.nn.gelu, approximate=True)


@jax.custom_vjp
def rounded_mlp(
    x: Float[Array, "*batch D"],
    up: Float[Array, "D F"],
    up_bias: Float[Array, "F"],
    down: Float[Array, "F D"],
    down_bias: Float[Array, "D"],
) -> Float[Array, "*batch D"]:
    """Equation (1): float32, of products of inputs rounded to bfloat16."""
    return _forward(x, up, up_bias, down, down_bias)[0]


def _forward(
    x: jax.Array,
    up: jax.Array,
    up_bias: jax.Array,
    down: jax.Array,
    down_bias: jax.Array,
) -> tuple:
    flat = x.reshape(-1, x.shape[-1])
    u = product.rounded_dot(product.turned(up), flat, axes=(1, 1)) + up_bias[:, None]
    h = _gelu(u).astype(jnp.bfloat16)
    y = (
        product.rounded_dot(product.turned(down), h, axes=(1, 0)) + down_bias[:, None]
    ).T
    return y.reshape(x.shape), (flat, u, h, up, down)


def _backward(residuals: tuple, g: jax.Array) -> tuple:
    flat, u, h, up, down = residuals
    shape, g = g.shape, g.reshape(flat.shape)
    dh = product.rounded_dot(down, g, axes=(1, 1))
    du = jax.vjp(_gelu, u)[1](dh)[0]
    d_down = product.rounded_dot(h, g, axes=(1, 0))
    d_up = product.transposed(product.rounded_dot(du, flat, axes=(1, 0)))
    dx = product.transposed(product.rounded_dot(up, du, axes=(1, 0)))
    return (
        dx.reshape(shape),
        d_up,
        jnp.sum(du, axis=1),
        d_down,
        jnp.sum(g, axis=0),
    )


rounded_mlp.defvjp(_forward, _backward)
