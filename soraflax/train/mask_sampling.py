"""Random conditioning masks: which tokens of a training clip are already known.

A model that is to animate, extend, loop, connect, inpaint and outpaint must have seen
such masks in training. Every segment draws one kind, at the rates of `MaskRates`:

    kind          known                                                  clip, image
    nothing       no token                                               both
    first_frame   the first frame                                        clip
    prefix        the first k frames, k uniform in 1..t-1                clip
    suffix        the last k frames                                      clip
    both_ends     the first i frames and the last j; short ends mostly   clip
    frames        every frame with a probability that is drawn too       clip
    boxes         all outside of a box, or all inside of it              both

Frames are those of the latent, in patches; boxes have sides of a quarter to all of the
frame's, at any position, the same in all frames. A segment whose every token would be
known enters with nothing known. Tokens that a batch marks as known stay known.

Draws depend on the key, the row and the segment's id, not on what else is in the row.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from soraflax.ops import packing

Packed = packing.Packed
_FRAMES = 64  # independent uniforms for `frames`; longer clips repeat them


@dataclasses.dataclass(frozen=True)
class MaskRates:
    """Probability of each kind of mask; with the rest, nothing is known.

    Kinds are those of the module's table. An image for which a kind of clips is drawn
    enters with nothing known.
    """

    first_frame: float = 0.0
    prefix: float = 0.0
    suffix: float = 0.0
    both_ends: float = 0.0
    frames: float = 0.0
    boxes: float = 0.0

    def __post_init__(self) -> None:
        rates = dataclasses.astuple(self)
        if min(rates) < 0 or sum(rates) > 1 + 1e-9:
            raise ValueError(f"mask rates {rates} must be >= 0 and sum to at most 1")


def sample_masks(packed: Packed, key: jax.Array, *, rates: MaskRates) -> Packed:
    """Mark random tokens of each segment as known, beside those marked already."""
    if rates == MaskRates():
        return packed
    keys = segment_keys(key, (packed.segments.shape[0], packed.max_segments + 1))
    uniforms = jax.vmap(jax.vmap(lambda k: jax.random.uniform(k, (8 + _FRAMES,))))(keys)
    kind = packing.segment_gather(uniforms[..., 0], packed.segments)
    known = jnp.zeros(packed.segments.shape, bool)
    # A kind is drawn where the first uniform falls into its part of [0, 1).
    low = 0.0
    for name, mask in _masks(packed, uniforms).items():
        high = low + getattr(rates, name)
        known |= (kind >= low) & (kind < high) & mask
        low = high
    known = (known | packed.cond_mask) & (packed.segments > 0)
    known &= ~_all_known(packed, known) | packed.cond_mask
    # A segment has two entries in the table of levels: even noisy, odd known.
    ids = packed.level_ids // 2 * 2 + known.astype(packed.level_ids.dtype)
    return packed.replace(level_ids=ids)


def _masks(
    packed: Packed, uniforms: Float[Array, "B S1 U"]
) -> dict[str, Bool[Array, "B N"]]:
    """The mask of every kind, from `8 + _FRAMES` uniforms in [0, 1) a segment."""
    index, extent = grid_indices(packed)
    frame, frames = index[..., 0], extent[..., 0]

    def uniform(number: int) -> jax.Array:
        return packing.segment_gather(uniforms[..., number], packed.segments)

    clip = frames > 1.0
    run = jnp.minimum(1.0 + jnp.floor(uniform(1) * (frames - 1.0)), frames - 1.0)
    # Squared, so that short ends are drawn more often than long ones; one frame stays
    # unknown between them.
    head = 1.0 + jnp.floor(jnp.square(uniform(1)) * jnp.maximum(frames - 2.0, 0.0))
    tail = 1.0 + jnp.floor(jnp.square(uniform(2)) * (frames - 1.0 - head))
    column = frame.astype(jnp.int32) % _FRAMES
    frame_uniform = jax.vmap(lambda table, segment, n: table[segment, n])(
        uniforms[..., 8:], packed.segments, column
    )
    inside = jnp.ones(frame.shape, bool)
    for axis, (size, start) in enumerate(((2, 3), (4, 5)), start=1):
        side = extent[..., axis]
        length = jnp.ceil(side * (0.25 + 0.75 * uniform(size)))
        begin = jnp.floor(uniform(start) * (side - length + 1.0))
        inside &= (index[..., axis] >= begin) & (index[..., axis] < begin + length)
    return {
        "first_frame": clip & (frame < 1.0),
        "prefix": clip & (frame < run),
        "suffix": clip & (frame >= frames - run),
        "both_ends": clip & ((frame < head) | (frame >= frames - tail)),
        "frames": clip & (frame_uniform < uniform(1)),
        "boxes": inside ^ (uniform(6) < 0.5),
    }


def _all_known(packed: Packed, known: Bool[Array, "B N"]) -> Bool[Array, "B N"]:
    """Whether the token's segment has no token left to denoise."""
    unknown = packing.segment_sum(
        (~known).astype(jnp.float32), packed.segments, max_segments=packed.max_segments
    )
    return packing.segment_gather(unknown, packed.segments) < 0.5


def grid_indices(
    packed: Packed,
) -> tuple[Float[Array, "B N 3"], Float[Array, "B N 3"]]:
    """Frame, row and column of every token, and the sizes of its segment's grid.

    In patches, counted from the first of the segment, at whatever position that lies.
    """
    ids = jnp.arange(packed.max_segments + 1)
    member: Bool[Array, "B N S1"] = packed.segments[..., None] == ids
    present = packed.segments > 0

    def count(mask: Bool[Array, "B N"]) -> Float[Array, "B N"]:
        sums = packing.segment_sum(
            mask.astype(jnp.float32),
            packed.segments,
            max_segments=packed.max_segments,
        )
        return packing.segment_gather(sums, packed.segments)

    indices, extents = [], []
    for axis in range(3):
        position = packed.positions[..., axis]
        start = jnp.min(jnp.where(member, position[..., None], jnp.inf), axis=1)
        stop = jnp.max(jnp.where(member, position[..., None], -jnp.inf), axis=1)
        start = packing.segment_gather(start, packed.segments)
        length = packing.segment_gather(stop, packed.segments) - start
        if axis:  # rows and columns lie one apart
            indices.append(position - start)
            extents.append(length + 1.0)
            continue
        # Time is physical: the spacing of frames differs between clips. Their number
        # is that of all tokens over the tokens of the first frame.
        frame_tokens = jnp.maximum(count((position == start) & present), 1.0)
        frames = jnp.maximum(count(present) / frame_tokens, 1.0)
        duration = jnp.where(length > 0, length, 1.0)
        indices.append(jnp.round((position - start) / duration * (frames - 1.0)))
        extents.append(frames)
    return jnp.stack(indices, axis=-1), jnp.stack(extents, axis=-1)


def segment_keys(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A PRNG key `[B, S1]` for each row and segment id that depends on nothing else."""
    fold = jax.random.fold_in
    rows = jax.vmap(fold, (None, 0))(key, jnp.arange(shape[0]))
    return jax.vmap(jax.vmap(fold, (None, 0)), (0, None))(rows, jnp.arange(shape[1]))
