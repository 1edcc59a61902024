"""Canvases on their way to latents: long ones in windows, large ones in tiles.

A canvas of more latent frames than a model has met is filled window by window, each as
long as the clips of training. Neighbours share `overlap` frames: what one window has
made there is known to the next (1). A model is taught such windows, whose first latent
frame stands for r frames of video and not for one
(`data_pipelines.transforms.sample_window`). Joined they are one latent, which a
decoder with a memory turns into one video.

    known(window k) = known(canvas) or made by the windows before                 (1)

A window may be cut into tiles. All tiles of a window are denoised together, and are
averaged after every step where they overlap (`batching.TileOverlap`). Every tile is a
segment of a packed row; a window that is not cut is a single tile.

`WindowScheduler` holds the canvases and what is made of them so far:

    scheduler = WindowScheduler(canvases, config, ...)
    for window in range(scheduler.count):
        for tile in scheduler.tiles(window):
            scheduler.write(tile, denoised tokens of tile.segment)
        scheduler.finished(window)                    # the latent frames that it added
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Float32, Int32

from soraflax.autoencoding import tiling
from soraflax.generation import canvas as canvases
from soraflax.nn import autoencoder
from soraflax.ops import grid as grids
from soraflax.ops import packing
from soraflax.ops import patch as patches


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """How a canvas is taken apart; a field that is 0 or None leaves it whole.

    Attributes:
      length: latent frames of a window.
      overlap: latent frames of a window that are known from the window before; at
        least 1.
      tile: (height, width) of a tile in pixels.
      tile_overlap: pixels that neighbouring tiles share, at least.
    """

    length: int = 0
    overlap: int = 2
    tile: tuple[int, int] | None = None
    tile_overlap: int = 32

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

    @classmethod
    def of_training(cls, length: int, patch: int) -> "WindowConfig":
        """Windows as long as the longest clips of training, half of each known.

        None where that is not known, or where a model has met images only.

        Args:
          length: latent frames of the longest clips; 0 where it is not known.
          patch: latent frames in a patch.
        """
        return cls(length, length // 2) if length // patch >= 2 else cls()


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
    # Rounded down to whole patches, so that an overlap is at least what was asked for.
    # The last window ends with the canvas and shares more with the one before it.
    step = max(patch, (length - config.overlap) // patch * patch)
    starts = [*range(0, frames - length, step), frames - length]
    return [(start, start + length) for start in starts]


def window_canvas(
    canvas: canvases.Canvas,
    latent: Float[np.ndarray, "t h w z"],
    *,
    start: int,
    stop: int,
    done: int,
) -> canvases.Canvas:
    """Equation (1): the canvas of latent frames `start` to `stop`.

    Args:
      canvas: whole.
      latent: what is made of it so far.
      start, stop: of the window.
      done: latent frames that are made, from the start of the canvas.
    """
    window = canvas.cut(start, stop)
    is_made = (np.arange(start, stop) < done)[:, None, None]
    return dataclasses.replace(
        window,
        latent=np.where(is_made[..., None], latent[start:stop], window.latent),
        cond_mask=window.cond_mask | is_made,
    )


def tiles(
    canvas: canvases.Canvas, grid: grids.Grid, *, config: WindowConfig
) -> list[tiling.Tile]:
    """Where its tiles lie, in patches; one that is everything, if it is not cut.

    Raises:
      ValueError: tiles that are no multiple of a patch, or would not get ahead.
    """
    rows, columns = patches.patch_grid(canvas.latent.shape, grid.patch)[1:]
    if config.tile is None:
        return tiling.tiles((rows, columns), None, overlap=0)
    for name, side, step in zip(
        ("high", "wide"), config.tile, grid.patch_sides, strict=True
    ):
        grids.check_size(side, step, first=step, unit=f"pixels {name} in a tile")
    height, width = (
        side // step for side, step in zip(config.tile, grid.patch_sides, strict=True)
    )
    overlap = _tile_overlap(config, grid)
    cut_sides = [n for n, side in ((height, rows), (width, columns)) if n < side]
    if cut_sides and min(cut_sides) <= overlap:
        least = (overlap + 1) * max(grid.patch_sides)
        raise ValueError(
            f"tiles of {config.tile[1]}x{config.tile[0]} pixels that share "
            f"{config.tile_overlap}: use sides of {least} or more"
        )
    return tiling.tiles((rows, columns), (height, width), overlap=overlap)


def _tile_overlap(config: WindowConfig, grid: grids.Grid) -> int:
    """Patches that neighbouring tiles share: `tile_overlap` in pixels, rounded up."""
    return -(-config.tile_overlap // max(grid.patch_sides))


def crop(
    canvas: canvases.Canvas, tile: tiling.Tile, *, patch: Sequence[int]
) -> canvases.Canvas:
    """The canvas of a tile, which is in patches."""
    rows, columns = (span.scaled(n) for span, n in zip(tile, patch[1:], strict=True))
    return dataclasses.replace(
        canvas,
        latent=tiling.crop_tile(canvas.latent, (rows, columns)),
        cond_mask=tiling.crop_tile(canvas.cond_mask[..., None], (rows, columns))[
            ..., 0
        ],
    )


def token_ids(
    grid: tuple[int, int, int], tile: tiling.Tile, *, first: int
) -> Int32[np.ndarray, "n"]:
    """Of every token of a tile, its number within the whole canvas.

    The number chooses the token's noise, so that it does not depend on how the canvas
    is taken apart, and tells which tokens of overlapping tiles are the same.

    Args:
      grid: patches of the window the tile is cut from.
      tile: in patches.
      first: patches along time before the window.
    """
    t, h, w = grid
    # Tokens are numbered in (time, height, width) order, so those of a window follow
    # `first` planes of h x w.
    numbers = np.arange(first * h * w, (first + t) * h * w, dtype=np.int64)
    numbers = numbers.reshape(t, h, w, 1)
    return tiling.crop_tile(numbers, tile).reshape(-1).astype(np.int32)


def token_weights(
    frames: int, tile: tiling.Tile, *, ramp: int
) -> Float32[np.ndarray, "n"]:
    """Of every token of a tile, its weight where tiles overlap.

    Args:
      frames: patches along time.
      tile: in patches.
      ramp: patches over which weights rise from the tile's edges.
    """
    rows, columns = (span.weights(max(ramp, 1)) for span in tile)
    plane = rows[:, None] * columns[None, :]
    return np.broadcast_to(plane, (frames, *plane.shape)).reshape(-1).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class WindowTile:
    """A tile of a window of a canvas: what the transformer sees, and where it belongs.

    Attributes:
      segment: its tokens with the canvas's text.
      negative_text: ids or features of the canvas's negative text.
      token_ids: `[n]`, the number of each token within the whole canvas.
      weights: `[n]`, of each token where tiles overlap; None if the window is not cut.
      canvas: the part of the canvas that it is.
      canvas_index, window: numbers of the canvas and of its window.
      position: rows and columns that it covers, in patches.
      number: its place among all tiles of the window of all canvases.
    """

    segment: packing.Segment
    negative_text: np.ndarray
    token_ids: Int32[np.ndarray, "n"]
    weights: Float32[np.ndarray, "n"] | None
    canvas: canvases.Canvas
    canvas_index: int
    window: int
    position: tiling.Tile
    number: int


class WindowScheduler:
    """Canvases and what is made of them so far; see the module docstring.

    Attributes:
      latents: of every canvas `[t, h, w, z]`; zeros where nothing is made yet.
      count: windows of the canvas that has most.
    """

    def __init__(
        self,
        to_fill: Sequence[canvases.Canvas],
        config: WindowConfig,
        *,
        grid: grids.Grid,
        statistics: autoencoder.LatentStatistics,
        read: Callable[[str], np.ndarray],
    ) -> None:
        """Nothing is made yet.

        Args:
          to_fill: canvases to be filled.
          config: how to take them apart.
          grid: sizes that the model can make.
          statistics: of the latents that the transformer was trained on.
          read: text to ids `[m]` or features `[m, E]`; refuses what is too long.

        Raises:
          ValueError: windows or tiles that cannot be, a text too long, or a tile of
            more than `grid.MAX_TOKENS` tokens.
        """
        self._canvases, self._config = to_fill, config
        self._grid, self._statistics = grid, statistics
        self._spans = [
            spans(len(canvas.latent), config, patch=grid.patch[0]) for canvas in to_fill
        ]
        self._tiles = [tiles(canvas, grid, config=config) for canvas in to_fill]
        self._texts = [(read(c.text), read(c.negative)) for c in to_fill]
        for index, canvas in enumerate(to_fill):
            # All windows of a canvas are of one size, and so are all tiles.
            window = canvas.cut(*self._spans[index][0])
            tile = crop(window, self._tiles[index][0], patch=grid.patch)
            grid.check_tokens(tile.latent.shape)
        self.latents = [np.zeros(c.latent.shape, np.float32) for c in to_fill]
        self.count = max((len(windows) for windows in self._spans), default=0)

    def tiles(self, window: int) -> list[WindowTile]:
        """What is to be denoised of the windows of this number, of all canvases.

        Raises:
          ValueError: a mask that cuts through patches.
        """
        cut: list[WindowTile] = []
        for index in self._with_window(window):
            start, stop = self._spans[index][window]
            part = window_canvas(
                self._canvases[index],
                self.latents[index],
                start=start,
                stop=stop,
                done=self._done(index, window),
            )
            cut += self._cut(index, part, window=window, number=len(cut))
        return cut

    def _cut(
        self, index: int, part: canvases.Canvas, *, window: int, number: int
    ) -> Iterator[WindowTile]:
        """The tiles of a window, numbered from `number`."""
        patch = self._grid.patch
        text, negative = self._texts[index]
        size = patches.patch_grid(part.latent.shape, patch)
        first = self._spans[index][window][0] // patch[0]
        positions = self._tiles[index]
        ramp = _tile_overlap(self._config, self._grid)
        for offset, position in enumerate(positions):
            tile = crop(part, position, patch=patch)
            weights = None
            if len(positions) > 1:
                weights = token_weights(size[0], position, ramp=ramp)
            yield WindowTile(
                segment=canvases.to_segment(
                    tile, patch=patch, text=text, statistics=self._statistics
                ),
                negative_text=negative,
                token_ids=token_ids(size, position, first=first),
                weights=weights,
                canvas=tile,
                canvas_index=index,
                window=window,
                position=position,
                number=number + offset,
            )

    def write(self, tile: WindowTile, tokens: Float[np.ndarray, "n P"]) -> None:
        """Take over the denoised tokens of a tile."""
        patch = self._grid.patch
        latent = canvases.from_tokens(
            tile.canvas, tokens, patch=patch, statistics=self._statistics
        )
        rows, columns = (
            span.scaled(size)
            for span, size in zip(tile.position, patch[1:], strict=True)
        )
        start, stop = self._spans[tile.canvas_index][tile.window]
        # What windows share stays as the earlier one made it: equation (1).
        done = self._done(tile.canvas_index, tile.window)
        made = latent[done - start :]
        area = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
        self.latents[tile.canvas_index][done:stop, *area] = made

    def finished(self, window: int) -> Iterator[tuple[int, np.ndarray]]:
        """Number of a canvas and the latent frames that a window has added to it."""
        for index in self._with_window(window):
            stop = self._spans[index][window][1]
            yield index, self.latents[index][self._done(index, window) : stop]

    def _done(self, index: int, window: int) -> int:
        """Latent frames of a canvas that the windows before this one have made."""
        return self._spans[index][window - 1][1] if window else 0

    def _with_window(self, window: int) -> list[int]:
        """Numbers of the canvases that have so many windows."""
        return [i for i, windows in enumerate(self._spans) if window < len(windows)]
