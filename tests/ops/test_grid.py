"""Sizes on the grid of an autoencoder and a patch, and the nearest of others."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soraflax.ops import grid as grids

GRID = grids.Grid(temporal_ratio=4, spatial_ratio=8, channels=3, patch=(1, 2, 2))


@given(size=st.integers(-50, 500), first=st.integers(1, 20), step=st.integers(1, 20))
def test_nearest_sizes_are_the_members_on_both_sides(size, first, step):
    members = range(first, 600, step)
    found = grids.nearest_sizes(size, step, first=first)
    below = [m for m in members if m <= size][-1:]
    above = [m for m in members if m >= size][:1]
    assert list(found) == sorted({*below, *above})


def test_a_size_off_the_grid_names_the_nearest():
    grids.check_size(81, 4, first=1, unit="frames")
    with pytest.raises(ValueError, match=r"^80 frames: use 77 or 81$"):
        grids.check_size(80, 4, first=1, unit="frames")
    with pytest.raises(ValueError, match=r"^3 pixels wide: use 16$"):
        grids.check_size(3, 16, first=16, unit="pixels wide")


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
    grid = grids.Grid(4, 8, (2, 1, 1), channels=3)
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
    row, most = 256 * 256, grids.MAX_TOKENS // 256**2
    longest = GRID.latent_shape(1 + 4 * (most - 1), 16 * 256, 16 * 256)
    GRID.check_tokens(longest)
    message = f"^{row * (most + 1)} tokens, more than {grids.MAX_TOKENS}: "
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


@given(frames=st.integers(-5, 200), patch=st.integers(1, 3), ratio=st.integers(1, 4))
def test_frame_counts_below_and_above(frames, patch, ratio):
    grid = grids.Grid(ratio, 8, (patch, 1, 1))
    legal = [grid.video_frames(patch * k) for k in range(1, 300)]
    assert (grid.min_frames, grid.frame_step) == (legal[0], legal[1] - legal[0])
    below = [n for n in legal if n <= frames] or legal[:1]
    assert grid.frames_below(frames) == below[-1]
    assert grid.frames_above(frames) == next(n for n in legal if n >= frames)


@pytest.mark.parametrize("size", [(3, 4, 6), (1, 2, 2), (16, 2, 8)])
def test_a_latent_decodes_to_the_size_that_it_came_from(size):
    grid = grids.Grid(4, 8)
    assert grid.latent_size(*grid.video_size(*size)) == size
    frames, height, width = grid.video_size(*size)
    chunk = grid.latent_size(frames - 1 + 4, height, width, first=False)
    assert chunk == size
