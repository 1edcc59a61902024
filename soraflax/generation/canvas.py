"""Canvases: a latent, and which of it is already known.

Every way of prompting is a canvas to be filled: text-to-video knows nothing of it,
image-to-video its first frame, extending one end. A canvas becomes a segment of a
packed row, its known tokens at noise level 0, and the filled segment becomes a latent
again, in which what was known is what it was, bit for bit.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float, Int

from soraflax.nn import autoencoder
from soraflax.ops import packing
from soraflax.ops import patch as patches

# Of one video: 81 frames of 1280x720 take 75,600 tokens in the shapes of Wan 2.1.
MAX_TOKENS = 2**17
# Of one video, all windows and tiles together: 45 minutes at 24 frames per second, 8K,
# and 2 GiB of latents, which are held in memory.
MAX_FRAMES, MAX_SIDE, MAX_VALUES = 2**16, 2**13, 2**29


@dataclasses.dataclass(frozen=True)
class Grid:
    """Which sizes of video a model can make.

    Attributes:
      temporal_ratio: r of `T = 1 + r (t - 1)`.
      spatial_ratio: pixels per latent cell.
      channels: z, of the latent.
      patch: latent frames, rows and columns of a token.
    """

    temporal_ratio: int
    spatial_ratio: int
    channels: int
    patch: tuple[int, int, int]

    def latent_shape(
        self, frames: int, height: int, width: int
    ) -> tuple[int, int, int, int]:
        """`(t, h, w, z)` of the latent of a video of this size in pixels.

        Raises:
          ValueError: a size off the grid or too large, with the nearest sizes on it.
        """
        step, first = self._frame_steps
        _check_size(frames, step, first=first, most=MAX_FRAMES, unit="frames")
        sides = zip(("high", "wide"), (height, width), self.cell, strict=True)
        for name, side, cell in sides:
            unit = f"pixels {name}"
            _check_size(side, cell, first=cell, most=MAX_SIDE, unit=unit)
        h, w = height // self.spatial_ratio, width // self.spatial_ratio
        most = (
            first + (MAX_VALUES // (h * w * self.channels * self.patch[0]) - 1) * step
        )
        if frames > most:
            raise ValueError(
                f"{frames} frames of {width}x{height} pixels: use {most} or less"
            )
        return 1 + (frames - 1) // self.temporal_ratio, h, w, self.channels

    def nearest_frames(self, seconds: float, fps: float) -> int:
        """The legal frame count that lasts nearest to `seconds`.

        Raises:
          ValueError: no finite number of frames above 0, or too many.
        """
        wanted = wanted_frames(seconds, fps)
        step, first = self._frame_steps
        legal = patches.nearest_sizes(wanted, step, first=first)
        return min(legal, key=lambda frames: abs(frames - wanted))

    def check_tokens(self, latent_shape: tuple[int, int, int, int]) -> None:
        """Refuse a latent `(t, h, w, z)` of more than `MAX_TOKENS` tokens.

        Raises:
          ValueError: with the longest video of its size that is allowed.
        """
        t, h, w = patches.grid_of(latent_shape, self.patch)
        if t * h * w <= MAX_TOKENS:
            return
        if h * w <= MAX_TOKENS:
            step, first = self._frame_steps
            frames = first + (MAX_TOKENS // (h * w) - 1) * step
            use = f"at this size use at most {frames} frames"
        else:
            scale = math.sqrt(MAX_TOKENS / (t * h * w))
            down, across = (
                max(1, math.floor(side * scale)) * cell
                for side, cell in zip((h, w), self.cell, strict=True)
            )
            use = f"use {across}x{down} pixels or less, or tiles"
        raise ValueError(f"{t * h * w} tokens, more than {MAX_TOKENS}: {use}")

    def frames(self, latent_frames: int) -> int:
        """How many frames of video so many latent frames are."""
        return 1 + self.temporal_ratio * (latent_frames - 1)

    @property
    def group(self) -> int:
        """Frames of video in a patch that is not the first."""
        return self.temporal_ratio * self.patch[0]

    @property
    def cell(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return self.spatial_ratio * self.patch[1], self.spatial_ratio * self.patch[2]

    @property
    def _frame_steps(self) -> tuple[int, int]:
        """Distance of two legal frame counts, and the least of them."""
        pt, r = self.patch[0], self.temporal_ratio
        return r * pt, 1 + r * (pt - 1)


def wanted_frames(seconds: float, fps: float) -> float:
    """How many frames last so long.

    Raises:
      ValueError: no finite number of frames above 0, or more than `MAX_FRAMES`.
    """
    wanted = seconds * fps
    rate = f"{seconds:g} seconds at {fps:g} frames per second"
    if not (wanted > 0 and 0 < fps < math.inf and seconds < math.inf):
        raise ValueError(f"{rate}: use finite numbers above 0")
    if wanted > MAX_FRAMES:
        raise ValueError(f"{rate}: use at most {math.floor(MAX_FRAMES / fps)} seconds")
    return wanted


def _check_size(size: int, step: int, *, first: int, most: int, unit: str) -> None:
    """As `patch.check_size`; no more than `most` either."""
    if size > most:
        nearest = patches.nearest_sizes(most, step, first=first)[0]
        raise ValueError(f"{size} {unit}: use {nearest} or less")
    patches.check_size(size, step, first=first, unit=unit)


@dataclasses.dataclass(frozen=True)
class Canvas:
    """What is to be filled.

    Attributes:
      latent: `[t, h, w, z]` float32 in the autoencoder's own units. Where it is not
        known it does not matter, unless `strength` is below 1.
      cond_mask: `[t, h, w]` bool, alike within every patch.
      time_step: distance of two latent frames in time, in latent frames at the model's
        reference frame rate: `reference_fps / fps`.
      strength: share of the levels that the rest walks down. With 1 it starts from
        pure noise; below, from the latent with noise added (SDEdit, arXiv:2108.01073);
        with 0 it stays the latent that it is.
    """

    latent: Float[np.ndarray, "t h w z"]
    cond_mask: Bool[np.ndarray, "t h w"]
    time_step: float = 1.0
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.cond_mask.shape != self.latent.shape[:3]:
            raise ValueError(
                f"mask of {self.cond_mask.shape} on a latent of {self.latent.shape[:3]}"
            )
        if not 0 < self.time_step < math.inf:
            raise ValueError(f"time step {self.time_step}: use one above 0")
        check_strength(self.strength)

    @classmethod
    def empty(
        cls, shape: tuple[int, int, int, int], *, time_step: float = 1.0
    ) -> "Canvas":
        """A canvas `(t, h, w, z)` of which nothing is known."""
        return cls(np.zeros(shape, np.float32), np.zeros(shape[:3], bool), time_step)

    def cut(self, start: int, stop: int) -> "Canvas":
        """Latent frames `start` to `stop`, as a canvas of their own."""
        part = slice(start, stop)
        return dataclasses.replace(
            self, latent=self.latent[part], cond_mask=self.cond_mask[part]
        )


def check_strength(strength: float) -> None:
    """Refuse one that is no share.

    Raises:
      ValueError: with the nearest that is.
    """
    if not 0 <= strength <= 1:
        nearest = 0 if strength < 0 else 1
        raise ValueError(
            f"strength {strength}: use a value in [0, 1], such as {nearest}"
        )


def to_segment(
    canvas: Canvas,
    *,
    patch: tuple[int, int, int],
    text: Int[np.ndarray, "m"],
    statistics: autoencoder.LatentStatistics,
) -> packing.Segment:
    """The segment that a canvas is for the transformer, its tokens normalised.

    Raises:
      ValueError: a size is not a multiple of the patch, or a patch is known in part.
    """
    latent = statistics.normalize(canvas.latent).astype(np.float32)
    if canvas.strength == 1:
        latent = np.where(canvas.cond_mask[..., None], latent, np.float32(0))
    known = patches.patchify(canvas.cond_mask[..., None], patch)
    whole = np.asarray(known.all(axis=1))
    if (known.any(axis=1) != whole).any():
        raise ValueError(f"the mask cuts through patches of {patch}: align it to them")
    return packing.Segment(
        tokens=patches.patchify(latent, patch),
        positions=patches.positions(
            patches.grid_of(latent.shape, patch), time_step=canvas.time_step * patch[0]
        ),
        cond_mask=whole,
        text=text,
    )


def from_tokens(
    canvas: Canvas,
    tokens: Float[np.ndarray, "n P"],
    *,
    patch: tuple[int, int, int],
    statistics: autoencoder.LatentStatistics,
) -> Float[np.ndarray, "t h w z"]:
    """The latent of a filled canvas; where known, the canvas's own."""
    grid = patches.grid_of(canvas.latent.shape, patch)
    latent = patches.unpatchify(np.asarray(tokens, np.float32), grid, patch=patch)
    latent = statistics.denormalize(latent)
    return np.where(canvas.cond_mask[..., None], canvas.latent, latent)
