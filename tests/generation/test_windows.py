"""Long canvases in windows, large ones in tiles."""

import dataclasses
import itertools

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from soraflax.autoencoding import tiling
from soraflax.generation import batching, windows
from soraflax.generation import canvas as canvases
from soraflax.generation import generator as generators
from soraflax.ops import grid as grids
from soraflax.ops import packing
from tests.generation import tiny

GRID = grids.Grid(temporal_ratio=4, spatial_ratio=8, channels=4, patch=(1, 2, 2))
FAST = generators.SamplingConfig(steps=2, guidance=1.0)
HALF = windows.WindowConfig(length=4, overlap=2)
TILED = windows.WindowConfig(tile=(32, 32), tile_overlap=16)


@pytest.fixture(scope="module")
def generator():
    return generators.Generator(tiny.model())


def random_canvas(shape=(8, 4, 4, 4), known=(), seed=0):
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape[:3], bool)
    mask[list(known)] = True
    return canvases.Canvas(rng.normal(size=shape).astype(np.float32), mask)


def fill(generator, canvas, config, seed=5):
    how = dataclasses.replace(FAST, windows=config)
    canvas = dataclasses.replace(canvas, text="a red circle moves", seed=seed)
    return generator.fill([canvas], how)[0]


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(
    patches=st.integers(1, 60),
    patch=st.integers(1, 3),
    length=st.integers(2, 20),
    overlap=st.integers(1, 19),
)
def test_windows_cover_everything_and_share(patches, patch, length, overlap):
    hypothesis.assume(overlap < length and length >= 2 * patch)
    config = windows.WindowConfig(length, overlap)
    frames, most = patches * patch, length // patch * patch
    spans = windows.spans(frames, config, patch=patch)
    assert spans[0][0] == 0 and spans[-1][1] == frames
    for start, stop in spans:
        assert start % patch == stop % patch == 0
        assert stop - start == min(frames, most)
    for (start, stop), (after, end) in itertools.pairwise(spans):
        assert start < after < stop < end
        assert stop - after >= min(overlap, most - patch)


@pytest.mark.parametrize("frames", (1, 4, 6))
def test_what_fits_a_window_is_one(frames):
    assert windows.spans(frames, windows.WindowConfig(6, 3), patch=1) == [(0, frames)]
    assert windows.spans(frames, windows.WindowConfig(), patch=1) == [(0, frames)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: windows.WindowConfig(4, 4), "of 4 latent frames that share 4: use 3"),
        (lambda: windows.WindowConfig(4, 0), "that share 0: use 1"),
        (lambda: windows.WindowConfig(1, 1), "of 1 latent frames: use 2 or more, or 0"),
        (lambda: windows.WindowConfig(-2), "of -2 latent frames: use 2 or more"),
        (
            lambda: windows.spans(8, windows.WindowConfig(3, 1), patch=2),
            "windows of 3 latent frames: use 4 or more",
        ),
        (
            lambda: windows.tiles(
                random_canvas(), GRID, config=windows.WindowConfig(tile=(32, 40))
            ),
            "40 pixels wide in a tile: use 32 or 48",
        ),
        (
            lambda: windows.tiles(
                random_canvas((1, 16, 16, 4)),
                GRID,
                config=windows.WindowConfig(tile=(32, 32)),
            ),
            "tiles of 32x32 pixels that share 32: use sides of 48 or more",
        ),
    ],
)
def test_impossible_windows_and_tiles_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_window_knows_what_is_made():
    """Equation (1)."""
    canvas = random_canvas(known=(1, 6))
    made = np.full(canvas.latent.shape, 7, np.float32)
    part = windows.window_canvas(canvas, made, start=2, stop=7, done=4)
    assert part.cond_mask[:, 0, 0].tolist() == [True, True, False, False, True]
    assert (part.latent[:2] == 7).all()
    np.testing.assert_array_equal(part.latent[2:], canvas.latent[4:7])


def test_filled_in_windows_as_by_hand(generator):
    """With the numbers of the whole canvas, so that windows differ in their noise."""
    canvas = canvases.Canvas.empty((8, 4, 4, 4))
    whole = fill(generator, canvas, HALF)
    by_hand = np.zeros_like(whole)
    done = 0
    for start, stop in windows.spans(8, HALF, patch=1):
        part = windows.window_canvas(canvas, by_hand, start=start, stop=stop, done=done)
        found = fill(generator, part, windows.WindowConfig())
        if not start:
            by_hand[:stop] = found
            np.testing.assert_array_equal(whole[:stop], by_hand[:stop])
        else:
            np.testing.assert_array_equal(found[: done - start], by_hand[start:done])
            assert (found[done - start :] != whole[done:stop]).any()
        by_hand[start:stop], done = whole[start:stop], stop


def test_one_window_is_no_window(generator):
    canvas = random_canvas((4, 4, 4, 4), known=(0,))
    np.testing.assert_array_equal(
        fill(generator, canvas, HALF), fill(generator, canvas, windows.WindowConfig())
    )


@pytest.mark.parametrize("config", (HALF, dataclasses.replace(TILED, length=4)))
def test_known_latents_come_back_bit_for_bit(generator, config):
    canvas = random_canvas((7, 8, 8, 4), known=(0, 3, 6))
    canvas.cond_mask[5, 2:6, 4:] = True
    filled = fill(generator, canvas, config)
    np.testing.assert_array_equal(
        filled[canvas.cond_mask], canvas.latent[canvas.cond_mask]
    )
    assert (
        (filled[~canvas.cond_mask] != canvas.latent[~canvas.cond_mask])
        .any(axis=-1)
        .all()
    )


