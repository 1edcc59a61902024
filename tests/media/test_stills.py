"""Pictures and animations: colours, alpha, bits, times, damage."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from soraflax import media
from tests.media import samples


def test_colours_of_a_profile_become_those_of_srgb():
    rgb = np.full((8, 8, 3), (200, 60, 60), np.uint8)
    wide = samples.picture("png", rgb, icc_profile=samples.profile(samples.P3))
    shown = media.decode(wide).frames[0, 0, 0].astype(int)
    # By hand: linear P3, its matrix to linear sRGB, the curve of sRGB.
    assert np.abs(shown - (217, 39, 52)).max() <= 4
    assert "by its profile" in media.probe(wide).notes[0]


def test_a_profile_that_is_nonsense_changes_nothing():
    data = samples.picture("png", icc_profile=b"nonsense" * 30)
    assert np.array_equal(media.decode(data).frames, samples.moving(1))


@pytest.mark.parametrize("kind", ["png", "webp", "avif"])
def test_animations_are_read_with_their_times(kind):
    frames = samples.moving(5)
    data = samples.animation(kind, frames, duration=[100, 100, 300, 100, 100])
    video = media.decode(data)
    assert len(video) == 7 and video.fps == pytest.approx(10)
    expected = frames[[0, 1, 2, 2, 2, 3, 4]]
    assert np.abs(video.frames.astype(int) - expected).mean() < 4
    assert "unevenly" in media.probe(data).notes[0]
    part = media.decode(data, start=3, max_frames=2).frames
    assert np.array_equal(part, video.frames[3:5])


@pytest.mark.parametrize("kind", ["png", "webp", "avif", "gif"])
def test_what_an_animation_leaves_clear_is_white(kind):
    frames = samples.moving(4)
    clear = samples.clear_but_red(frames)
    data = (
        samples.animation(kind, clear, disposal=2)
        if kind in ("png", "gif")
        else (samples.animation(kind, clear))
    )
    shown = media.decode(data).frames
    red = (frames == samples.RED).all(-1)
    error = np.where(red[..., None], shown - np.array(samples.RED), 255 - shown)
    assert len(shown) == 4 and np.abs(error).mean() < 6


@pytest.mark.parametrize("kind", ["png", "webp", "gif"])
def test_frames_of_no_time_are_shown_as_viewers_do(kind):
    data = samples.animation(kind, samples.moving(4), duration=10)
    assert media.probe(data).fps == pytest.approx(10)


def test_a_cover_that_is_no_frame_is_left_out():
    images = samples.moving(4)
    data = samples.animation("png", images, default_image=True)
    assert np.array_equal(media.decode(data).frames, images[1:])


def test_sixteen_bits_become_eight():
    gray = np.linspace(0, 65535, 48).astype(np.uint16)[None].repeat(8, 0)
    shown = media.decode(samples.picture("png", gray)).frames[0]
    assert np.array_equal(shown[0, :, 0], np.round(gray[0] / 257))


def test_cmyk_is_read():
    image = Image.fromarray(samples.moving(1)[0]).convert("CMYK")
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=95)
    shown = media.decode(buffer.getvalue()).frames[0].astype(int)
    assert np.abs(shown - samples.moving(1)[0]).mean() < 4


@pytest.mark.parametrize("kind", ["png", "webp", "avif"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_cut_animations_are_refused(kind, share):
    data = samples.animation(kind, samples.moving(5))
    with pytest.raises(media.MediaError, match=r"^video bytes: "):
        media.decode(data[: int(share * len(data))])


def test_an_animation_that_stands_for_minutes_is_refused():
    data = samples.animation("png", samples.moving(3), duration=[50, 65000, 50])
    with pytest.raises(media.MediaError, match=r"jump by 65 s after frame 1"):
        media.decode(data)


def test_a_picture_beyond_all_sizes_is_refused_by_its_size():
    data = samples.picture("png")
    for side in (10_000, 20_000):  # Pillow warns of the first and raises at the other
        header = data[12:16] + struct.pack(">II", side, side) + data[24:29]
        large = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
        with pytest.raises(media.MediaError, match="more than max_pixels=67108864"):
            media.probe(large)
