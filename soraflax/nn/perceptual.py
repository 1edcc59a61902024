"""LPIPS, a perceptual distance from a frozen image classifier (arXiv:1801.03924).

A VGG16 (arXiv:1409.1556) sees both images; its features after the last convolution of
each of five stages are compared. For f_k the features of stage k at a pixel, scaled to
length one over channels, and w_k the non-negative weights of a linear head,

    d(a, b) = sum_k  mean over pixels  sum_c  w_kc (f_kc(a) - f_kc(b))^2,         (1)
    f_kc    = g_kc / sqrt(sum_c g_kc^2 + e^2),   e = 1e-10,                       (2)

in which e^2 stands inside the root, so that a pixel without features has a gradient.
The distance of videos is the mean over their frames.

The parameters are read by `weights.lpips`; nothing here makes or trains them:

    {"stages": [[{"kernel": [3, 3, C, O], "bias": [O]}, ...], ...], "heads": [[C], ...]}
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
EPSILON = 1e-10
MIN_SIDE = 2 ** (len(STAGES) - 1)  # pixels, of which the pools leave one

# Mean and deviation of the classifier's training images, on a scale of -1 to 1.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


def distance(
    a: Float[Array, "B T H W 3"], b: Float[Array, "..."], *, params: Any
) -> Float[Array, "B"]:
    """Equation (1), mean over frames; float32.

    Gradients flow to both videos, never to `params`. Frames are taken one after the
    other and recomputed in the backward pass, so that the memory is that of one frame
    of the batch.

    Args:
      a: videos in [-1, 1].
      b: videos of the same shape.
      params: classifier and heads; see the module docstring.

    Raises:
      ValueError: shapes that differ, or sides below 16 pixels.
    """
    if a.shape != b.shape:
        raise ValueError(f"videos of different shapes: {a.shape} and {b.shape}")
    if min(a.shape[2:4]) < MIN_SIDE:
        raise ValueError(
            f"{a.shape[2]} x {a.shape[3]} pixels: LPIPS needs {MIN_SIDE} or more a side"
        )
    params = jax.lax.stop_gradient(jax.tree.map(jnp.asarray, params))

    @jax.checkpoint
    def frame_distance(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        return image_distance(*pair, params=params)

    frames = tuple(jnp.einsum("bthwc->tbhwc", x.astype(jnp.float32)) for x in (a, b))
    return jnp.mean(jax.lax.map(frame_distance, frames), axis=0)


def image_distance(
    a: Float[Array, "B H W 3"], b: Float[Array, "B H W 3"], *, params: Any
) -> Float[Array, "B"]:
    """Equation (1) of images in [-1, 1]."""
    total = jnp.zeros(a.shape[0], jnp.float32)
    pairs = zip(features(params, a), features(params, b), strict=True)
    for head, (f, g) in zip(params["heads"], pairs, strict=True):
        error = jnp.square(_unit(f) - _unit(g))
        total += jnp.mean(jnp.einsum("bhwc,c->bhw", error, head), axis=(1, 2))
    return total


def features(
    params: Any, images: Float[Array, "B H W 3"]
) -> list[Float[Array, "B h w C"]]:
    """Rectified features of the five stages, finest first, of images in [-1, 1]."""
    x = (images - jnp.asarray(SHIFT, jnp.float32)) / jnp.asarray(SCALE, jnp.float32)
    outputs = []
    for number, stage in enumerate(params["stages"]):
        x = _max_pool(x) if number else x
        for layer in stage:
            x = jax.nn.relu(_convolve(x, layer["kernel"]) + layer["bias"])
        outputs.append(x)
    return outputs


def shapes() -> Any:
    """ShapeDtypeStructs of the parameters."""

    def leaf(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, np.float32)

    stages, channels = [], 3
    for widths in STAGES:
        layers = []
        for width in widths:
            layers.append({"kernel": leaf(3, 3, channels, width), "bias": leaf(width)})
            channels = width
        stages.append(layers)
    return {"stages": stages, "heads": [leaf(widths[-1]) for widths in STAGES]}


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _max_pool(x: jax.Array) -> jax.Array:
    """The maximum of each 2 x 2 pixels; an odd last row or column is dropped."""
    window = (1, 2, 2, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")


def _unit(x: jax.Array) -> jax.Array:
    """Equation (2)."""
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(squares + EPSILON**2)
