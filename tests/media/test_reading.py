"""Files that say one thing and hold another, each read as what it is."""

import os
import pathlib
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from soraflax import media
from tests.media import samples

FAULTS = pathlib.Path(__file__).parents[1] / "data" / "faults"


def read(name: str) -> np.ndarray:
    return media.read_video(FAULTS / name).frames


def by_pillow(name: str) -> np.ndarray:
    """Pillow as the judge: upright, over white."""
    with Image.open(FAULTS / name) as image:
        upright = ImageOps.exif_transpose(image).convert("RGBA")
    white = Image.new("RGBA", upright.size, "white")
    return np.asarray(Image.alpha_composite(white, upright).convert("RGB"))


@pytest.mark.parametrize(
    ("name", "frames", "height", "width", "fps"),
    [
        ("late_start.mkv", 12, 64, 96, 24),
        ("stream_copy_cut.mkv", 72, 64, 96, 24),
        ("segment0.mkv", 24, 64, 96, 24),
        ("trimmed_tail.mp4", 12, 64, 96, 24),
        ("null_frames.avi", 97, 64, 96, 24),
        ("mat_hflip.mp4", 12, 64, 96, 24),
        ("alpha_vp9.webm", 8, 64, 96, 24),
        ("sar2.mp4", 12, 64, 192, 24),
        ("anim_apng.png", 5, 64, 96, 10),
        ("photo.webp", 1, 64, 96, 1),
        ("trail.png", 1, 64, 96, 1),
        ("mpo_small.jpg", 1, 64, 96, 1),
        ("grid.avif", 1, 128, 128, 1),
        ("alpha.avif", 1, 64, 96, 1),
    ],
)
def test_every_reader_agrees_on_its_frames(name, frames, height, width, fps):
    found = media.probe(FAULTS / name)
    assert (found.frames, found.height, found.width) == (frames, height, width)
    assert found.fps == pytest.approx(fps)
    whole = media.read_video(FAULTS / name)
    assert whole.frames.shape == (frames, height, width, 3)
    with media.open_frames(FAULTS / name) as stream:
        assert (stream.frames, stream.height, stream.width) == (frames, height, width)
        assert np.array_equal(np.stack(list(stream)), whole.frames)


@pytest.mark.parametrize("name", ["late_start.mkv", "null_frames.avi", "segment0.mkv"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_they_are_still_refused_where_cut(name, share):
    data = (FAULTS / name).read_bytes()
    with pytest.raises(media.MediaError):
        media.probe(data[: int(share * len(data))])


def test_an_empty_chunk_shows_the_frame_before():
    found = read("null_frames.avi")
    held = [i for i in range(1, 97) if np.array_equal(found[i], found[i - 1])]
    assert {1, 4} <= set(held) and len(held) >= 20


def test_mirrors_are_mirrors():
    plain = read("plain.png")[0]
    assert np.array_equal(read("exif2.png")[0], plain[:, ::-1])
    assert np.array_equal(read("mat_hflip.mp4"), read("plain.mp4")[:, :, ::-1])


@pytest.mark.parametrize(
    "name",
    ["exif2.jpg", "exif4.jpg", "mpo_small.jpg", "photo.webp", "trail.png"],
)
def test_stills_are_what_pillow_shows(name):
    assert np.array_equal(read(name)[0], by_pillow(name))


@pytest.mark.parametrize("name", ["grid.avif", "alpha.avif"])
def test_items_are_what_pillow_shows_but_for_edges_of_chroma(name):
    error = np.abs(read(name)[0].astype(int) - by_pillow(name))
    assert np.median(error) <= 1 and error.mean() < 3


def test_what_is_transparent_is_white():
    assert (read("alpha_vp9.webm")[:, 0, 0] == 255).all()
    assert len(np.unique(read("alpha_vp9.webm")[0].reshape(-1, 3), axis=0)) > 1


def test_wide_pixels_are_stretched_and_a_size_is_the_displayed_one():
    data = (FAULTS / "sar2.mp4").read_bytes()
    narrow = media.decode(data, size=(96, 64)).frames.astype(int)
    wide = media.decode(data).frames.astype(int)
    assert np.abs(wide[:, :, ::2] - narrow).mean() < 4


@pytest.mark.parametrize("container", ["matroska", "mp4"])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_copy_that_begins_in_an_open_group_is_read_from_its_key_frame(
    codec, container
):
    found = media.probe(samples.open_gop(codec, container))
    assert found.frames == 16 and found.fps == pytest.approx(24)
    assert "before its first key frame" in found.notes[0]


@pytest.mark.parametrize("tail", [b"\0" * 9, b"junk" * 99, struct.pack(">I", 99) * 9])
@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp"])
def test_what_follows_a_picture_is_left_out(kind, tail):
    data = samples.picture(kind)
    assert np.array_equal(media.decode(data + tail).frames, media.decode(data).frames)


def test_frames_of_one_time_are_all_kept():
    frames = samples.moving(6)
    data = samples.encode(frames, times=[0, 1, 2, 3, 4, 5])
    assert len(media.decode(data)) == 6


def test_a_jump_of_its_times_is_refused_with_where():
    data = samples.encode(samples.moving(6), times=[0, 1, 2, 5000, 5001, 5002])
    with pytest.raises(media.MediaError, match=r"jump by 208 s after frame 2: cut"):
        media.decode(data)


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")  # nobody writes to it
    for read in (media.read_video, media.probe, media.find_sound):
        with pytest.raises(media.MediaError, match=r"pipe\.mp4: a pipe or device"):
            read(tmp_path / "pipe.mp4")
