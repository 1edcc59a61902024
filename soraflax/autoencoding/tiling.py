"""Frames too large for the device, processed in overlapping tiles with blended seams.

Tiles of one size cover a side at nearly even distances. Where tiles overlap, their
results are averaged with weights that fall linearly towards the edge that another tile
covers (1), so a seam has no step and a constant stays that constant:

    y = sum_i w_i y_i / sum_i w_i,                                                (1)
    w_i(n) = min(n - start_i + 1, stop_i - n, ramp).
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Shaped


@dataclasses.dataclass(frozen=True)
class Span:
    """Part of a side, `[start, stop)`, and the side's length."""

    start: int
    stop: int
    side: int

    def scaled(self, ratio: int) -> "Span":
        """The same part at a finer resolution."""
        return Span(self.start * ratio, self.stop * ratio, self.side * ratio)

    def weights(self, ramp: int) -> Float32[np.ndarray, "n"]:
        """Equation (1); an edge of the frame has no ramp."""
        n = np.arange(self.start, self.stop)
        before = n - self.start + 1 if self.start else np.full(len(n), ramp)
        after = self.stop - n if self.stop < self.side else np.full(len(n), ramp)
        return np.minimum(np.minimum(before, after), ramp).astype(np.float32)


Tile = tuple[Span, Span]


def spans(side: int, size: int, *, overlap: int) -> list[Span]:
    """Spans of `size` that cover `side` and overlap by at least `overlap`.

    Raises:
      ValueError: an overlap as large as the spans.
    """
    if size >= side:
        return [Span(0, side, side)]
    if not 0 <= overlap < size:
        raise ValueError(
            f"overlap of {overlap} in tiles of {size} latent cells: use 0 to {size - 1}"
        )
    # The first span covers `size`, each further one at most `size - overlap` more.
    count = -(-(side - overlap) // (size - overlap))
    starts = np.round(np.linspace(0, side - size, count)).astype(int).tolist()
    return [Span(start, start + size, side) for start in starts]


def tiles(
    grid: tuple[int, int], size: tuple[int, int] | None, *, overlap: int
) -> list[Tile]:
    """Tiles of a latent grid `(h, w)`; one, if `size` is None."""
    sizes = grid if size is None else size
    rows, columns = (
        spans(n, m, overlap=overlap) for n, m in zip(grid, sizes, strict=True)
    )
    return list(itertools.product(rows, columns))


def crop_tile(
    video: Shaped[np.ndarray, "T H W C"], tile: Tile
) -> Shaped[np.ndarray, "T h w C"]:
    """The part of a video in a tile of its resolution."""
    rows, columns = tile
    return video[:, rows.start : rows.stop, columns.start : columns.stop]


def blend(
    parts: Sequence[Float[np.ndarray, "T h w C"]], tiles: Sequence[Tile], *, ramp: int
) -> Float[np.ndarray, "T H W C"]:
    """Equation (1): the frames of which `parts` are at `tiles`."""
    if len(parts) == 1:
        return parts[0]
    rows, columns = tiles[0]
    frames, channels = parts[0].shape[0], parts[0].shape[-1]
    total = np.zeros((frames, rows.side, columns.side, channels), np.float32)
    weight = np.zeros((rows.side, columns.side, 1), np.float32)
    for part, tile in zip(parts, tiles, strict=True):
        row, column = (span.weights(max(ramp, 1)) for span in tile)
        w = (row[:, None] * column[None, :])[..., None]
        total[:, tile[0].start : tile[0].stop, tile[1].start : tile[1].stop] += part * w
        weight[tile[0].start : tile[0].stop, tile[1].start : tile[1].stop] += w
    return total / weight
