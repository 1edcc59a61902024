"""Long videos in windows of latent frames, large ones in tiles.

A canvas of more latent frames than a model has met is filled window by window, each as
long as the clips of training. Neighbours share `overlap` frames: what one window has
made there is known to the next (1). A model is taught such windows, whose first latent
frame stands for r frames of video and not for one (`data_pipelines.transforms.middle`).
Joined they are one latent, which a decoder with a memory turns into one video.

    known(window k) = known(canvas) or made by the windows before                 (1)

Tiles are canvases too. All tiles of a window are denoised together, and agree after
every step where they overlap (`rows.Overlap`).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from soraflax.autoencoding import tiling
from soraflax.generation import canvas as canvases
from soraflax.ops import patch as patches


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """How a canvas is taken apart; a field that is 0 or None leaves it whole.

    Attributes:
      length: latent frames of a window.
      overlap: of them, those that are known from the window before; at least 1.
      tile: (height, width) of a tile in pixels.
      share: pixels that neighbouring tiles share, at least.
    """

    length: int = 0
    overlap: int = 2
    tile: tuple[int, int] | None = None
    share: int = 32

    def __post_init__(self) -> None:
        if self.length < 0 or self.length == 1:
            raise ValueError(
                f"windows of {self.length} latent frames: use 2 or more, or 0 for none"
            )
        if self.length and not 1 <= self.overlap < self.length:
            raise ValueError(
                f"windows of {self.length} latent frames that share {self.overlap}: "
                f"use {min(max(1, self.overlap), max(1, self.length - 1))}"
            )


def spans(frames: int, config: WindowConfig, *, patch: int) -> list[tuple[int, int]]:
    """First and last latent frame (exclusive) of every window.

    Args:
      frames: latent frames of the canvas, a multiple of `patch`.
      config: length and overlap.
      patch: latent frames in a patch; windows begin and end with patches.

    Raises:
      ValueError: windows of less than two patches, which could share none.
    """
    length = config.length // patch * patch
    if not config.length or frames <= length:
        return [(0, frames)]
    if length < 2 * patch:
        raise ValueError(
            f"windows of {config.length} latent frames: use {2 * patch} or more"
        )
    step = max(patch, (length - config.overlap) // patch * patch)
    starts = [*range(0, frames - length, step), frames - length]
    return [(start, start + length) for start in starts]


def take(
    canvas: canvases.Canvas, filled: np.ndarray, *, start: int, stop: int, done: int
) -> canvases.Canvas:
    """Equation (1): the canvas of a window; the first `done` latent frames are made."""
    window = canvas.cut(start, stop)
    made = (np.arange(start, stop) < done)[:, None, None]
    latent = np.where(made[..., None], filled[start:stop], window.latent)
    return dataclasses.replace(window, latent=latent, cond_mask=window.cond_mask | made)


def tiles(
    canvas: canvases.Canvas, grid: canvases.Grid, *, config: WindowConfig
) -> list[tiling.Tile]:
    """Where its tiles lie, in patches; one that is everything, if it is not cut.

    Raises:
      ValueError: tiles that are no multiple of a patch, or would not get ahead.
    """
    rows, columns = patches.grid_of(canvas.latent.shape, grid.patch)[1:]
    if config.tile is None:
        return tiling.tiles((rows, columns), None, overlap=0)
    for name, side, cell in zip(("high", "wide"), config.tile, grid.cell, strict=True):
        patches.check_size(side, cell, first=cell, unit=f"pixels {name} in a tile")
    size = (config.tile[0] // grid.cell[0], config.tile[1] // grid.cell[1])
    share = -(-config.share // max(grid.cell))
    cuts = [n for n, side in zip(size, (rows, columns), strict=True) if n < side]
    if cuts and min(cuts) <= share:
        raise ValueError(
            f"tiles of {config.tile[1]}x{config.tile[0]} pixels that share "
            f"{config.share}: use sides of {(share + 1) * max(grid.cell)} or more"
        )
    return tiling.tiles((rows, columns), size, overlap=share)


def crop(
    canvas: canvases.Canvas, tile: tiling.Tile, *, patch: Sequence[int]
) -> canvases.Canvas:
    """The canvas of a tile."""
    rows, columns = (span.scaled(n) for span, n in zip(tile, patch[1:], strict=True))
    return dataclasses.replace(
        canvas,
        latent=tiling.cut(canvas.latent, (rows, columns)),
        cond_mask=tiling.cut(canvas.cond_mask[..., None], (rows, columns))[..., 0],
    )


def places(grid: tuple[int, int, int], tile: tiling.Tile, *, first: int) -> np.ndarray:
    """Of every token of a tile, its number within the whole canvas, `[n]` int32.

    Args:
      grid: patches of the window the tile is cut from.
      tile: in patches.
      first: patches along time before the window.
    """
    t, h, w = grid
    whole = np.arange(first * h * w, (first + t) * h * w, dtype=np.int64)
    whole = whole.reshape(t, h, w, 1)
    return tiling.cut(whole, tile).reshape(-1).astype(np.int32)


def weights(frames: int, tile: tiling.Tile, *, ramp: int) -> np.ndarray:
    """Of every token of a tile, what it counts where tiles overlap, `[n]` float32."""
    rows, columns = (span.weights(max(ramp, 1)) for span in tile)
    frame = rows[:, None] * columns[None, :]
    return np.broadcast_to(frame, (frames, *frame.shape)).reshape(-1).astype(np.float32)
