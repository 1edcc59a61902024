"""Segments of any sizes to packed rows of one capacity.

A video must not depend on what is generated with it, to the last bit. Sums depend on
how they are grouped, so tokens and texts begin at multiples of the attention block:
every segment then meets its own keys in the same blocks, wherever it lies.

    plan_rows      tiles to rows, and rows to batches that are denoised at once
    make_context   a batch as the arrays that a sampling step takes
    unpack         its denoised tokens, tile by tile
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from soraflax.generation import windows
from soraflax.nn import dit
from soraflax.ops import grid as grids
from soraflax.ops import packing

# Less than this a CPU's compiler would sum in another order.
MIN_ROW_TOKENS = 256

Row = list[windows.WindowTile]


def plan_rows(
    tiles: Sequence[windows.WindowTile],
    trained: packing.RowShape,
    *,
    block: int,
    max_rows: int,
) -> tuple[list[list[Row]], packing.RowShape]:
    """Batches of rows of tiles, and the capacity of a row.

    Args:
      tiles: of one window.
      trained: rows of training.
      block: tokens of an attention block; everything begins at a multiple of it.
      max_rows: rows that are denoised at once, at most; tiles that overlap are in one
        batch, however many rows they take.
    """
    shape = row_shape(tiles, trained, block=block)
    rows = pack_rows(tiles, shape)
    if any(tile.weights is not None for tile in tiles):
        max_rows = len(rows)
    return [rows[i : i + max_rows] for i in range(0, len(rows), max_rows)], shape


def row_shape(
    tiles: Sequence[windows.WindowTile], trained: packing.RowShape, *, block: int
) -> packing.RowShape:
    """Capacity of the rows: that of training, less if less will do, more if it must.

    Tokens are powers of two below the capacity of training, so that canvases of similar
    size meet the same compiled functions; there is room for as much text, or for that
    of training where it is features, which are large.

    Args:
      tiles, trained, block: as of `plan_rows`.
    """
    shape = dataclasses.replace(trained, align=block, text_align=block)
    sizes = [shape.aligned(len(tile.segment)) for tile in tiles]
    text = max(shape.aligned_text(_text_length(tile)) for tile in tiles)
    total = max(MIN_ROW_TOKENS, grids.power_of_two(sum(sizes)))
    tokens = max(min(total, trained.tokens), max(sizes))
    tokens = shape.aligned(tokens)
    features = any(tile.segment.text.ndim > 1 for tile in tiles)
    room = trained.text if features else tokens
    return dataclasses.replace(shape, tokens=tokens, text=max(room, text))


def pack_rows(
    tiles: Sequence[windows.WindowTile], shape: packing.RowShape
) -> list[Row]:
    """Tiles to rows: the longest first, each into the first row that has room."""
    rows: list[Row] = []
    room: list[tuple[int, ...]] = []
    for tile in sorted(tiles, key=lambda tile: (-len(tile.segment), tile.number)):
        need = (
            shape.aligned(len(tile.segment)),
            shape.aligned_text(_text_length(tile)),
            1,
        )
        fits = (i for i, free in enumerate(room) if np.all(np.less_equal(need, free)))
        at = next(fits, len(rows))
        if at == len(rows):
            rows.append([])
            room.append((shape.tokens, shape.text, shape.segments))
        rows[at].append(tile)
        room[at] = tuple(f - n for f, n in zip(room[at], need, strict=True))
    return rows


def _text_length(tile: windows.WindowTile) -> int:
    """Ids of the longer of its texts: rows of either are laid out alike."""
    return max(len(tile.segment.text), len(tile.negative_text))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SamplingContext:
    """A batch of B rows: what all steps of its sampling share.

    Attributes:
      packed: every row with the texts, and after all of them, for guidance, every row
        again with the negative texts: `[2 B, N]`. Texts are ids, or once they are
        encoded features.
      plans: of attention; None before texts are encoded.
      token_counts: `[B, S + 1]` tokens of each segment id, 0 where there is none.
      strengths: `[B, S + 1]` of the canvases, 1 where there is none.
      seeds: `[B, S + 1]` uint32.
      noise_ids: `[B, N]` int32, which of the noise of its seed each token takes.
      overlap: tokens that tiles share; None where there are no tiles.
    """

    packed: packing.Packed
    plans: dit.Plans | None
    token_counts: Any
    strengths: Any
    seeds: Any
    noise_ids: Any
    overlap: "TileOverlap | None"

    @property
    def conditional(self) -> packing.Packed:
        """The B rows with the texts."""
        rows = self.seeds.shape[0]
        return jax.tree.map(lambda a: a[:rows], self.packed)

    def replace(self, **changes: Any) -> "SamplingContext":
        return dataclasses.replace(self, **changes)


def make_context(rows: Sequence[Row], shape: packing.RowShape) -> SamplingContext:
    """The arrays of a batch (host arrays), filled up to a power of two with empty rows.

    Few numbers of rows are few compiled programs.
    """
    rows = [*rows, *([[]] * (grids.power_of_two(len(rows)) - len(rows)))]
    segments = [[tile.segment for tile in row] for row in rows]
    negatives = [
        [dataclasses.replace(tile.segment, text=tile.negative_text) for tile in row]
        for row in rows
    ]
    # Column 0 of the tables is the padding's; segment k of a row has id k + 1.
    table = (len(rows), shape.segments + 1)
    token_counts = np.zeros(table, np.int32)
    strengths = np.ones(table, np.float32)
    seeds = np.zeros(table, np.uint32)
    noise_ids = np.zeros((len(rows), shape.tokens), np.int32)
    slices = packing.segment_slices(segments, shape)
    for index, row in enumerate(rows):
        for number, tile in enumerate(row, start=1):
            token_counts[index, number] = len(tile.segment)
            strengths[index, number] = tile.canvas.strength
            seeds[index, number] = tile.canvas.seed
            noise_ids[index, slices[index][number - 1]] = tile.token_ids
    both = packing.assemble(segments, shape), packing.assemble(negatives, shape)
    return SamplingContext(
        packed=jax.tree.map(lambda *parts: np.concatenate(parts), *both),
        plans=None,
        token_counts=token_counts,
        strengths=strengths,
        seeds=seeds,
        noise_ids=noise_ids,
        overlap=TileOverlap.of(rows, shape),
    )


def unpack(
    tokens: Float[np.ndarray, "B N P"], rows: Sequence[Row], *, shape: packing.RowShape
) -> Iterator[tuple[windows.WindowTile, Float[np.ndarray, "n P"]]]:
    """Every tile of a batch with its tokens."""
    slices = packing.segment_slices([[t.segment for t in row] for row in rows], shape)
    for index, row in enumerate(rows):
        for tile, where in zip(row, slices[index], strict=True):
            yield tile, tokens[index, where]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["partners", "weights"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class TileOverlap:
    """Which tokens of a batch are one token of a canvas, in different tiles.

    Attributes:
      partners: `[B, N, K]` int32 below B N: where all that are one with a token lie, in
        the order of their tiles, itself included.
      weights: `[B, N, K]` float32, of each partner; 0 where there are fewer than K.
    """

    partners: Any
    weights: Any

    @classmethod
    def of(cls, rows: Sequence[Row], shape: packing.RowShape) -> "TileOverlap | None":
        """That of rows of tiles; None if none of them overlap."""
        segments = [[tile.segment for tile in row] for row in rows]
        slices = packing.segment_slices(segments, shape)
        # Tiles, and where in the batch (all rows end to end) their tokens begin, in the
        # order of the tiles: sums must not depend on the rows that tiles lie in.
        starts = sorted(
            (
                (tile.number, index * shape.tokens + where.start, tile)
                for index, row in enumerate(rows)
                for tile, where in zip(row, slices[index], strict=True)
                if tile.weights is not None
            ),
            key=lambda entry: entry[:2],
        )
        if not starts:
            return None
        # A token of a canvas: all its places in the batch, and their weights.
        copies: dict[tuple[int, int], list[tuple[int, float]]] = {}
        for _, start, tile in starts:
            token_weights = np.asarray(tile.weights).tolist()
            for at, token_id in enumerate(tile.token_ids.tolist()):
                copy = (start + at, token_weights[at])
                copies.setdefault((tile.canvas_index, token_id), []).append(copy)
        size, k = len(rows) * shape.tokens, max(map(len, copies.values()))
        # Whatever is in no tile (padding, other canvases) is its only partner.
        partners = np.repeat(np.arange(size, dtype=np.int32)[:, None], k, axis=1)
        weights = np.zeros((size, k), np.float32)
        weights[:, 0] = 1
        for entries in copies.values():
            where, shares = zip(*entries, strict=True)
            # All copies of a token get the same list of partners.
            partners[where, : len(entries)] = where
            weights[where, : len(entries)] = shares
        full = (len(rows), shape.tokens, k)
        return cls(partners.reshape(full), weights.reshape(full))

    def average(self, x: Float[Array, "B N P"]) -> Float[Array, "B N P"]:
        """Every token the weighted mean of its partners: overlap averaging.

        As in MultiDiffusion (arXiv:2302.08113, equation 5). Summed in the order of the
        tiles, which does not depend on the rows they lie in; a token alone stays as it
        is, bit for bit.
        """
        flat = x.reshape(-1, x.shape[-1])
        total, weight = jnp.zeros(x.shape, x.dtype), jnp.zeros(x.shape[:2], x.dtype)
        for k in range(self.partners.shape[-1]):
            total += flat[self.partners[..., k]] * self.weights[..., k, None]
            weight += self.weights[..., k]
        mean = total / weight[..., None]
        alone = jnp.sum(self.weights > 0, axis=-1) == 1
        return jnp.where(alone[..., None], x, mean)
