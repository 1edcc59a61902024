"""Images, clips and masks on a model's grid."""

import re

import numpy as np
import pytest

from soraflax import media
from soraflax.generation import resizing
from soraflax.ops import grid as grids

GRID = grids.Grid(temporal_ratio=4, spatial_ratio=8, channels=16, patch=(1, 2, 2))


def moving(frames=5, height=32, width=48):
    t, y, x = np.meshgrid(*map(np.arange, (frames, height, width)), indexing="ij")
    waves = [np.sin(0.3 * x + 0.5 * t), np.cos(0.2 * y - 0.4 * t), np.sin(0.1 * x)]
    return (127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def as_pixels(mask, white=255):
    return np.repeat((white * mask.astype(np.uint8))[..., None], 3, axis=-1)


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        ((640, 427), (640, 432)),
        ((64, 96), (64, 96)),
        ((1, 9), (16, 16)),
        ((24, 25), (16, 32)),
        ((1921, 1079), (1920, 1072)),
    ],
)
def test_the_nearest_size_is_on_the_grid(size, nearest):
    assert resizing.nearest_size(GRID, size) == nearest
    GRID.latent_shape(5, nearest[1], nearest[0])


def test_an_image_that_fits_is_left_as_it_is():
    image = moving()[0]
    for size in (None, (48, 32)):
        fitted, notes = resizing.fit_image(image, GRID, size=size)
        assert notes == []
        np.testing.assert_array_equal(fitted, image)


@pytest.mark.parametrize(
    ("size", "note"),
    [
        (None, "cat.png: 49x33 becomes 48x32 pixels: resized, the middle kept"),
        ((96, 64), "cat.png: 49x33 becomes 96x64 pixels: resized, the middle kept"),
        ((16, 64), "cat.png: 49x33 becomes 16x64 pixels: resized, the middle kept"),
    ],
)
def test_an_image_is_brought_to_the_grid_and_it_is_said(size, note):
    fitted, said = resizing.fit_image(
        moving(1, 33, 49)[0], GRID, size=size, name="cat.png"
    )
    width, height = size or (48, 32)
    assert fitted.shape == (height, width, 3) and fitted.dtype == np.uint8
    assert said == [note]


def test_a_size_off_the_grid_is_refused():
    with pytest.raises(ValueError, match="100 pixels wide: use 96 or 112"):
        resizing.fit_image(moving()[0], GRID, size=(100, 64))
    with pytest.raises(ValueError, match="8 pixels high: use 16"):
        resizing.fit_image(moving()[0], GRID, size=(96, 8))


def test_a_clip_off_the_grid_is_refused_or_resized():
    clip = media.Video(moving(5, 30, 45), 8.0)
    says = "a.mp4: 45x30 pixels: use 48x32, or say --fit resize"
    with pytest.raises(ValueError, match=re.escape(says)):
        resizing.fit_clip(clip, GRID, name="a.mp4")
    fitted, note = resizing.fit_clip(clip, GRID, rule="resize", name="a.mp4")
    assert (fitted.frames.shape, fitted.fps) == ((5, 32, 48, 3), 8.0)
    assert note == ["a.mp4: 45x30 becomes 48x32 pixels: resized"]
    again, note = resizing.fit_clip(fitted, GRID)
    assert again is fitted and note == []


def test_resizing_keeps_shapes_and_the_middle():
    """A disc stays round, and of a wide picture the sides go."""
    y, x = np.mgrid[:60, :120]
    disc = ((y - 29.5) ** 2 + (x - 59.5) ** 2 < 20**2).astype(np.uint8)
    frames = np.repeat(np.repeat(255 * disc[None, ..., None], 3, -1), 2, 0)
    frames[:, :, :20] = (255, 0, 0)
    small = resizing.cover(frames, (32, 32))
    assert small.shape == (2, 32, 32, 3)
    assert not ((small[..., 0] > 200) & (small[..., 1] < 50)).any()
    white = small[0, ..., 1] > 127
    rows, columns = white.any(axis=1).sum(), white.any(axis=0).sum()
    assert rows == columns
    assert abs(rows - 40 * 32 / 60) <= 1.5
    np.testing.assert_array_equal(white, white[::-1, ::-1])
    np.testing.assert_array_equal(small[0], small[1])


def test_a_mask_is_resized_with_its_clip():
    """White on the clip is where the mask is, before and after."""
    mask = np.zeros((2, 30, 45), bool)
    mask[0, 6:18, 9:27] = mask[1, 12:24, 12:30] = True
    large = resizing.cover_mask(mask, (90, 60))
    np.testing.assert_array_equal(large[:, ::2, ::2], mask)
    for size in ((48, 32), (16, 64), (64, 16)):
        made = resizing.cover_mask(mask, size)
        clip = resizing.cover(as_pixels(mask), size)
        assert made.shape == (2, *size[::-1]) and made.dtype == bool
        np.testing.assert_array_equal(made, clip[..., 0] >= 128)


def test_resizing_averages_what_is_too_fine_to_show():
    fine = np.indices((1, 64, 64)).sum(axis=0)[..., None] % 2 * np.full(3, 255)
    small = resizing.cover(fine.astype(np.uint8), (16, 16))
    assert np.abs(small[:, 2:-2, 2:-2].astype(int) - 127).max() <= 8
