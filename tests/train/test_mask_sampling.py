"""Which tokens a training canvas knows: whole frames, boxes, never everything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax.ops import packing, patch
from soraflax.train import mask_sampling

GRIDS = ((5, 2, 3), (1, 3, 3), (3, 4, 4))
STEPS = (1.0, 1.0, 2.5)
SHAPE = packing.RowShape(tokens=112, text=12, segments=4, align=4)
RATES = mask_sampling.MaskRates
draw = jax.jit(mask_sampling.sample_masks, static_argnames="rates")


@pytest.fixture
def packed():
    row = [
        packing.Segment(
            tokens=np.zeros((t * h * w, 4), np.float32),
            positions=patch.positions((t, h, w), time_step=step),
            cond_mask=np.zeros(t * h * w, bool),
            text=np.ones(2, np.int32),
        )
        for (t, h, w), step in zip(GRIDS, STEPS, strict=True)
    ]
    return jax.tree.map(jnp.asarray, packing.assemble([row, row[::-1]], SHAPE))


def masks(drawn):
    """`[t, h, w]` bool of every segment of the first row."""
    starts = np.cumsum([0, *(SHAPE.aligned(t * h * w) for t, h, w in GRIDS)])
    known = np.asarray(drawn.cond_mask[0])
    return [
        known[start : start + t * h * w].reshape(t, h, w)
        for start, (t, h, w) in zip(starts, GRIDS, strict=False)
    ]


def test_places(packed):
    place, extent = jax.jit(mask_sampling.grid_indices)(packed)
    start = 0
    for t, h, w in GRIDS:
        n = t * h * w
        expected = np.stack(np.unravel_index(np.arange(n), (t, h, w)), axis=-1)
        np.testing.assert_array_equal(place[0, start : start + n], expected)
        np.testing.assert_array_equal(
            extent[0, start : start + n], np.broadcast_to((t, h, w), (n, 3))
        )
        start += SHAPE.aligned(n)


def first_frame(frames):
    return frames == [True] + [False] * (len(frames) - 1)


def prefix(frames):
    return sorted(frames, reverse=True) == frames and frames[0]


def suffix(frames):
    return sorted(frames) == frames and frames[-1]


def both_ends(frames):
    inner = frames[frames.index(False) : len(frames) - frames[::-1].index(False)]
    return frames[0] and frames[-1] and not any(inner)


@pytest.mark.parametrize(
    ("rates", "check", "counts"),
    [
        (RATES(first_frame=1.0), first_frame, {(5, 1), (3, 1)}),
        (RATES(prefix=1.0), prefix, {(5, 1), (5, 4), (3, 1), (3, 2)}),
        (RATES(suffix=1.0), suffix, {(5, 1), (5, 4), (3, 1), (3, 2)}),
        (RATES(both_ends=1.0), both_ends, {(5, 2), (5, 3), (5, 4), (3, 2)}),
        (RATES(frames=1.0), lambda k: True, {(5, 0), (5, 2), (5, 4), (3, 1)}),
    ],
)
def test_whole_frames_are_known_and_never_all(packed, rates, check, counts):
    seen = set()
    for seed in range(40):
        drawn = draw(packed, jax.random.key(seed), rates=rates)
        assert not drawn.cond_mask[packed.segments == 0].any()
        for mask in masks(drawn):
            t = len(mask)
            frames: list[bool] = [bool(frame.all()) for frame in mask]
            assert (mask == mask[:, :1, :1]).all()
            if t == 1:
                assert frames == [False]
                continue
            assert not all(frames) and check(frames)
            seen.add((t, sum(frames)))
    assert counts <= seen


def test_boxes_are_boxes_in_every_frame_and_in_images_too(packed):
    inside = outside = images = 0
    for seed in range(40):
        drawn = draw(packed, jax.random.key(seed), rates=RATES(boxes=1.0))
        for mask in masks(drawn):
            assert (mask == mask[:1]).all() and not mask.all()
            frame = mask[0]
            images += len(mask) == 1 and frame.any()
            if not frame.any():
                continue
            if is_box(frame):
                inside += 1
            if is_box(~frame):
                outside += 1
            assert is_box(frame) or is_box(~frame)
    assert inside and outside and images


def is_box(frame):
    rows, columns = frame.any(axis=1), frame.any(axis=0)
    filled = np.outer(rows, columns)
    runs = [
        np.abs(np.diff(np.pad(side, 1).astype(int))).sum() for side in (rows, columns)
    ]
    return bool((filled == frame).all()) and runs == [2, 2]


def test_what_a_batch_knows_already_stays_known(packed):
    given = packed.replace(level_ids=packed.level_ids.at[0, :6].add(1))
    for seed in range(5):
        drawn = draw(given, jax.random.key(seed), rates=RATES(suffix=0.5, boxes=0.5))
        assert drawn.cond_mask[0, :6].all()


def test_rates_are_rates(packed):
    rates = RATES(first_frame=0.3, prefix=0.1, boxes=0.1)
    drawn = [
        draw(packed, jax.random.key(seed), rates=rates).cond_mask[1].any()
        for seed in range(200)
    ]
    # Two clips a row, each with something known half of the time, boxes not always.
    assert 0.5 < np.mean(drawn) < 0.9
    with pytest.raises(ValueError, match="sum to at most 1"):
        RATES(first_frame=0.6, prefix=0.6)


def test_no_rates_change_nothing(packed):
    assert (
        mask_sampling.sample_masks(packed, jax.random.key(0), rates=RATES()) is packed
    )
