"""The Fréchet distance between two sets of clips, and features that need no weights.

Features of each set are summarised by their mean m and covariance C; the distance is
that of two normal distributions (Dowson and Landau 1982, as FID uses it,
arXiv:1706.08500), in squared units of the features:

    d = |m_a - m_b|^2 + tr(C_a + C_b) - 2 tr((C_a^1/2 C_b C_a^1/2)^1/2),          (1)
    tr((C_a^1/2 C_b C_a^1/2)^1/2) = sum of the singular values of C_a^1/2 C_b^1/2. (2)

(2) takes symmetric roots only and never squares a condition number. With D features,
D or fewer clips give a covariance that is singular and a distance that is too large;
`distance` refuses them unless told otherwise.

`band_features` is the default. Colours are turned into brightness and two opponents; at
scales s = 1, 2 and 4 (means of s x s pixels) every block of 4 frames and 4 x 4 pixels
gets its cosine coefficients; their squares are summed over octaves in space (0; 1; 2-3)
and in time (0; 1; 2-3), brightness and colour apart. Then

    f = mean over blocks of log(energy of the band + 10^-5)                       (3)

for 8 bands (all but the block's mean), 3 scales and 2 kinds, and the 3 mean colours:
51 numbers, comparable only among themselves: they see blur, noise, flicker and ringing,
and know nothing of content. A distance of these is *not* one of the published FVD or
rFVD figures, which use a trained network; give another callable for those.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

from soraflax.ops import conv

AnyArray = Array | np.ndarray
Features = Callable[[Any], Any]
"""Videos `[B, T, H, W, 3]` in [-1, 1] to `[B, D]`."""

SCALES = (1, 2, 4)
BLOCK = (4, 4, 4)
OCTAVES = ((0,), (1,), (2, 3))
FLOOR = 1e-5  # about the energy of rounding to 8 bits
FEATURES = 2 * len(SCALES) * (len(OCTAVES) ** 2 - 1) + 3
_OPPONENTS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], np.float32).T
_OPPONENTS /= np.linalg.norm(_OPPONENTS, axis=0)


@dataclasses.dataclass(frozen=True)
class Moments:
    """First and second moments of the features of a set of clips.

    Attributes:
      count: number of clips.
      mean: mean of the features.
      scatter: sum over clips of (f - mean) (f - mean)^T.
    """

    count: int
    mean: Float64[np.ndarray, "D"]
    scatter: Float64[np.ndarray, "D D"]

    @property
    def covariance(self) -> Float64[np.ndarray, "D D"]:
        """Unbiased; of two clips or more."""
        return self.scatter / (self.count - 1)


def moments(features: Iterable[Any]) -> Moments:
    """Moments of features `[B, D]` that come batch by batch, in one pass.

    Raises:
      ValueError: no clips, features that are not finite, or of several sizes.
    """
    total = None
    for batch in features:
        values = np.asarray(batch, np.float64)
        if not len(values):
            continue
        if not np.isfinite(values).all():
            raise ValueError("features are not finite")
        mean = values.mean(axis=0)
        part = Moments(len(values), mean, (values - mean).T @ (values - mean))
        total = part if total is None else merge(total, part)
    if total is None:
        raise ValueError("no clips: moments need at least one")
    return total


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of the union of both sets (Chan, Golub and LeVeque 1979).

    Raises:
      ValueError: different numbers of features.
    """
    _check_same(a, b)
    count = a.count + b.count
    step = b.mean - a.mean
    mean = a.mean + step * (b.count / count)
    between = np.outer(step, step) * (a.count * b.count / count)
    return Moments(count, mean, a.scatter + b.scatter + between)


def clips_needed(features: int) -> int:
    """Clips of each set below which the covariance of `features` is singular."""
    return features + 1


def distance(
    a: Moments, b: Moments, *, too_few: Literal["refuse", "allow"] = "refuse"
) -> float:
    """Equation (1).

    Args:
      a: moments of one set.
      b: moments of the other.
      too_few: whether fewer than `clips_needed` clips are refused. A distance of so few
        is biased upwards; compare it only with others of as many clips.

    Raises:
      ValueError: too few clips, or different numbers of features.
    """
    _check_same(a, b)
    count, needed = min(a.count, b.count), clips_needed(len(a.mean))
    if count < 2 or (too_few == "refuse" and count < needed):
        raise ValueError(
            f"{count} clips for {len(a.mean)} features: the Fréchet distance needs "
            f"{needed} or more, or too_few='allow' and at least 2"
        )
    shared = np.linalg.svd(_root(a.covariance) @ _root(b.covariance), compute_uv=False)
    spread = np.trace(a.covariance) + np.trace(b.covariance) - 2.0 * shared.sum()
    return float(max(np.sum(np.square(a.mean - b.mean)) + spread, 0.0))


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric root; eigenvalues that rounding made negative count as zero."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def _check_same(a: Moments, b: Moments) -> None:
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {len(a.mean)} and {len(b.mean)} numbers")


@jax.jit
def band_features(videos: Float[AnyArray, "B T H W 3"]) -> Float[Array, "B D"]:
    """Equation (3) and the mean colours of videos in [-1, 1], of any size.

    Blocks beyond the last frame, row or column are filled by repeating it; an image
    has no energy but in the bands that are constant in time.
    """
    x = jnp.asarray(videos, jnp.float32) @ jnp.asarray(_OPPONENTS)
    colour = jnp.mean(x, axis=(1, 2, 3))
    return jnp.concatenate([colour, *(_bands(x, scale) for scale in SCALES)], axis=-1)


def _bands(x: jax.Array, scale: int) -> jax.Array:
    """Equation (3) at one scale, `[B, 16]`."""
    pool = (1, scale, scale)
    x = conv.average_pool(_fill(x, pool), pool)
    blocks = conv.block_cosine(_fill(x, BLOCK), BLOCK)
    # Frequency k weighs 1 / (1 + k): images have about as much energy in every octave.
    k = jnp.asarray(1.0 + conv.block_frequencies(BLOCK).ravel(), jnp.float32)
    coefficients = blocks.reshape(len(x), -1, k.size, 3) / k[:, None]
    energy = jnp.einsum("bnkc,kg->bngc", coefficients**2, _groups())
    energy = jnp.stack([energy[..., 0], energy[..., 1] + energy[..., 2]], axis=-1)
    return jnp.mean(jnp.log(energy + FLOOR), axis=1).reshape(len(x), -1)


def _groups() -> np.ndarray:
    """Membership of coefficients in bands, `[64, 8]` of 0 and 1."""
    t, h, w = (k.ravel() for k in np.indices(BLOCK))
    space = np.maximum(h, w)
    columns = [
        np.isin(t, in_time) & np.isin(space, in_space)
        for in_time in OCTAVES
        for in_space in OCTAVES
    ]
    return np.stack(columns[1:], axis=-1).astype(np.float32)


def _fill(x: jax.Array, block: tuple[int, int, int]) -> jax.Array:
    """Repeat the last frame, row and column up to whole blocks."""
    sizes = x.shape[1:4]
    pads = [(0, -size % side) for size, side in zip(sizes, block, strict=True)]
    return jnp.pad(x, [(0, 0), *pads, (0, 0)], mode="edge")
