"""Classifier-free guidance (arXiv:2207.12598, equation 6, with w + 1 as the scale).

    guided = unconditional + scale (conditional - unconditional)                (1)

Scale 1 is the conditional prediction alone, 0 the unconditional one. A negative prompt
takes the place of the empty caption. (1) is linear, so it may be applied to velocity,
epsilon or x0 predictions alike, with the same result.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def classifier_free(
    conditional: Float[Array, "*shape"],
    unconditional: Float[Array, "*shape"],
    scale: Float[Array, "*#shape"],
) -> Float[Array, "*shape"]:
    """Equation (1) in float32; `scale` is one number or broadcasts, `[B, N, 1]`."""
    conditional = conditional.astype(jnp.float32)
    unconditional = unconditional.astype(jnp.float32)
    return unconditional + scale * (conditional - unconditional)
