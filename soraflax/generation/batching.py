"""Requests of any sizes to packed rows of one capacity.

A video must not depend on what is generated with it, to the last bit. Sums depend on
how they are grouped, so tokens and texts begin at multiples of the attention block:
every segment then meets its own keys in the same blocks, wherever it lies.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from soraflax.autoencoding import tiling
from soraflax.generation import canvas as canvases
from soraflax.ops import packing

# Less than this a CPU's compiler would sum in another order.
SMALLEST_ROW = 256


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
    jax.tree_util.register_dataclass,
    data_fields=["partners", "weights"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Overlap:
    """Which tokens are one and the same, in different tiles.

    Attributes:
      partners: `[B, N, K]` int32 below B N: where all that are one with a token lie, in
        the order of their tiles, itself included.
      weights: `[B, N, K]` float32, what they count; 0 where there are fewer than K.
    """

    partners: Any
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
        one: dict[tuple[int, int], list[tuple[int, float]]] = {}
        starts = {
            index: row * tokens + where.start
            for row, members in enumerate(rows)
            for index, where in zip(members, slices[row], strict=True)
            if items[index].weights is not None
        }
        for index, start in sorted(starts.items()):
            item, shares = items[index], items[index].weights
            for at, place in enumerate(item.places.tolist()):
                share = 1.0 if shares is None else float(shares[at])
                one.setdefault((item.owner, place), []).append((start + at, share))
        most = max(len(found) for found in one.values())
        size = len(rows) * tokens
        partners = np.repeat(np.arange(size, dtype=np.int32)[:, None], most, axis=1)
        weights = np.zeros((size, most), np.float32)
        weights[:, 0] = 1
        for found in one.values():
            where, how = zip(*found, strict=True)
            partners[where, : len(found)] = where
            weights[where, : len(found)] = how
        shape = (len(rows), tokens, most)
        return cls(partners.reshape(shape), weights.reshape(shape))

    def agree(self, x: jax.Array) -> jax.Array:
        """`[B, N, P]`, every token the weighted mean of all that are one with it.

        As in MultiDiffusion (arXiv:2302.08113, equation 5). Summed in the order of the
        tiles, which does not depend on the rows they lie in.
        """
        flat = x.reshape(-1, x.shape[-1])
        total, weight = jnp.zeros(x.shape, x.dtype), jnp.zeros(x.shape[:2], x.dtype)
        for k in range(self.partners.shape[-1]):
            total += flat[self.partners[..., k]] * self.weights[..., k, None]
            weight += self.weights[..., k]
        mean = total / weight[..., None]
        alone = jnp.sum(self.weights > 0, axis=-1) == 1
        return jnp.where(alone[..., None], x, mean)


def row_shape(
    items: Sequence[Item], trained: packing.RowShape, *, block: int
) -> packing.RowShape:
    """Capacity of the rows: that of training, less if less will do, more if it must.

    Tokens are powers of two below the capacity of training, so that requests of similar
    size meet the same compiled functions; there is room for as much text.

    Args:
      items: what the rows are for.
      trained: rows of training.
      block: tokens of an attention block; everything begins at a multiple of it.
    """
    shape = dataclasses.replace(trained, align=block, text_align=block)
    sizes = [shape.aligned(len(item.segment)) for item in items]
    text = max(shape.aligned_text(item.text_length) for item in items)
    total = max(SMALLEST_ROW, power_of_two(sum(sizes)))
    tokens = max(min(total, trained.tokens), max(sizes))
    tokens = shape.aligned(tokens)
    return dataclasses.replace(shape, tokens=tokens, text=max(tokens, text))


def pack_rows(items: Sequence[Item], shape: packing.RowShape) -> list[list[int]]:
    """Items (by index) to rows: the longest first, each into the first row it fits."""
    rows: list[list[int]] = []
    room: list[tuple[int, ...]] = []
    order = sorted(range(len(items)), key=lambda i: (-len(items[i].segment), i))
    for index in order:
        item = items[index]
        need = (
            shape.aligned(len(item.segment)),
            shape.aligned_text(item.text_length),
            1,
        )
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
