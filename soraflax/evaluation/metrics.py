"""Distances between videos in [-1, 1]: PSNR and SSIM, one number per video.

With values in a range of L = 2,

    PSNR = 10 log10(L^2 / mean((a - b)^2))  in dB,                                (1)
    SSIM = (2 m_a m_b + c1) (2 s_ab + c2)
           / ((m_a^2 + m_b^2 + c1) (s_a^2 + s_b^2 + c2)),                         (2)

SSIM with c1 = (0.01 L)^2, c2 = (0.03 L)^2 and means, variances and the covariance
under a Gaussian window of 11 pixels and deviation 1.5 (Wang et al. 2004, section III),
averaged over windows, channels and frames.

`Quality` adds up the same numbers over a video that comes in chunks.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

AnyArray = Array | np.ndarray

RANGE = 2.0
WINDOW = 11
DEVIATION = 1.5


def psnr(
    a: Float[AnyArray, "*batch T H W C"], b: Float[AnyArray, "..."]
) -> Float[Array, "*batch"]:
    """Equation (1) over all frames of each video; infinite for equal videos.

    Raises:
      ValueError: videos of different shapes.
    """
    _check_same(a, b)
    error = jnp.square(a.astype(jnp.float32) - b.astype(jnp.float32))
    return 10.0 * jnp.log10(RANGE**2 / jnp.mean(error, axis=(-4, -3, -2, -1)))


def ssim(
    a: Float[AnyArray, "*batch T H W C"], b: Float[AnyArray, "..."]
) -> Float[Array, "*batch"]:
    """Equation (2); 1 for equal videos.

    Raises:
      ValueError: videos of different shapes, or frames smaller than the window.
    """
    _check_same(a, b)
    if min(a.shape[-3:-1]) < WINDOW:
        raise ValueError(
            f"{a.shape[-3]} x {a.shape[-2]} pixels: SSIM needs {WINDOW} or more a side"
        )
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    squares, product = jnp.square(mean_a) + jnp.square(mean_b), mean_a * mean_b
    variances = _window_mean(jnp.square(a) + jnp.square(b)) - squares
    covariance = _window_mean(a * b) - product
    c1, c2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
    similarity = (2 * product + c1) * (2 * covariance + c2)
    similarity /= (squares + c1) * (variances + c2)
    return jnp.mean(similarity, axis=(-4, -3, -2, -1))


@dataclasses.dataclass(frozen=True)
class Quality:
    """PSNR and SSIM of one long video, from sums over its frames.

    Equal to `psnr` and `ssim` of the whole video, whatever the chunks: PSNR is that of
    the mean squared error over all frames, not the mean of the frames' PSNR, and SSIM
    is the mean over frames.

    Attributes:
      frames: number of frames.
      squared_error: sum of the mean squared errors of frames.
      similarity: sum of the SSIM of frames; None if they are smaller than its window.
    """

    frames: int = 0
    squared_error: float = 0.0
    similarity: float | None = 0.0

    def add(self, a: np.ndarray, b: np.ndarray) -> "Quality":
        """With the frames of a pair of chunks `[T, H, W, C]` in [-1, 1] added."""
        _check_same(a, b)
        error, similarity = self.squared_error, self.similarity
        for frame_a, frame_b in zip(a, b, strict=True):
            error += float(_frame_error(frame_a, frame_b))
            if min(frame_a.shape[:2]) < WINDOW:
                similarity = None
            elif similarity is not None:
                similarity += float(_frame_ssim(frame_a, frame_b))
        return Quality(self.frames + len(a), error, similarity)

    @property
    def psnr(self) -> float:
        """Equation (1) in dB; infinite for equal videos, NaN before any frame."""
        if not self.frames:
            return math.nan
        mean = self.squared_error / self.frames
        return 10.0 * math.log10(RANGE**2 / mean) if mean else math.inf

    @property
    def ssim(self) -> float | None:
        """Equation (2); None for frames smaller than its window, NaN before any."""
        if self.similarity is None:
            return None
        return self.similarity / self.frames if self.frames else math.nan


@jax.jit
def _frame_error(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(a.astype(jnp.float32) - b.astype(jnp.float32)))


@jax.jit
def _frame_ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    return ssim(a[None], b[None])


def _check_same(a: jax.Array | np.ndarray, b: jax.Array | np.ndarray) -> None:
    if a.shape != b.shape:
        raise ValueError(f"videos of different shapes: {a.shape} and {b.shape}")


def _window_mean(x: AnyArray) -> jax.Array:
    """The Gaussian mean around each pixel that a whole window fits around.

    Pixels and channels of a row lie side by side, which is what vector units want.
    """
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * DEVIATION**2))
    weights = (weights / weights.sum()).tolist()
    height, width = (size - WINDOW + 1 for size in x.shape[-3:-1])
    channels = x.shape[-1]
    flat = x.reshape(*x.shape[:-2], -1)
    rows, mean = jnp.zeros((), x.dtype), jnp.zeros((), x.dtype)
    # The window is separable: first along the height, then along the width, where one
    # pixel on is `channels` values on.
    for row, weight in enumerate(weights):
        rows += weight * flat[..., row : row + height, :]
    for column, weight in enumerate(weights):
        mean += weight * rows[..., column * channels : (column + width) * channels]
    return jnp.reshape(mean, (*x.shape[:-3], height, width, channels))
