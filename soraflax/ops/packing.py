"""Packed rows: many clips, one sequence (NaViT, arXiv:2307.06304, section 2).

A *row* is one sequence of fixed capacity N. Every clip or image in it is a *segment*:
a run of tokens that share a segment id. Id 0 is padding. Attention never crosses a
segment, so a packed row computes what its clips would compute alone.

Noise levels live in a small table beside the row, one pair of entries per segment,

    levels[2 s]     the level of the tokens of segment s being denoised,    (1)
    levels[2 s + 1] the level of its given tokens (`cond_mask`), 0,         (2)

and every token points into it. Modulation is computed on the table, which is short,
and gathered by token.

`Segment` and `assemble` are the host's side of the same idea (numpy, before a device
sees anything); the data pipeline and the generator both build rows with them.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from soraflax.ops import patch as patches


@dataclasses.dataclass(frozen=True)
class RowShape:
    """Capacity of a row.

    Attributes:
      tokens: N, patches in a row.
      text: M, text tokens in a row.
      segments: S, segments in a row.
      align: every segment starts at a multiple of this; 128 suits block-sparse
        attention on accelerators, 1 leaves no gaps.
      text_align: the same for the text of every segment.
    """

    tokens: int
    text: int
    segments: int
    align: int = 1
    text_align: int = 1

    def aligned(self, length: int) -> int:
        """Tokens of the row that a segment of `length` occupies, its gap included."""
        return -(-length // self.align) * self.align

    def aligned_text(self, length: int) -> int:
        """Text tokens that a text of `length` occupies, its gap included."""
        return -(-length // self.text_align) * self.text_align

    @classmethod
    def fitting(
        cls,
        rows: Sequence[Sequence["Segment"]],
        *,
        align: int = 1,
        text_align: int = 1,
    ) -> "RowShape":
        """The smallest shape that holds each of `rows`."""
        empty = cls(0, 0, 0, align, text_align)
        return dataclasses.replace(
            empty,
            tokens=max(sum(empty.aligned(len(s)) for s in row) for row in rows),
            text=max(sum(empty.aligned_text(len(s.text)) for s in row) for row in rows),
            segments=max(len(row) for row in rows),
        )


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "tokens",
        "segments",
        "positions",
        "levels",
        "level_ids",
        "text",
        "text_segments",
    ],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Packed:
    """A batch of packed rows, handed on as one value.

    Attributes:
      tokens: patches of latent, `[B, N, P]`; the contents of padding do not matter.
      segments: `[B, N]` int32, 1..S, 0 where padded; equal ids are contiguous in a row
        or, where it is striped (`stripe`), in every shard of it.
      positions: `[B, N, 3]` float32: time, height, width. Time is in latent frames at
        the reference frame rate, height and width in patches.
      levels: `[B, 2 S + 2]` float32 in [0, 1], the table of equations (1) and (2).
      level_ids: `[B, N]` int32 into `levels`: `2 * segment + cond_mask`.
      text: `[B, M]` int32 token ids, or `[B, M, E]` features of an outside encoder.
      text_segments: `[B, M]` int32, the segment of each text token, 0 where padded.
    """

    tokens: Any
    segments: Any
    positions: Any
    levels: Any
    level_ids: Any
    text: Any
    text_segments: Any

    @classmethod
    def shapes(
        cls, row: RowShape, *, rows: int = 1, patch_size: int, text_width: int | None
    ) -> "Packed":
        """ShapeDtypeStructs of a batch, for compiling without data.

        Args:
          row: capacity of each row.
          rows: B.
          patch_size: P, numbers in a token.
          text_width: E where text comes as features; None where it is token ids.
        """
        tokens, text = (rows, row.tokens), (rows, row.text)
        features = () if text_width is None else (text_width,)
        ids, number, shape = jnp.int32, jnp.float32, jax.ShapeDtypeStruct
        return cls(
            tokens=shape((*tokens, patch_size), number),
            segments=shape(tokens, ids),
            positions=shape((*tokens, 3), number),
            levels=shape((rows, 2 * row.segments + 2), number),
            level_ids=shape(tokens, ids),
            text=shape((*text, *features), number if features else ids),
            text_segments=shape(text, ids),
        )

    @classmethod
    def zeros(
        cls, row: RowShape, *, rows: int = 1, patch_size: int, text_width: int | None
    ) -> "Packed":
        """Empty rows, all padding (numpy arrays); arguments as of `shapes`."""
        shapes = cls.shapes(
            row, rows=rows, patch_size=patch_size, text_width=text_width
        )
        return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)

    @property
    def cond_mask(self) -> Any:
        """`[B, N]` bool: the token is given, not denoised. False in padding."""
        return (self.level_ids % 2 == 1) & (self.segments > 0)

    @property
    def max_segments(self) -> int:
        """S, the capacity of a row in segments."""
        return self.levels.shape[-1] // 2 - 1

    @property
    def noise_levels(self) -> Float[Array, "B N"]:
        """The noise level of every token, gathered from the table."""
        return jnp.take_along_axis(self.levels, self.level_ids, axis=1)

    def replace(self, **changes: Any) -> "Packed":
        return dataclasses.replace(self, **changes)


def level_table(levels: Float[Array, "B S1"]) -> Float[Array, "B L"]:
    """The table (1)-(2) from one noise level per segment id, id 0 included."""
    pairs = jnp.stack([levels, jnp.zeros_like(levels)], axis=-1)
    return pairs.reshape(levels.shape[0], -1)


def segment_sum(
    values: Float[Array, "B N"], segments: Int[Array, "B N"], *, max_segments: int
) -> Float[Array, "B S1"]:
    """Sum of `values` over each segment; column 0 collects the padding."""
    one_hot = jax.nn.one_hot(segments, max_segments + 1, dtype=values.dtype)
    return jnp.einsum("bn,bns->bs", values, one_hot)


def segment_mean(
    values: Float[Array, "B N D"], segments: Int[Array, "B N"], *, max_segments: int
) -> Float[Array, "B S1 D"]:
    """Mean of `values` over each segment, 0 for an empty one and for the padding."""
    one_hot = jax.nn.one_hot(segments, max_segments + 1, dtype=values.dtype)
    one_hot = one_hot.at[..., 0].set(0)
    counts = jnp.maximum(jnp.sum(one_hot, axis=1), 1)
    return jnp.einsum("bnd,bns->bsd", values, one_hot) / counts[..., None]


def segment_gather(
    values: Float[Array, "B S1"], segments: Int[Array, "B N"]
) -> Float[Array, "B N"]:
    """One value per segment, given to each of its tokens."""
    return jnp.take_along_axis(values, segments, axis=1)


@dataclasses.dataclass(frozen=True)
class Segment:
    """One clip before it is packed (host arrays).

    Attributes:
      tokens: `[n, P]` float32 patches.
      positions: `[n, 3]` float32: time, height, width, as in `Packed`.
      cond_mask: `[n]` bool; the token is given, not denoised.
      text: `[m]` int32 ids or `[m, E]` float32 features; `m >= 1`.
      clip: id of the clip, which rows do not hold; "" where it is not known.
    """

    tokens: Float[np.ndarray, "n P"]
    positions: Float[np.ndarray, "n 3"]
    cond_mask: Bool[np.ndarray, "n"]
    text: np.ndarray
    clip: str = ""

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def from_latent(
        cls,
        latent: Float[np.ndarray, "time height width z"],
        text: Int[np.ndarray, "m"] | Float[np.ndarray, "m E"],
        *,
        patch: patches.Sizes,
        time_step: float = 1.0,
    ) -> "Segment":
        """A whole clip to be denoised, or an image (time 1).

        Args:
          latent: normalised latent.
          text: `[m]` int32 token ids or `[m, E]` float32 features.
          patch: time, height and width of a patch.
          time_step: distance between two latent frames, in latent frames at the
            reference frame rate (a clip at half that rate has 2.0).

        Raises:
          ValueError: a size of the latent is not a multiple of the patch.
        """
        tokens = np.asarray(patches.patchify(latent, patch), np.float32)
        grid = patches.patch_grid(latent.shape, patch)
        return cls(
            tokens=tokens,
            positions=patches.positions(grid, time_step=time_step * patch[0]),
            cond_mask=np.zeros(len(tokens), bool),
            text=text,
        )


def assemble(rows: Sequence[Sequence[Segment]], shape: RowShape) -> Packed:
    """Place segments one after the other in rows; a `Packed` of numpy arrays.

    Segment k of a row gets id k + 1. `levels` is zero: whoever adds noise fills it.

        >>> import numpy as np
        >>> from soraflax.ops import packing
        >>> clip = np.zeros((5, 4, 6, 16), np.float32)  # 5 latent frames of 4 x 6
        >>> image = np.zeros((1, 8, 8, 16), np.float32)
        >>> caption = np.array([7, 2, 1], np.int32)
        >>> row = [
        ...     packing.Segment.from_latent(latent, caption, patch=(1, 2, 2))
        ...     for latent in (clip, image, clip)
        ... ]
        >>> shape = packing.RowShape.fitting([row], align=16)
        >>> packed = packing.assemble([row], shape)
        >>> packed.tokens.shape  # 30, 16 and 30 tokens, and 2 + 2 of padding
        (1, 80, 64)
        >>> np.bincount(packed.segments[0])
        array([ 4, 30, 16, 30])

    Args:
      rows: the segments of each row; at least one in all.
      shape: capacity of a row.

    Raises:
      ValueError: a row's segments exceed its tokens, text or segment count.
    """
    first = next(segment for row in rows for segment in row)
    packed = Packed.zeros(
        shape,
        rows=len(rows),
        patch_size=first.tokens.shape[1],
        text_width=first.text.shape[1] if first.text.ndim == 2 else None,
    )
    for index, row in enumerate(rows):
        _fill_row(packed, index, row=row, shape=shape)
    return packed


def _fill_row(
    packed: Packed, index: int, *, row: Sequence[Segment], shape: RowShape
) -> None:
    if len(row) > shape.segments:
        raise ValueError(f"{len(row)} segments in a row that holds {shape.segments}")
    start = text_start = 0
    for number, segment in enumerate(row, start=1):
        stop = start + len(segment)
        text_stop = text_start + len(segment.text)
        if stop > shape.tokens or text_stop > shape.text:
            raise ValueError(
                f"segments need {stop} tokens and {text_stop} text tokens; "
                f"the row holds {shape.tokens} and {shape.text}"
            )
        packed.tokens[index, start:stop] = segment.tokens
        packed.segments[index, start:stop] = number
        packed.positions[index, start:stop] = segment.positions
        # Equations (1) and (2): the odd entries of the table are those of given tokens.
        packed.level_ids[index, start:stop] = 2 * number + segment.cond_mask
        packed.text[index, text_start:text_stop] = segment.text
        packed.text_segments[index, text_start:text_stop] = number
        # The gap up to the next multiple of `align` stays padding (id 0).
        start += shape.aligned(len(segment))
        text_start += shape.aligned_text(len(segment.text))


def stripe(packed: Packed, *, shards: int, block: int = 128) -> Packed:
    """The same rows with their tokens striped over shards (striped attention).

    Block b of a row goes to shard `b mod shards` (arXiv:2311.09431). Every shard then
    has nearly as many tokens of every segment as the others, so that in ring attention
    (attention/ring.py) each device has as much to compute in every step as
    its neighbours. Unstriped, a long segment keeps some devices busy while others wait.
    Ids still increase within a shard, and every token keeps its position: only its
    index in the row changes.

    Args:
      packed: rows of numpy arrays.
      shards: shards of the ring; with 1, `packed` itself.
      block: tokens that stay together; the greatest divisor that fits a shard is taken.

    Raises:
      ValueError: the shards do not divide the row.
    """
    if shards == 1:
        return packed
    order = stripe_order(packed.segments.shape[1], shards=shards, block=block)
    return packed.replace(
        tokens=packed.tokens[:, order],
        segments=packed.segments[:, order],
        positions=packed.positions[:, order],
        level_ids=packed.level_ids[:, order],
    )


def stripe_order(tokens: int, *, shards: int, block: int = 128) -> Int[np.ndarray, "N"]:
    """For each index of a striped row, the token's index before; `argsort` inverts it.

    Raises:
      ValueError: the shards do not divide the row.
    """
    if tokens % shards:
        nearest = max(1, round(tokens / shards)) * shards
        raise ValueError(
            f"a row of {tokens} tokens does not divide over {shards} shards; nearest "
            f"that does: {nearest}"
        )
    size = math.gcd(block, tokens // shards)
    # [rounds, shards, size]: round r deals one block to each shard. With shards first,
    # a shard's blocks lie end to end, in the order of the row.
    indices = np.arange(tokens).reshape(-1, shards, size)
    return np.swapaxes(indices, 0, 1).reshape(-1)


def segment_slices(
    rows: Sequence[Sequence[Segment]], shape: RowShape
) -> list[list[slice]]:
    """The tokens of each segment after `assemble`: `[row][segment] -> slice`."""
    slices = []
    for row in rows:
        starts = itertools.accumulate(
            (shape.aligned(len(segment)) for segment in row), initial=0
        )
        slices.append(
            [
                slice(start, start + len(segment))
                for start, segment in zip(starts, row, strict=False)
            ]
        )
    return slices
