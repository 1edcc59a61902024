"""What commands are given: clips, images and masks, and how they meet the grid."""

import pathlib

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
    np.testing.assert_array_equal(inputs.read_image("one.png").frames, frames[:1])
    assert inputs.read_clip(CLIPS / "asl-brother.mkv").frames.shape[0] == 66


def test_what_is_transparent_is_white(place):
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, 4:] = (255, 0, 0, 255)
    Image.fromarray(rgba).save("clear.png")
    (image,) = inputs.read_image("clear.png").frames
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
    mask, notes = inputs.read_mask(name, **(values | changes))
    assert notes == []
    return mask


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
