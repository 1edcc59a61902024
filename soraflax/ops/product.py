"""Matrix products whose inputs are rounded and whose results are not.

    y = [x] [kernel],      dx = [g] [kernel]^T,      d kernel = [x]^T [g]          (1)

[.] rounds to bfloat16; sums and results are float32. CPUs with bfloat16 tiles (AMX)
multiply faster than in float32 in this form only: asked for bfloat16 results, XLA takes
a slow path, and so it does for the mixed products that JAX would derive for (1).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def rounded_matmul(
    x: Float[Array, "*batch d"], kernel: Float[Array, "d f"]
) -> Float[Array, "*batch f"]:
    """Equation (1): float32 `x @ kernel`, of inputs rounded to bfloat16."""
    return rounded_dot(x, kernel, axes=(x.ndim - 1, 0))


def _forward(x: jax.Array, kernel: jax.Array) -> tuple:
    return rounded_matmul(x, kernel), (x, kernel)


def _backward(residuals: tuple, g: jax.Array) -> tuple:
    x, kernel = residuals
    tokens = tuple(range(x.ndim - 1))
    d_kernel = jax.lax.dot_general(
        x.astype(jnp.bfloat16),
        g.astype(jnp.bfloat16),
        ((tokens, tokens), ((), ())),
        preferred_element_type=jnp.float32,
    )
    return rounded_dot(g, kernel, axes=(g.ndim - 1, 1)), d_kernel


rounded_matmul.defvjp(_forward, _backward)


def rounded_dot(
    a: Float[Array, "..."], b: Float[Array, "..."], *, axes: tuple[int, int]
) -> Float[Array, "..."]:
    """The float32 product of two rounded arrays over an axis of each."""
    contraction = (((axes[0],), (axes[1],)), ((), ()))
    a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    return jax.lax.dot_general(a, b, contraction, preferred_element_type=jnp.float32)


def rounded_einsum(equation: str, *arrays: Float[Array, "..."]) -> Float[Array, "..."]:
    """`einsum` of two rounded arrays, float32; it has no gradient rule of its own."""
    rounded = [array.astype(jnp.bfloat16) for array in arrays]
    return jnp.einsum(equation, *rounded, preferred_element_type=jnp.float32)
