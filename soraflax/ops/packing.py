"""Packed rows: many clips, one sequence (NaViT, arXiv:2307.06304, section 2).

A *row* is one sequence of fixed capacity N. Every clip or image in it is a *segment*:
a run of tokens that share a segment id. Id 0 is padding. Attention never crosses a
segment, so a packed row computes what its clips would compute alone.

Noise levels live in a small table beside the row, one pair of entries per segment,

    levels[2 s]     the level of segment s where it is being denoised,      (1)
    levels[2 s + 1] the level of what is already known of segment s, 0,     (2)

and every token points into it. Modulation is computed on the table, which is short,
and gathered by token.

`Segment` and `assemble` are the host's side of the same idea (numpy, before a device
sees anything); the data pipeline and the generator both build rows with them.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


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
    """A batch of packed rows; it always travels whole.

    Attributes:
      tokens: patches of latent, `[B, N, P]`; the contents of padding do not matter.
      segments: `[B, N]` int32, 1..S, 0 where padded; equal ids are contiguous, in a row
        or, where it is dealt (`stripe`), in every shard of it.
      positions: `[B, N, 3]` float32: time, height, width. Time is in latent frames at
        the reference frame rate, height and width in patches.
      levels: `[B, 2 S + 2]` float32 in [0, 1], the table of equations (1) and (2).
      level_ids: `[B, N]` int32 into `levels`: `2 * segment + cond_mask`.
      text: `[B, M]` int32 token ids, or `[B, M, E]` features of an outside encoder.
      text_segments: `[B, M]` int32, the segment each text token belongs to, 0 padded.
    """

    tokens: Any
    segments: Any
    positions: Any
    levels: Any
    level_ids: Any
    text: Any
    text_segments: Any

    @property
    def cond_mask(self) -> Any:
        """`[B, N]` bool: the token is given, not denoised. False in padding."""
        return (self.level_ids % 2 == 1) & (self.segments > 0)

    @property
    def max_segments(self) -> int:
        """S, the most segments a row of this batch can hold."""
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
      positions: `[n, 3]` float32.
      cond_mask: `[n]` bool; the token is given, not denoised.
      text: `[m]` int32 ids or `[m, E]` float32 features; `m >= 1`.
    """

    tokens: Float[np.ndarray, "n P"]
    positions: Float[np.ndarray, "n 3"]
    cond_mask: Bool[np.ndarray, "n"]
    text: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)


@dataclasses.dataclass(frozen=True)
class RowShape:
    """Capacity of a row.

    Attributes:
      tokens: N, patches a row holds.
      text: M, text tokens a row holds.
      segments: S, segments a row holds.
      align: every segment starts at a multiple of this; 128 suits block-sparse
        attention on accelerators, 1 wastes nothing.
      text_align: the same for the text of every segment.
    """

    tokens: int
    text: int
    segments: int
    align: int = 1
    text_align: int = 1

    def aligned(self, length: int) -> int:
        """Room that a segment of `length` tokens takes."""
        return -(-length // self.align) * self.align

    def aligned_text(self, length: int) -> int:
        """Room that a text of `length` tokens takes."""
        return -(-length // self.text_align) * self.text_align


def assemble(rows: Sequence[Sequence[Segment]], shape: RowShape) -> Packed:
    """Lay segments into rows; returns a `Packed` of numpy arrays.

    Segment k of a row gets id k + 1. `levels` is zero: whoever adds noise fills it.

    Raises:
      ValueError: a row's segments exceed its tokens, text or segment count.
    """
    width = next(s.tokens.shape[1] for row in rows for s in row)
    first_text = next(s.text for row in rows for s in row)
    b = len(rows)
    packed = Packed(
        tokens=np.zeros((b, shape.tokens, width), np.float32),
        segments=np.zeros((b, shape.tokens), np.int32),
        positions=np.zeros((b, shape.tokens, 3), np.float32),
        levels=np.zeros((b, 2 * shape.segments + 2), np.float32),
        level_ids=np.zeros((b, shape.tokens), np.int32),
        text=np.zeros((b, shape.text, *first_text.shape[1:]), first_text.dtype),
        text_segments=np.zeros((b, shape.text), np.int32),
    )
    for index, row in enumerate(rows):
        _lay_row(packed, index, row=row, shape=shape)
    return packed


def _lay_row(
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
        packed.level_ids[index, start:stop] = 2 * number + segment.cond_mask
        packed.text[index, text_start:text_stop] = segment.text
        packed.text_segments[index, text_start:text_stop] = number
        start += shape.aligned(len(segment))
        text_start += shape.aligned_text(len(segment.text))


def stripe(packed: Packed, *, shards: int, block: int = 128) -> Packed:
    """The same rows, their tokens dealt out over the shards of a row (host arrays).

    Block b of a row goes to shard `b mod shards`. Every shard then has nearly the same
    share of every segment, so that where devices pass keys around (attention/ring.py)
    each has as much to do in every step as its neighbours. Left in place, a long
    segment keeps some devices busy and lets the others wait. Ids still increase within
    a shard, and every token keeps its position: only where it lies is new.

    Args:
      packed: rows of numpy arrays.
      shards: groups of the ring; with 1, `packed` itself.
      block: tokens dealt together; the greatest divisor that fits a shard is taken.

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
    """Which token of a row comes where when it is dealt; `argsort` undoes it."""
    if tokens % shards:
        nearest = max(1, round(tokens / shards)) * shards
        raise ValueError(
            f"a row of {tokens} tokens does not divide over {shards} shards; nearest "
            f"that does: {nearest}"
        )
    size = math.gcd(block, tokens // shards)
    places = np.arange(tokens).reshape(-1, shards, size)
    return np.swapaxes(places, 0, 1).reshape(-1)


def segment_slices(rows: Sequence[Sequence[Segment]], shape: RowShape) -> list[list]:
    """Where `assemble` put each segment: `[row][segment] -> slice` of tokens."""
    slices = []
    for row in rows:
        start, found = 0, []
        for segment in row:
            found.append(slice(start, start + len(segment)))
            start += shape.aligned(len(segment))
        slices.append(found)
    return slices
