"""Canvases: a latent, what of it is already known, and what the rest shows.

Every way of prompting is a canvas to be filled: text-to-video knows nothing of it,
image-to-video its first frame, extending one end. A canvas (or a window or tile of one,
`generation.windows`) becomes a segment of a packed row, its known tokens at noise level
0, and the denoised segment becomes a latent again, in which what was known is what it
was, bit for bit.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float

from soraflax.nn import autoencoder
from soraflax.ops import packing
from soraflax.ops import patch as patches

MAX_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Canvas:
    """A latent to be filled.

    Attributes:
      latent: `[t, h, w, z]` float32 in the autoencoder's own units. Where it is not
        known it does not matter, unless `strength` is below 1.
      cond_mask: `[t, h, w]` bool, alike within every patch; true where the latent is
        known.
      time_step: distance of two latent frames in time, in latent frames at the model's
        reference frame rate: `reference_fps / fps`.
      strength: share of the noise levels that the rest is denoised from. With 1 it
        starts from pure noise; below, from the latent with noise added (SDEdit,
        arXiv:2108.01073); with 0 it stays the latent that it is.
      text: what the video shows.
      negative: what it should not show; takes the empty caption's place in guidance.
      seed: PRNG seed of the noise, 0 to `MAX_SEED`.

    Raises:
      ValueError: a mask of another size, or a number out of its range.
    """

    latent: Float[np.ndarray, "t h w z"]
    cond_mask: Bool[np.ndarray, "t h w"]
    time_step: float = 1.0
    strength: float = 1.0
    text: str = ""
    negative: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.cond_mask.shape != self.latent.shape[:3]:
            raise ValueError(
                f"mask of {self.cond_mask.shape} on a latent of {self.latent.shape[:3]}"
            )
        if not 0 < self.time_step < math.inf:
            raise ValueError(f"time step {self.time_step}: use one above 0")
        check_strength(self.strength)
        check_seed(self.seed)

    @classmethod
    def empty(
        cls, shape: tuple[int, int, int, int], *, time_step: float = 1.0
    ) -> "Canvas":
        """A canvas `(t, h, w, z)` of which nothing is known."""
        return cls(np.zeros(shape, np.float32), np.zeros(shape[:3], bool), time_step)

    def cut(self, start: int, stop: int) -> "Canvas":
        """Latent frames `start` to `stop` (exclusive), as a canvas of their own."""
        part = slice(start, stop)
        return dataclasses.replace(
            self, latent=self.latent[part], cond_mask=self.cond_mask[part]
        )


def check_strength(strength: float) -> None:
    """Refuse one outside of [0, 1].

    Raises:
      ValueError: with the nearest that is inside.
    """
    if not 0 <= strength <= 1:
        nearest = 0 if strength < 0 else 1
        raise ValueError(
            f"strength {strength}: use a value in [0, 1], such as {nearest}"
        )


def check_seed(seed: int) -> None:
    """Refuse one outside of 0 to `MAX_SEED`.

    Raises:
      ValueError: naming the range.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed {seed}: use one from 0 to {MAX_SEED}")


def to_segment(
    canvas: Canvas,
    *,
    patch: tuple[int, int, int],
    text: np.ndarray,
    statistics: autoencoder.LatentStatistics,
) -> packing.Segment:
    """The segment that a canvas is for the transformer, its tokens normalised.

    Args:
      canvas: small enough for a row.
      patch: latent frames, rows and columns of a token.
      text: ids `[m]` or features `[m, E]` of the canvas's text.
      statistics: of the latents that the transformer was trained on.

    Raises:
      ValueError: a size is not a multiple of the patch, or a patch is known in part.
    """
    latent = statistics.normalize(canvas.latent).astype(np.float32)
    if canvas.strength == 1:
        # What is not known starts from noise; the first level may be a little below 1
        # (`process.start_level`), so zeros make what stands there not matter.
        latent = np.where(canvas.cond_mask[..., None], latent, np.float32(0))
    # One channel of a mask patchifies to `[n, cells of a patch]`.
    cells = patches.patchify(canvas.cond_mask[..., None], patch)
    cond_mask = np.asarray(cells.all(axis=1))
    if (cells.any(axis=1) != cond_mask).any():
        raise ValueError(f"the mask cuts through patches of {patch}: align it to them")
    return packing.Segment(
        tokens=patches.patchify(latent, patch),
        positions=patches.positions(
            patches.patch_grid(latent.shape, patch),
            time_step=canvas.time_step * patch[0],
        ),
        cond_mask=cond_mask,
        text=text,
    )


def from_tokens(
    canvas: Canvas,
    tokens: Float[np.ndarray, "n P"],
    *,
    patch: tuple[int, int, int],
    statistics: autoencoder.LatentStatistics,
) -> Float[np.ndarray, "t h w z"]:
    """The latent of a filled canvas; where it was known, the canvas's own."""
    grid = patches.patch_grid(canvas.latent.shape, patch)
    latent = patches.unpatchify(np.asarray(tokens, np.float32), grid, patch=patch)
    latent = statistics.denormalize(latent)
    return np.where(canvas.cond_mask[..., None], canvas.latent, latent)
