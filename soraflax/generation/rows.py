"""Requests of any sizes to packed rows of one capacity."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from soraflax.generation import canvas as canvases
from soraflax.generation import tiling
from soraflax.ops import packing

SMALLEST_ROW = 128


@dataclasses.dataclass(frozen=True)
class Item:
    """A canvas, or a tile of one, as a segment with its text and its negative text.

    Attributes:
      canvas: what it fills.
      segment, negative: with the two texts.
      seed: of its noise.
      places: `[n]` int32, which of the noise that belongs to the seed each token takes.
      owner: number of the request it belongs to; its tiles agree where they overlap.
      tile: which part of the frame it is, in patches.
      weights: `[n]` float32, what each token counts where tiles overlap; None for one
        that is not a tile.
    """

    canvas: canvases.Canvas
    segment: packing.Segment
    negative: packing.Segment
    seed: int
    places: np.ndarray
    owner: int
    tile: tiling.Tile
    weights: np.ndarray | None = None

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
      strengths: `[B, S + 1]` of the canvases, 1 where there is none.
      seeds: `[B, S + 1]` uint32.
      places: `[B, N]` int32, of each token within the noise of its seed.
      overlap: where tiles overlap, None where there are none.
    """

    positive: packing.Packed
    negative: packing.Packed
    counts: np.ndarray
    strengths: np.ndarray
    seeds: np.ndarray
    places: np.ndarray
    overlap: "Overlap | None" = None

    @classmethod
    def of(
        cls,
        rows: Sequence[Sequence[int]],
        items: Sequence[Item],
        shape: packing.RowShape,
    ) -> "Rows":
        rows = [*rows, *([[]] * (power_of_two(len(rows)) - len(rows)))]
        segments = [[items[i].segment for i in row] for row in rows]
        table = (len(rows), shape.segments + 1)
        counts = np.zeros(table, np.int32)
        strengths = np.ones(table, np.float32)
        seeds = np.zeros(table, np.uint32)
        places = np.zeros((len(rows), shape.tokens), np.int32)
        slices = packing.segment_slices(segments, shape)
        for row, members in enumerate(rows):
            for number, index in enumerate(members, start=1):
                item = items[index]
                counts[row, number] = len(item.segment)
                strengths[row, number] = item.canvas.strength
                seeds[row, number] = item.seed
                places[row, slices[row][number - 1]] = item.places
        negatives = [[items[i].negative for i in row] for row in rows]
        return cls(
            packing.assemble(segments, shape),
            packing.assemble(negatives, shape),
            counts,
            strengths,
            seeds,
            places,
            Overlap.of(rows, items, slices, tokens=shape.tokens),
        )


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["ids", "weights"], meta_fields=[]
)
@dataclasses.dataclass(frozen=True)
class Overlap:
    """Which tokens are one and the same, in different tiles.

    Attributes:
      ids: `[B, N]` int32 below B N, equal for tokens that are one.
      weights: `[B, N]` float32, above 0.
    """

    ids: Any
    weights: Any

    @classmethod
    def of(
        cls,
        rows: Sequence[Sequence[int]],
        items: Sequence[Item],
        slices: Sequence[Sequence[slice]],
        *,
        tokens: int,
    ) -> "Overlap | None":
        if all(items[i].weights is None for row in rows for i in row):
            return None
        ids = np.arange(len(rows) * tokens, dtype=np.int32).reshape(len(rows), tokens)
        weights = np.ones(ids.shape, np.float32)
        first: dict[tuple[int, int], int] = {}
        for row, members in enumerate(rows):
            for index, where in zip(members, slices[row], strict=True):
                item = items[index]
                if item.weights is None:
                    continue
                weights[row, where] = item.weights
                for at, place in enumerate(item.places.tolist(), start=where.start):
                    mine = int(ids[row, at])
                    ids[row, at] = first.setdefault((item.owner, place), mine)
        return cls(ids, weights)

    def agree(self, x: jax.Array) -> jax.Array:
        """`[B, N, P]`, every token the weighted mean of all that are one with it.

        As in MultiDiffusion (arXiv:2302.08113, equation 5).
        """
        ids, weights = self.ids.reshape(-1), self.weights.reshape(-1, 1)
        flat = x.reshape(-1, x.shape[-1])

        def total(values: jax.Array) -> jax.Array:
            return jax.ops.segment_sum(values, ids, num_segments=len(ids))[ids]

        return (total(flat * weights) / total(weights)).reshape(x.shape)


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
