"""Matrix products whose inputs are rounded and whose results are not.

    y = round(x) round(kernel),  dx = round(g) round(kernel)^T,  dk = x^T g         (1)

with float32 sums and results. CPUs with bfloat16 tiles (AMX) multiply at three to five
times the speed of float32 in this form only: asked for bfloat16 results, XLA takes a
slow path, and so it does for the mixed products that JAX would derive for (1). The
gradient of the kernel, a sum over all tokens, gains nothing there and stays float32.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def rounded_matmul(
    x: Float[Array, "*batch d"], kernel: Float[Array, "d f"], dtype: str = "bfloat16"
) -> Float[Array, "*batch f"]:
    """Equation (1): float32 `x @ kernel`, of inputs rounded to `dtype`."""
    return _product(x, kernel, dtype, contract=(x.ndim - 1, 0))


def _product(
    a: jax.Array, b: jax.Array, dtype: str, *, contract: tuple[int, int]
) -> jax.Array:
    axes = (((contract[0],), (contract[1],)), ((), ()))
    a, b = a.astype(dtype), b.astype(dtype)
    return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


def _forward(x: jax.Array, kernel: jax.Array, dtype: str) -> tuple:
    return rounded_matmul(x, kernel, dtype), (x, kernel)


def _backward(dtype: str, residuals: tuple, g: jax.Array) -> tuple:
    x, kernel = residuals
    dx = _product(g, kernel, dtype, contract=(g.ndim - 1, 1))
    tokens = tuple(range(x.ndim - 1))
    dk = jax.lax.dot_general(x, g, ((tokens, tokens), ((), ())))
    return dx, dk


rounded_matmul.defvjp(_forward, _backward)
