"""What commands are given: clips, images and masks, and how they meet the grid."""

import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from soraflax import media
from soraflax.cli import inputs
from soraflax.ops import grid as grids

CLIPS = pathlib.Path(__file__).parent.parent / "data" / "clips"
GRID = grids.Grid(temporal_ratio=4, spatial_ratio=8, channels=16, patch=(1, 2, 2))
SIZE = (5, 32, 48)  # frames, height, width


def moving(frames=5, height=32, width=48):
    t, y, x = np.meshgrid(*map(np.arange, (frames, height, width)), indexing="ij")
    waves = [np.sin(0.3 * x + 0.5 * t), np.cos(0.2 * y - 0.4 * t), np.sin(0.1 * x)]
    return (127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_clips_come_whole_and_images_are_clips_of_one_frame(place):
    frames = moving()
    media.write_video("clip.mkv", frames, fps=8.0)
    clip = inputs.read_clip("clip.mkv", max_frames=5)
    np.testing.assert_array_equal(clip.frames, frames)
    assert clip.fps == pytest.approx(8.0)
    media.write_video("one.png", frames[:1], fps=1.0)
    np.testing.assert_array_equal(inputs.read_clip("one.png").frames, frames[:1])
    np.testing.assert_array_equal(inputs.read_image("one.png"), frames[0])
    assert inputs.read_clip(CLIPS / "asl-brother.mkv").frames.shape[0] == 66


def test_what_is_transparent_is_white(place):
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, 4:] = (255, 0, 0, 255)
    Image.fromarray(rgba).save("clear.png")
    image = inputs.read_image("clear.png")
    assert image[0, 0].tolist() == [255, 255, 255]
    assert image[0, 7].tolist() == [255, 0, 0]


@pytest.fixture
def bad(place):
    media.write_video("clip.mp4", moving(), fps=8.0)
    data = pathlib.Path("clip.mp4").read_bytes()
    pathlib.Path("cut.mp4").write_bytes(data[: len(data) // 2])
    pathlib.Path("empty.mp4").write_bytes(b"")
    pathlib.Path("text.png").write_text("no image\n" * 99)
    pathlib.Path("folder.png").mkdir()
    return place


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gone.png", "no such file"),
        ("cut.mp4", "cut.mp4"),
        ("empty.mp4", "empty file"),
        ("text.png", "not a video or image"),
        ("folder.png", "is a directory"),
    ],
)
def test_files_that_cannot_be_read_are_one_line(name, says, bad):
    def mask(name):
        return inputs.read_mask(name, frames=5, height=32, width=48)

    for read in (inputs.read_clip, inputs.read_image, mask):
        with pytest.raises(media.MediaError, match=says) as error:
            read(name)
        assert name in str(error.value) and "\n" not in str(error.value)


def test_a_video_is_no_image_and_a_long_clip_is_refused(bad, monkeypatch):
    with pytest.raises(
        media.MediaError, match=r"clip\.mp4: a video of 5 frames: an im"
    ):
        inputs.read_image("clip.mp4")
    with pytest.raises(media.MediaError, match="5 frames: cut it to at most 4"):
        inputs.read_clip("clip.mp4", max_frames=4)

    def no_memory(shape, dtype):
        raise MemoryError

    monkeypatch.setattr(inputs.np, "empty", no_memory)
    with pytest.raises(
        media.MediaError, match=r"5 frames take 0\.0 GiB of memory: cut it"
    ):
        inputs.read_clip("clip.mp4")


def boxes(frames):
    """White boxes, at another place in every frame."""
    mask = np.zeros((frames, *SIZE[1:]), bool)
    for at in range(frames):
        mask[at, 4:16, 3 + at : 20 + at] = True
    return mask


def as_pixels(mask, white=255):
    return np.repeat((white * mask.astype(np.uint8))[..., None], 3, axis=-1)


def read_mask(name, **changes):
    frames, height, width = SIZE
    values = {"frames": frames, "height": height, "width": width}
    return inputs.read_mask(name, **(values | changes))


def test_a_mask_image_holds_for_every_frame(place):
    media.write_video("mask.png", as_pixels(boxes(1)), fps=1.0)
    mask = read_mask("mask.png")
    assert mask.shape == SIZE and mask.dtype == bool
    np.testing.assert_array_equal(mask, np.repeat(boxes(1), 5, axis=0))


@pytest.mark.parametrize("suffix", [".mkv", ".gif", ".mp4"])
def test_a_mask_video_holds_frame_by_frame(suffix, place):
    media.write_video(f"mask{suffix}", as_pixels(boxes(5)), fps=8.0)
    np.testing.assert_array_equal(read_mask(f"mask{suffix}"), boxes(5))


