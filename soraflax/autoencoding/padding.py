"""Padding of videos to an autoencoder's grid, and its removal.

A grid holds frame counts `T = 1 + r k` and sides that are multiples of s. Padding
repeats the last frame, the last row and the last column up to the next sizes on it,
which an autoencoder spends little on: nothing moves there and no edge is new.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np

from soraflax.nn import autoencoder

Rule = Literal["refuse", "pad"]
Size = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class GridPadding:
    """The padding of a video to sizes that an autoencoder takes.

    Attributes:
      size: (frames, height, width) of the video.
      grid: (frames, height, width) after padding: legal, and nowhere below `size`.
    """

    size: Size
    grid: Size

    def pad(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Frames `[H, W, 3]` of `size` to frames of `grid`, one at a time."""
        rows, columns = (
            g - s for g, s in zip(self.grid[1:], self.size[1:], strict=True)
        )
        widths = ((0, rows), (0, columns), (0, 0))
        last = None
        for frame in frames:
            last = np.pad(frame, widths, mode="edge") if rows or columns else frame
            yield last
        if last is not None:
            for _ in range(self.grid[0] - self.size[0]):
                yield last

    def crop(self, chunks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Chunks `[T, H, W, 3]` of `grid` to chunks of `size`; all chunks are read."""
        left, height, width = self.size
        for chunk in chunks:
            if left:
                cropped = chunk[:left, :height, :width]
                left -= len(cropped)
                yield cropped


def grid_padding(
    config: autoencoder.AutoencoderConfig, size: Size, *, rule: Rule
) -> GridPadding:
    """The padding of a video.

    Args:
      config: sizes of the autoencoder.
      size: (frames, height, width) of the video.
      rule: 'pad' up to the next legal size, or 'refuse' any but a legal one.

    Raises:
      ValueError: a size off the grid and the rule 'refuse', with the nearest legal
        sizes; or an empty video.
    """
    if min(size) < 1:
        raise ValueError(f"{size[0]} frames of {size[2]}x{size[1]} pixels: no video")
    if rule == "pad":
        r, s = config.temporal_ratio, config.spatial_ratio
        frames, height, width = size
        # -(-n // s) * s is the next multiple of s; frames are 1 more than one of r.
        up = (1 - (1 - frames) // r * r, -(-height // s) * s, -(-width // s) * s)
        return GridPadding(size, up)
    config.latent_grid(*size)
    return GridPadding(size, size)