def test_noise_of_windows_and_tiles():
    """A token's noise is that of its number in the whole canvas, whoever asks."""
    grid, far = (2, 3, 4), (tiling.Span(1, 3, 3), tiling.Span(2, 4, 4))
    whole = (tiling.Span(0, 3, 3), tiling.Span(0, 4, 4))
    first = windows.token_ids(grid, whole, first=0)
    assert first.tolist() == list(range(24))
    later = windows.token_ids(grid, whole, first=2)
    assert not set(first) & set(later)
    found = windows.token_ids(grid, far, first=0)
    assert found.tolist() == [6, 7, 10, 11, 18, 19, 22, 23]


def test_frames_are_streamed_once_in_order(generator):
    canvas = random_canvas(known=(0,))
    short = random_canvas((2, 4, 4, 4))
    both = [dataclasses.replace(c, text="a dot", seed=1) for c in (canvas, short)]
    config = dataclasses.replace(FAST, windows=HALF)
    parts = list(generator.stream(both, config))
    assert [(i, len(part)) for i, part in parts] == [(0, 4), (1, 2), (0, 2), (0, 2)]
    (whole, other) = generator.fill(both, config)
    mine = np.concatenate([part for i, part in parts if i == 0])
    np.testing.assert_array_equal(mine, whole)
    np.testing.assert_array_equal(parts[1][1], other)


def test_windows_are_made_when_they_are_asked_for(generator):
    """Four frames of twelve are there after one window's steps, no more."""
    canvas = canvases.Canvas.empty((12, 4, 4, 4))
    config = dataclasses.replace(FAST, windows=HALF)
    seen = []
    stream = generator.stream(
        [canvas],
        config,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == []
    next(stream)
    assert seen == [(1, 10), (2, 10)]
    stream.close()
    assert len(seen) == 2


def test_long_canvases_depend_on_every_window_before(generator):
    canvas = random_canvas(known=(0,))
    other = dataclasses.replace(
        canvas, latent=canvas.latent + canvas.cond_mask[..., None]
    )
    a, b = (fill(generator, c, HALF) for c in (canvas, other))
    assert (np.abs(a - b)[-1] > 1e-6).any()


def test_a_tile_as_large_as_the_frame_is_no_tile(generator):
    canvas = random_canvas((2, 8, 8, 4), known=(0,))
    for tile in ((64, 64), (128, 96)):
        np.testing.assert_array_equal(
            fill(generator, canvas, windows.WindowConfig(tile=tile)),
            fill(generator, canvas, windows.WindowConfig()),
        )


def test_tiles_cover_the_canvas_and_agree(generator):
    canvas = random_canvas((1, 8, 12, 4))
    tiles = windows.tiles(canvas, GRID, config=TILED)
    covered = np.zeros((4, 6), int)
    for rows, columns in tiles:
        covered[rows.start : rows.stop, columns.start : columns.stop] += 1
    assert covered.min() == 1 and covered.max() == 4
    filled = fill(generator, canvas, TILED)
    assert np.isfinite(filled).all() and filled.std() > 0


def test_tiled_canvases_do_not_depend_on_what_shares_the_rows(generator):
    """Where four tiles meet, the order of their sum must not either."""
    canvas = random_canvas((2, 8, 8, 4), known=(0,))
    alone = fill(generator, canvas, TILED)
    others = [random_canvas(s, seed=1) for s in ((1, 4, 4, 4), (3, 8, 4, 4))]
    others = [dataclasses.replace(c, text="other things", seed=1) for c in others]
    mine = dataclasses.replace(canvas, text="a red circle moves", seed=5)
    config = dataclasses.replace(FAST, windows=TILED)
    found = generator.fill([others[0], mine, others[1]], config)
    np.testing.assert_array_equal(found[1], alone)
    for index, other in ((0, others[0]), (2, others[1])):
        np.testing.assert_array_equal(found[index], generator.fill([other], config)[0])


def test_overlapping_tokens_are_weighted_means():
    """Two tiles of 1 x 2 patches that share one, in rows of their own."""
    canvas = canvases.Canvas.empty((1, 2, 6, 4))
    scheduler = windows.WindowScheduler(
        [canvas],
        windows.WindowConfig(tile=(16, 32), tile_overlap=16),
        grid=GRID,
        statistics=tiny.model().config.statistics,
        read=lambda text: np.zeros(1, np.int32),
    )
    first, second = scheduler.tiles(0)
    assert first.token_ids.tolist() == [0, 1] and second.token_ids.tolist() == [1, 2]
    first = dataclasses.replace(first, weights=np.asarray([1, 3], np.float32))
    shape = packing.RowShape(tokens=4, text=4, segments=2)
    overlap = batching.TileOverlap.of([[first], [second]], shape)
    assert overlap is not None
    x = np.arange(8, dtype=np.float32).reshape(2, 4, 1)
    found = np.asarray(overlap.average(jnp.asarray(x)))[..., 0]
    shared = (3 * x[0, 1, 0] + x[1, 0, 0]) / 4
    assert found.tolist() == [[0, shared, 2, 3], [shared, 5, 6, 7]]
    again = np.asarray(overlap.average(jnp.asarray(found[..., None])))[..., 0]
    np.testing.assert_array_equal(again, found)
    constant = np.full((2, 4, 1), 0.37, np.float32)
    np.testing.assert_allclose(
        np.asarray(overlap.average(jnp.asarray(constant))), constant, rtol=1e-6
    )


def test_models_of_images_or_of_unknown_clips_have_no_windows():
    model = tiny.model()
    for window, expected in ((0, 0), (1, 0), (2, 2), (9, 9)):
        config = dataclasses.replace(model.config, window=window)
        found = generators.Generator(dataclasses.replace(model, config=config)).windows
        assert found.length == expected
        assert not expected or found.overlap == expected // 2
