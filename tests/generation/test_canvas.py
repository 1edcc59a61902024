import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soraflax.generation import canvas as canvases
from soraflax.nn import autoencoder

GRID = canvases.Grid(temporal_ratio=4, spatial_ratio=8, channels=3, patch=(1, 2, 2))
STATISTICS = autoencoder.LatentStatistics((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
TEXT = np.asarray([5, 1], np.int32)


@pytest.mark.parametrize(
    ("frames", "height", "width", "message"),
    [
        (80, 64, 64, "80 frames: use 77 or 81"),
        (0, 64, 64, "0 frames: use 1"),
        (17, 64, 97, "97 pixels wide: use 96 or 112"),
        (17, 72, 64, "72 pixels high: use 64 or 80"),
        (17, 3, 64, "3 pixels high: use 16"),
    ],
)
def test_sizes_off_the_grid_name_the_nearest(frames, height, width, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        GRID.latent_shape(frames, height, width)


@settings(max_examples=50, deadline=None)
@given(t=st.integers(1, 9), h=st.integers(1, 9), w=st.integers(1, 9), pt=st.just(1))
def test_every_patch_grid_is_legal(t, h, w, pt):
    shape = GRID.latent_shape(1 + 4 * (t - 1), 16 * h, 16 * w)
    assert shape == (t, 2 * h, 2 * w, 3)


def test_patches_of_several_frames():
    grid = canvases.Grid(4, 8, 3, patch=(2, 1, 1))
    assert grid.latent_shape(5, 8, 8) == (2, 1, 1, 3)
    with pytest.raises(ValueError, match="1 frames: use 5"):
        grid.latent_shape(1, 8, 8)
    with pytest.raises(ValueError, match="9 frames: use 5 or 13"):
        grid.latent_shape(9, 8, 8)


@pytest.mark.parametrize(
    ("seconds", "frames"), [(2.0, 17), (2.3, 17), (2.5, 21), (0.01, 1), (10.0, 81)]
)
def test_nearest_frames(seconds, frames):
    assert GRID.nearest_frames(seconds, fps=8.0) == frames


@pytest.mark.parametrize("fps", [0.0, np.inf, np.nan])
def test_no_number_of_frames(fps):
    with pytest.raises(ValueError, match="seconds at"):
        GRID.nearest_frames(2.0, fps)


@pytest.mark.parametrize("seconds", [1e6, 1e308])
def test_too_many_seconds_name_the_most(seconds):
    with pytest.raises(ValueError, match="use at most 8192 seconds"):
        GRID.nearest_frames(seconds, 8.0)
    assert GRID.nearest_frames(8191.6, 8.0) == 65533


def test_more_tokens_than_the_limit_name_the_longest_video():
    row, most = 256 * 256, canvases.MAX_TOKENS // 256**2
    longest = GRID.latent_shape(1 + 4 * (most - 1), 16 * 256, 16 * 256)
    GRID.check_tokens(longest)
    message = f"^{row * (most + 1)} tokens, more than {canvases.MAX_TOKENS}: "
    with pytest.raises(ValueError, match=f"{message}at this size use at most 5 frames"):
        GRID.check_tokens((most + 1, *longest[1:]))
    with pytest.raises(ValueError, match=r"^262144 tokens.*: use 5792x5792 pixels"):
        GRID.check_tokens(GRID.latent_shape(1, 8192, 8192))
    GRID.check_tokens(GRID.latent_shape(1, 5792, 5792))


@pytest.mark.parametrize(
    ("frames", "height", "width", "most"),
    [
        (10**12, 64, 64, "1000000000000 frames: use 65533 or less"),
        (1, 64, 16000, "16000 pixels wide: use 8192 or less"),
        (1, 16000, 64, "16000 pixels high: use 8192 or less"),
        (65533, 1024, 1024, "65533 frames of 1024x1024 pixels: use 43685 or less"),
    ],
)
def test_what_no_memory_holds_is_refused(frames, height, width, most):
    with pytest.raises(ValueError, match=f"^{most}$"):
        GRID.latent_shape(frames, height, width)


def test_the_largest_sizes_are_on_the_grid():
    assert GRID.latent_shape(65533, 64, 64) == (16384, 8, 8, 3)
    assert GRID.latent_shape(1, 8192, 8192) == (1, 1024, 1024, 3)
    assert GRID.latent_shape(43685, 1024, 1024)[0] * 128 * 128 * 3 <= 2**29


def draw(seed, shape=(3, 4, 6, 3)):
    rng = np.random.default_rng(seed)
    known = np.repeat(np.repeat(rng.random((3, 2, 3)) < 0.5, 2, axis=1), 2, axis=2)
    latent = rng.normal(size=shape).astype(np.float32)
    return canvases.Canvas(latent, known, time_step=2.0, strength=0.5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_to_segment_and_back(seed):
    canvas = draw(seed)
    segment = canvases.to_segment(
        canvas, patch=(1, 2, 2), text=TEXT, statistics=STATISTICS
    )
    assert len(segment) == 18
    assert segment.cond_mask.sum() * 4 == canvas.cond_mask.sum()
    assert set(segment.positions[:, 0]) == {0.0, 2.0, 4.0}
    back = canvases.from_tokens(
        canvas, segment.tokens, patch=(1, 2, 2), statistics=STATISTICS
    )
    np.testing.assert_allclose(back, canvas.latent, atol=1e-5)
    other = canvases.from_tokens(
        canvas, 0 * segment.tokens, patch=(1, 2, 2), statistics=STATISTICS
    )
    assert (other[canvas.cond_mask] == canvas.latent[canvas.cond_mask]).all()
    np.testing.assert_allclose(
        other[~canvas.cond_mask],
        np.broadcast_to(STATISTICS.mean, (3, 4, 6, 3))[~canvas.cond_mask],
    )


def test_masks_are_whole_patches_of_the_same_latent():
    canvas = draw(0)
    known = np.zeros_like(canvas.cond_mask)
    known[0, 0, 0] = True
    with pytest.raises(ValueError, match="cuts through patches"):
        canvases.to_segment(
            canvases.Canvas(canvas.latent, known),
            patch=(1, 2, 2),
            text=TEXT,
            statistics=STATISTICS,
        )
    with pytest.raises(ValueError, match=r"mask of \(3, 4, 5\)"):
        canvases.Canvas(canvas.latent, known[:, :, :5])
    with pytest.raises(ValueError, match="use one above 0"):
        canvases.Canvas(canvas.latent, known, time_step=0.0)


def test_a_canvas_of_full_strength_tells_nothing_of_what_is_unknown():
    canvas = dataclasses.replace(draw(0), strength=1.0)
    segment = canvases.to_segment(
        canvas, patch=(1, 2, 2), text=TEXT, statistics=STATISTICS
    )
    assert not segment.tokens[~segment.cond_mask].any()
    assert segment.tokens[segment.cond_mask].any()
