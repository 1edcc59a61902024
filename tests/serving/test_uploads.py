"""What visitors bring: held against limits, fitted to a model, refused in one line."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from soraflax import media
from soraflax.ops import grid as grids
from soraflax.serving import uploads

GRID = grids.Grid(4, 8, (1, 2, 2))  # sides of whole 16 pixels
LIMITS = uploads.Limits(upload_bytes=2**20, size=(64, 48), seconds=2.0, steps=50)


def noise(frames, width, height):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (frames, height, width, 3)).astype(np.uint8)


@pytest.fixture
def clip(tmp_path):
    """Write a clip without loss; its path and its pixels."""

    def written(name="clip.mkv", *, frames=8, size=(32, 16), fps=8.0):
        pixels = noise(frames, *size)
        media.write_video(tmp_path / name, pixels, fps=fps)
        return tmp_path / name, pixels

    return written


def test_a_clip_within_limits_stays_as_it_is(clip):
    path, pixels = clip()
    video, notes = uploads.read_clip(path, LIMITS, fps=8.0)
    np.testing.assert_array_equal(video.frames, pixels)
    assert video.fps == 8.0 and notes == []


def test_a_fast_and_large_clip_becomes_one_that_suits_the_model(clip):
    path, pixels = clip(frames=60, size=(64, 64), fps=30.0)
    target = uploads.Target(32 * 32, 8.0, GRID)
    video, notes = uploads.read_clip(path, LIMITS, target=target, fps=8.0)
    assert video.frames.shape == (15, 32, 32, 3) and video.fps == 7.5
    assert notes == [
        "clip: 30 frames a second become 7.5: 1 of 4 is kept",
        "clip: 64x64 becomes 32x32 pixels: resized",
    ]
    rest = uploads.Target(64 * 64, 8.0, GRID)
    limits = uploads.Limits(size=(64, 64))
    video, _ = uploads.read_clip(path, limits, target=rest, fps=8.0)
    np.testing.assert_array_equal(video.frames, pixels[::4])


@pytest.mark.parametrize("size", [(1920, 1080), (1080, 1920), (50, 500)])
def test_a_target_keeps_proportions_about(size):
    width, height = uploads.Target(96 * 64, 8.0, GRID).frame(size)
    assert width % 16 == 0 and height % 16 == 0
    assert 0.5 < width * height / (96 * 64) < 1.5
    assert (width > height) == (size[0] > size[1])
    assert uploads.Target(96 * 64).frame((95, 63)) == (95, 63)


def test_an_image_is_a_clip_of_one_frame_and_a_clip_has_a_first_image(clip):
    path, pixels = clip("image.png", frames=1)
    video, _ = uploads.read_clip(path, LIMITS, fps=8.0)
    assert len(video) == 1 and video.fps == 8.0
    path, pixels = clip()
    image, notes = uploads.read_image(path, LIMITS, name="image")
    np.testing.assert_array_equal(image, pixels[0])
    assert notes == ["image: the first frame of the video"]


def test_facts_are_those_of_the_file(clip):
    assert uploads.facts(clip()[0]) == ((32, 16), 8, 8.0)
    assert uploads.facts(clip("one.png", frames=1)[0]) == ((32, 16), 1, None)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ({"frames": 30}, r"clip: clip\.mkv: 3\.75 seconds: cut it to 2 or less"),
        ({"size": (80, 64)}, "80x64 pixels: use 61x49 or less here"),
        ({"name": "clip.gif", "size": (256, 256)}, "256x256 pixels"),
    ],
)
def test_what_is_over_a_limit_is_refused(clip, made, says):
    path, _ = clip(**made)
    with pytest.raises(media.MediaError, match=says):
        uploads.read_clip(path, LIMITS, fps=8.0)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("notes.txt", b"text", r"notes\.txt is no video or image: use one of mp4"),
        ("clip.mp4", b"text" * 99, r"clip: clip\.mp4: not a video or image"),
        ("clip.mp4", b"", "empty file"),
        ("clip.mp4", bytes(2**20 + 1), r"1\.0 MB: use a file of 1 MB or less"),
        ("clip.mp4", None, "the file is gone: choose it again"),
    ],
)
def test_a_wrong_file_is_one_line_without_the_servers_folders(
    tmp_path, name, content, says
):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    reads = (
        lambda: uploads.read_clip(path, LIMITS, fps=8.0),
        lambda: uploads.read_image(path, LIMITS, name="clip"),
    )
    for read in reads:
        with pytest.raises(media.MediaError, match=says) as error:
            read()
        assert "\n" not in str(error.value) and str(tmp_path) not in str(error.value)


def test_a_clip_that_would_fill_the_memory_is_refused(clip, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_CLIP_BYTES", 5 * 32 * 16 * 3)
    path, _ = clip()
    with pytest.raises(media.MediaError, match="8 frames of 32x16 pixels: cut it to 5"):
        uploads.read_clip(path, LIMITS, fps=8.0)


def drawing(alpha):
    """A picture of this transparency, as a page sends it."""
    pixels = np.zeros((*alpha.shape, 4), np.uint8)
    pixels[..., 3] = alpha
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def test_a_painted_mask_marks_what_was_painted():
    alpha = np.zeros((160, 320), np.uint8)
    alpha[40:80, 100:200] = 255
    mask = uploads.read_mask(drawing(alpha), (32, 16), frames=3)
    expected = np.zeros((3, 16, 32), bool)
    expected[:, 4:8, 10:20] = True
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "paint over"),
        (drawing(np.zeros((16, 32), np.uint8)), "paint over"),
        ("data:image/png;base64,!!!", "paint it again"),
        ("data:image/png;base64,AAAA", "paint it again"),
        ("data:text/html;base64,AAAA", "paint it again"),
        (drawing(np.zeros((4097, 4097), np.uint8)), "paint it again"),
    ],
)
def test_a_mask_that_is_none_is_refused(text, says):
    with pytest.raises(media.MediaError, match=says):
        uploads.read_mask(text, (32, 16), frames=1)


def test_limits_name_the_nearest_value():
    LIMITS.check_size((64, 48))
    LIMITS.check_seconds(2.0)
    with pytest.raises(ValueError, match="640x480 pixels: use 64x48 or less"):
        LIMITS.check_size((640, 480))
    with pytest.raises(ValueError, match=r"2\.5 seconds: use 2 or less"):
        LIMITS.check_seconds(2.5)
