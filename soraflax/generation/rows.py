"""Requests of any sizes to packed rows of one capacity."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from soraflax.generation import canvas as canvases
from soraflax.ops import packing

SMALLEST_ROW = 128


@dataclasses.dataclass(frozen=True)
class Item:
    """A request as a segment, once with its text and once with its negative text."""

    canvas: canvases.Canvas
    segment: packing.Segment
    negative: packing.Segment
    seed: int

    @property
    def text_length(self) -> int:
        return max(len(self.segment.text), len(self.negative.text))


@dataclasses.dataclass(frozen=True)
class Rows:
    """A few rows, a power of two of them, ready for the device.

    Attributes:
      positive: with the texts.
      negative: the same with the negative texts.
      counts: `[B, S + 1]` tokens of each segment id, 0 where there is none.
      seeds: `[B, S + 1]` uint32.
      places: `[B, N]` int32, of each token within its segment.
    """

    positive: packing.Packed
    negative: packing.Packed
    counts: np.ndarray
    seeds: np.ndarray
    places: np.ndarray

    @classmethod
    def of(
        cls,
        rows: Sequence[Sequence[int]],
        items: Sequence[Item],
        shape: packing.RowShape,
    ) -> "Rows":
        rows = [*rows, *([[]] * (power_of_two(len(rows)) - len(rows)))]
        segments = [[items[i].segment for i in row] for row in rows]
        counts = np.zeros((len(rows), shape.segments + 1), np.int32)
        seeds = np.zeros((len(rows), shape.segments + 1), np.uint32)
        places = np.zeros((len(rows), shape.tokens), np.int32)
        slices = packing.segment_slices(segments, shape)
        for row, members in enumerate(rows):
            for number, index in enumerate(members, start=1):
                counts[row, number] = len(items[index].segment)
                seeds[row, number] = items[index].seed
                places[row, slices[row][number - 1]] = np.arange(counts[row, number])
        negatives = [[items[i].negative for i in row] for row in rows]
        return cls(
            packing.assemble(segments, shape),
            packing.assemble(negatives, shape),
            counts,
            seeds,
            places,
        )


def row_shape(items: Sequence[Item], trained: packing.RowShape) -> packing.RowShape:
    """Capacity of the rows: that of training, less if less will do, more if it must.

    Tokens and text are powers of two below the capacity of training, so that requests
    of similar size meet the same compiled functions.
    """
    tokens = [trained.aligned(len(item.segment)) for item in items]
    texts = [item.text_length for item in items]

    def fit(sizes: list[int], capacity: int, *, least: int) -> int:
        total = max(least, power_of_two(sum(sizes)))
        return max(min(total, capacity), max(sizes))

    return dataclasses.replace(
        trained,
        tokens=fit(tokens, trained.tokens, least=SMALLEST_ROW),
        text=fit(texts, trained.text, least=min(SMALLEST_ROW, trained.text)),
    )


def pack_rows(items: Sequence[Item], shape: packing.RowShape) -> list[list[int]]:
    """Items (by index) to rows: the longest first, each into the first row it fits."""
    rows: list[list[int]] = []
    room: list[tuple[int, ...]] = []
    order = sorted(range(len(items)), key=lambda i: (-len(items[i].segment), i))
    for index in order:
        need = (shape.aligned(len(items[index].segment)), items[index].text_length, 1)
        fits = (i for i, free in enumerate(room) if np.all(np.less_equal(need, free)))
        at = next(fits, len(rows))
        if at == len(rows):
            rows.append([])
            room.append((shape.tokens, shape.text, shape.segments))
        rows[at].append(index)
        room[at] = tuple(f - n for f, n in zip(room[at], need, strict=True))
    return rows


def power_of_two(size: int) -> int:
    """The least power of two that is not below `size`."""
    return 1 << max(0, size - 1).bit_length()