@pytest.mark.parametrize(
    ("colour", "new"),
    [
        ((255, 255, 255), True),
        ((128, 128, 128), True),
        ((127, 127, 127), False),
        ((255, 0, 0), False),
        ((0, 255, 0), True),
        ((0, 0, 255), False),
        ((0, 0, 1), False),
    ],
)
def test_a_mask_is_where_it_is_bright(colour, new, place):
    pixels = np.zeros((1, *SIZE[1:], 3), np.uint8)
    pixels[0, 0, 0] = 255
    pixels[0, 8:] = colour
    media.write_video("mask.png", pixels, fps=1.0)
    mask = read_mask("mask.png")
    assert mask[:, 0, 0].all() and not mask[:, 0, 1].any()
    assert (mask[:, 8:] == new).all()


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (np.ones((1, 32, 50), bool), "the mask is 50x32 pixels, the clip 48x32: give"),
        (np.ones((1, 48, 32), bool), "the mask is 32x48 pixels, the clip 48x32"),
        (boxes(4), "the mask has 4 frames, the clip 5: give it as many, or 1"),
        (boxes(6), "the mask has 6 frames, the clip 5"),
        (np.zeros((1, 32, 48), bool), "nothing to inpaint: paint white"),
        (np.zeros((5, 32, 48), bool), "nothing to inpaint"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask, says, place):
    media.write_video("mask.mkv", as_pixels(mask), fps=8.0)
    with pytest.raises(media.MediaError, match=rf"mask\.mkv: .*{says}"):
        read_mask("mask.mkv")


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
    assert inputs.nearest_size(GRID, *size) == nearest
    GRID.latent_shape(5, nearest[1], nearest[0])


def test_an_image_that_fits_is_left_as_it_is():
    image = moving()[0]
    for size in (None, (48, 32)):
        fitted, note = inputs.fit_image(image, GRID, size=size)
        assert note is None
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
    fitted, said = inputs.fit_image(
        moving(1, 33, 49)[0], GRID, size=size, name="cat.png"
    )
    width, height = size or (48, 32)
    assert fitted.shape == (height, width, 3) and fitted.dtype == np.uint8
    assert said == note


def test_a_size_off_the_grid_is_refused():
    with pytest.raises(ValueError, match="100 pixels wide: use 96 or 112"):
        inputs.fit_image(moving()[0], GRID, size=(100, 64))
    with pytest.raises(ValueError, match="8 pixels high: use 16"):
        inputs.fit_image(moving()[0], GRID, size=(96, 8))


def test_a_clip_off_the_grid_is_refused_or_resized():
    clip = media.Video(moving(5, 30, 45), 8.0)
    says = "a.mp4: 45x30 pixels: use 48x32, or say --fit resize"
    with pytest.raises(ValueError, match=re.escape(says)):
        inputs.fit_clip(clip, GRID, name="a.mp4")
    fitted, note = inputs.fit_clip(clip, GRID, rule="resize", name="a.mp4")
    assert (fitted.frames.shape, fitted.fps) == ((5, 32, 48, 3), 8.0)
    assert note == "a.mp4: 45x30 becomes 48x32 pixels: resized"
    again, note = inputs.fit_clip(fitted, GRID)
    assert again is fitted and note is None


def test_resizing_keeps_shapes_and_the_middle():
    """A disc stays round, and of a wide picture the sides go."""
    y, x = np.mgrid[:60, :120]
    disc = ((y - 29.5) ** 2 + (x - 59.5) ** 2 < 20**2).astype(np.uint8)
    frames = np.repeat(np.repeat(255 * disc[None, ..., None], 3, -1), 2, 0)
    frames[:, :, :20] = (255, 0, 0)
    small = inputs.resize(frames, (32, 32))
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
    large = inputs.resize_mask(mask, (90, 60))
    np.testing.assert_array_equal(large[:, ::2, ::2], mask)
    for size in ((48, 32), (16, 64), (64, 16)):
        made = inputs.resize_mask(mask, size)
        clip = inputs.resize(as_pixels(mask), size)
        assert made.shape == (2, *size[::-1]) and made.dtype == bool
        np.testing.assert_array_equal(made, clip[..., 0] >= 128)


def test_resizing_averages_what_is_too_fine_to_show():
    fine = np.indices((1, 64, 64)).sum(axis=0)[..., None] % 2 * np.full(3, 255)
    small = inputs.resize(fine.astype(np.uint8), (16, 16))
    assert np.abs(small[:, 2:-2, 2:-2].astype(int) - 127).max() <= 8
