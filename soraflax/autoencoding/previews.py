"""Fast previews of latents: a linear map from channels to colours.

The channels of an autoencoder's latents are close to linear in the mean colour of the
pixels under a cell, so

    colour = W^T [latent, 1],    W: [z + 1, 3],                                   (1)

gives a picture at the latent's resolution at almost no cost, without a decoder. W is
fitted by least squares on encodings of simple pictures whose colours are known; it
needs the autoencoder and no data. The first latent frame stands for one frame
of video, the others for r each, of which (1) gives the mean.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from soraflax.pretrained import models

MAX_SIDE = 320  # pixels of a preview, where it is larger than its latent
_CLIPS, _CELLS, _LATER = 12, 8, 1  # encoded: how many, cells a side, later frames
_BOXES = 3
# Of the variance of standardised channels: faint mixtures of them would be noise.
_RIDGE = 1e-4


@dataclasses.dataclass(frozen=True)
class Projection:
    """Equation (1).

    Attributes:
      weights: W, to colours in [-1, 1].
      cell: pixels of a latent cell along a side.
    """

    weights: Float[np.ndarray, "z1 3"]
    cell: int

    @classmethod
    def fit(cls, model: models.AutoencoderModel, *, seed: int = 0) -> "Projection":
        """Fit the map of an autoencoder to a few small random clips.

        Args:
          model: the autoencoder.
          seed: PRNG seed of the clips.
        """
        config = model.config
        r, s = config.temporal_ratio, config.spatial_ratio
        size = config.video_shape(1 + _LATER, _CELLS, _CELLS)
        video = random_clips(np.random.default_rng(seed), _CLIPS, size=size)
        latent = np.concatenate(
            [np.asarray(model.encode(jnp.asarray(clip)[None])) for clip in video]
        ).astype(np.float64)
        weights = _solve(latent, cell_means(video, r, s=s))
        return cls(weights.astype(np.float32), s)

    def colours(
        self, latent: Float[np.ndarray, "t h w z"]
    ) -> Float[np.ndarray, "t h w 3"]:
        """Equation (1), not clipped; the latent is in the autoencoder's own units."""
        latent = np.asarray(latent, np.float32)
        return np.einsum("thwz,zc->thwc", latent, self.weights[:-1]) + self.weights[-1]

    def __call__(
        self, latent: Float[np.ndarray, "t h w z"], *, max_side: int = MAX_SIDE
    ) -> UInt8[np.ndarray, "t height width 3"]:
        """A picture of each latent frame, as large as the video if `max_side` allows.

        Sides are those of the latent times one whole number, at least 1: the cell's
        pixels, or as many as keep the longer side within `max_side`.
        """
        t, h, w, _ = latent.shape
        times = max(1, min(self.cell, max_side // max(h, w)))
        shape = (t, h * times, w * times, 3)
        large = jax.image.resize(self.colours(latent), shape, "cubic")
        pixels = np.clip((np.asarray(large) + 1.0) * 127.5, 0.0, 255.0)
        return np.round(np.nan_to_num(pixels, nan=127.5)).astype(np.uint8)


def random_clips(
    rng: np.random.Generator, count: int, *, size: tuple[int, int, int]
) -> Float[np.ndarray, "count time height width 3"]:
    """Moving boxes before moving gradients, of random colours in [-1, 1]."""
    axes = [np.linspace(-1.0, 1.0, n, dtype=np.float32) for n in size]
    t, y, x = np.meshgrid(*axes, indexing="ij")
    clips = []
    for _ in range(count):
        slope = rng.uniform(-0.5, 0.5, (3, 3))
        clip = rng.uniform(-0.8, 0.8, 3) + np.stack([t, y, x], axis=-1) @ slope
        for _ in range(_BOXES):
            centre, motion = rng.uniform(-0.8, 0.8, 2), rng.uniform(-0.3, 0.3, 2)
            half = rng.uniform(0.2, 0.6, 2)
            inside = np.abs(y - centre[0] - motion[0] * t) < half[0]
            inside &= np.abs(x - centre[1] - motion[1] * t) < half[1]
            clip[inside] = rng.uniform(-1.0, 1.0, 3)
        clips.append(np.clip(clip, -1.0, 1.0))
    return np.stack(clips).astype(np.float32)


def cell_means(
    video: Float[np.ndarray, "*batch time height width 3"], r: int, *, s: int
) -> Float[np.ndarray, "*batch t h w 3"]:
    """Mean colours of the pixels and frames that each latent cell stands for."""
    *batch, frames, height, width, _ = video.shape
    cells = (height // s, s, width // s, s, 3)
    first = video[..., :1, :, :, :].reshape(*batch, 1, 1, *cells)
    later = video[..., 1:, :, :, :].reshape(*batch, (frames - 1) // r, r, *cells)
    means = [part.mean(axis=(-6, -4, -2)) for part in (first, later)]
    return np.concatenate(means, axis=-4)


def _solve(latent: np.ndarray, colours: np.ndarray) -> Any:
    """W of equation (1), by ridge regression on standardised channels."""
    x, y = latent.reshape(-1, latent.shape[-1]), colours.reshape(-1, 3)
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    scale = np.where(deviation > 1e-6 * deviation.max(), deviation, np.inf)
    x = (x - mean) / scale
    middle = y.mean(axis=0)
    gram = x.T @ x / len(x) + _RIDGE * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x.T @ (y - middle) / len(x)) / scale[:, None]
    return np.concatenate([weights, (middle - mean @ weights)[None]])
