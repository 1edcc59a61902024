"""Random canvases: which tokens of a training clip are already known.

A model that is to animate, extend, loop, connect, inpaint and outpaint must have met
such canvases. For every segment one kind is drawn, at the rates of `MaskRates`:

    kind          known                                                  clip, image
    nothing       no token                                               both
    first_frame   the first frame                                        clip
    prefix        the first k frames, k uniform in 1..t-1                clip
    suffix        the last k frames                                      clip
    both_ends     the first i frames and the last j; short ends mostly   clip
    frames        every frame with a probability that is drawn too       clip
    boxes         all outside of a box, or all inside of it              both

Frames are those of the latent, in patches; boxes have sides of a quarter to all of the
frame's, at any place, the same in all frames. A segment of which everything would be
known enters with nothing known. What a batch marks as known already stays so.

Draws depend on the key, the row and the segment's id, not on what else is in the row.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from soraflax.ops import packing

Packed = packing.Packed
_FRAMES = 64  # distinct draws for `frames`; longer clips use them again


@dataclasses.dataclass(frozen=True)
class MaskRates:
    """How often a segment enters as each kind; the rest of the time nothing is known.

    Kinds are those of the module's table. An image drawn as one that is for clips
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
            raise ValueError(f"canvas rates {rates} must be >= 0 and sum to at most 1")


def draw(packed: Packed, key: jax.Array, *, rates: MaskRates) -> Packed:
    """Mark what is known of each segment, beside what `packed` marks already."""
    if rates == MaskRates():
        return packed
    keys = segment_keys(key, (packed.segments.shape[0], packed.max_segments + 1))
    dice = jax.vmap(jax.vmap(lambda k: jax.random.uniform(k, (8 + _FRAMES,))))(keys)
    kind = packing.segment_gather(dice[..., 0], packed.segments)
    known = jnp.zeros(packed.segments.shape, bool)
    low = 0.0
    for name, mask in _masks(packed, dice).items():
        high = low + getattr(rates, name)
        known |= (kind >= low) & (kind < high) & mask
        low = high
    known = (known | packed.cond_mask) & (packed.segments > 0)
    known &= ~_complete(packed, known) | packed.cond_mask
    ids = packed.level_ids // 2 * 2 + known.astype(packed.level_ids.dtype)
    return packed.replace(level_ids=ids)


def _masks(packed: Packed, dice: jax.Array) -> dict[str, Bool[Array, "B N"]]:
    """What each kind would know of every segment, from its `8 + _FRAMES` uniforms."""
    place, extent = places(packed)
    index, frames = place[..., 0], extent[..., 0]

    def die(number: int) -> jax.Array:
        return packing.segment_gather(dice[..., number], packed.segments)

    clip = frames > 1.0
    run = jnp.minimum(1.0 + jnp.floor(die(1) * (frames - 1.0)), frames - 1.0)
    ahead = 1.0 + jnp.floor(jnp.square(die(1)) * jnp.maximum(frames - 2.0, 0.0))
    behind = 1.0 + jnp.floor(jnp.square(die(2)) * (frames - 1.0 - ahead))
    rolls = dice[..., 8:]
    number = index.astype(jnp.int32) % _FRAMES
    roll = jax.vmap(lambda table, s, n: table[s, n])(rolls, packed.segments, number)
    inside = jnp.ones(index.shape, bool)
    for axis, (size, start) in enumerate(((2, 3), (4, 5)), start=1):
        side = extent[..., axis]
        length = jnp.ceil(side * (0.25 + 0.75 * die(size)))
        begin = jnp.floor(die(start) * (side - length + 1.0))
        where = place[..., axis]
        inside &= (where >= begin) & (where < begin + length)
    return {
        "first_frame": clip & (index < 1.0),
        "prefix": clip & (index < run),
        "suffix": clip & (index >= frames - run),
        "both_ends": clip & ((index < ahead) | (index >= frames - behind)),
        "frames": clip & (roll < die(1)),
        "boxes": inside ^ (die(6) < 0.5),
    }


def _complete(packed: Packed, known: Bool[Array, "B N"]) -> Bool[Array, "B N"]:
    """Whether nothing of the token's segment is left to denoise."""
    left = packing.segment_sum(
        (~known).astype(jnp.float32), packed.segments, max_segments=packed.max_segments
    )
    return packing.segment_gather(left, packed.segments) < 0.5


def places(packed: Packed) -> tuple[Float[Array, "B N 3"], Float[Array, "B N 3"]]:
    """Of every token its frame, row and column, and how many its segment has of each.

    All in patches, counted from the segment's own first, whatever its positions start
    at. Rows and columns lie one apart; the spacing of frames is found from how many
    tokens the first of them has.
    """
    ids = jnp.arange(packed.max_segments + 1)
    mine: Bool[Array, "B N S1"] = packed.segments[..., None] == ids
    present = packed.segments > 0

    def count(where: Bool[Array, "B N"]) -> Float[Array, "B N"]:
        sums = packing.segment_sum(
            where.astype(jnp.float32),
            packed.segments,
            max_segments=packed.max_segments,
        )
        return packing.segment_gather(sums, packed.segments)

    found = []
    for axis in range(3):
        at = packed.positions[..., axis]
        start = jnp.min(jnp.where(mine, at[..., None], jnp.inf), axis=1)
        stop = jnp.max(jnp.where(mine, at[..., None], -jnp.inf), axis=1)
        start = packing.segment_gather(start, packed.segments)
        length = packing.segment_gather(stop, packed.segments) - start
        if axis:
            found.append((at - start, length + 1.0))
            continue
        first = jnp.maximum(count((at == start) & present), 1.0)
        frames = jnp.maximum(count(present) / first, 1.0)
        step = jnp.where(length > 0, length, 1.0)
        found.append((jnp.round((at - start) / step * (frames - 1.0)), frames))
    place, extent = zip(*found, strict=True)
    return jnp.stack(place, axis=-1), jnp.stack(extent, axis=-1)


def segment_keys(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A key for each row and segment id that depends on nothing else."""
    fold = jax.random.fold_in
    rows = jax.vmap(fold, (None, 0))(key, jnp.arange(shape[0]))
    return jax.vmap(jax.vmap(fold, (None, 0)), (0, None))(rows, jnp.arange(shape[1]))
