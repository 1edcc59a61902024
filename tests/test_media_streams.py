"""Streaming video files and arrays: what a full read or write gives, frame by frame."""

import io
import itertools
import json
import os
import pathlib
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest

from soraflax import media

CLIPS = pathlib.Path(__file__).parent / "data" / "clips"


def moving(frames=6, height=32, width=48):
    video = np.full((frames, height, width, 3), (40, 90, 200), np.uint8)
    for t in range(frames):
        at = 3 * t % (width - 12)
        video[t, 8:20, at : at + 12] = (220, 40, 30)
    return video


def floats(*shape, seed=0):
    values = np.random.default_rng(seed).uniform(-1, 1, (*shape, 3))
    return values.astype(np.float32)


def below(folder):
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize(
    "name",
    [
        "asl-brother.mkv",  # unevenly spaced
        "movi_a_2.gif",
        "shapes.png",
        "testsrc2_12bit_hdr.mp4",
        "testsrc2_odd_height_and_width_444.mp4",
        "testsrc2_odd_height_and_width_vp9.mp4",
    ],
)
def test_a_streamed_read_is_a_full_read(name):
    whole = media.read_video(CLIPS / name)
    with media.open_frames(CLIPS / name) as stream:
        frames = list(stream)
        assert (stream.frames, stream.height, stream.width) == whole.frames.shape[:3]
        assert stream.fps == whole.fps
    np.testing.assert_array_equal(np.stack(frames), whole.frames)


def test_uneven_frames_are_repeated(tmp_path):
    times, frames = [0, 1, 2, 3, 7, 8, 9], moving(7)
    path = tmp_path / "held.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264rgb", rate=10, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "rgb24"
        for at, pixels in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 10)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with media.open_frames(path) as stream:
        assert (stream.frames, stream.fps) == (10, pytest.approx(10))
        found = np.stack(list(stream))
    np.testing.assert_array_equal(found, frames[[0, 1, 2, 3, 3, 3, 3, 4, 5, 6]])


@pytest.mark.parametrize(
    "name",
    [
        "asl-eat.mkv",
        "movi_a_2.gif",
        "shapes.png",
        "testsrc2_mpeg4.avi",
        "testsrc2_vp9.webm",
    ],
)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.8])
def test_truncated_files_are_refused(name, share, tmp_path):
    data = (CLIPS / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(share * len(data))])
    with (
        pytest.raises(media.MediaError, match=name) as error,
        media.open_frames(path) as stream,
    ):
        list(stream)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["asl-eat.mkv", "testsrc2_mpeg4.avi"])
def test_a_cut_file_is_refused_before_its_first_frame(name, tmp_path):
    """What the header and the packets tell need not wait for hours of work."""
    data = (CLIPS / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with (
        pytest.raises(media.MediaError, match="truncated"),
        media.open_frames(tmp_path / name),
    ):
        pytest.fail("opened")


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "none.mp4").touch()
    with (
        pytest.raises(media.MediaError, match=r"none\.mp4: empty file"),
        media.open_frames(tmp_path / "none.mp4"),
    ):
        pytest.fail("opened")


def test_hidden_vp8_packets_are_not_frames(tmp_path):
    """A reference frame that is never shown has a packet of its own."""
    path = tmp_path / "hidden.webm"
    with av.open(str(path), "w", format="webm") as out:
        stream = out.add_stream("libvpx", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for at, pixels in enumerate(moving(6)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 8)
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)
    data = bytearray(path.read_bytes())
    with av.open(io.BytesIO(data), "r") as container:
        packets = container.demux(video=0)
        payload = bytes(next(packet for packet in packets if packet.pts == 250))
    data[data.index(payload)] &= ~0x10
    path.write_bytes(data)
    with media.open_frames(path) as stream:
        assert stream.frames == len(list(stream))


@pytest.mark.parametrize(
    ("shape", "says"),
    [((1, 8), "at least 2 pixels high"), ((8, 1), "at least 2 pixels wide")],
)
def test_frames_of_one_pixel_are_refused(shape, says, tmp_path):
    media.write_video(
        tmp_path / "thin.png", np.zeros((1, *shape, 3), np.uint8), fps=1.0
    )
    with (
        pytest.raises(media.MediaError, match=says),
        media.open_frames(tmp_path / "thin.png"),
    ):
        pytest.fail("opened")
    np.save(tmp_path / "thin.npy", np.zeros((1, *shape, 3), np.float32))
    with (
        pytest.raises(media.MediaError, match=says),
        media.open_array(tmp_path / "thin.npy"),
    ):
        pytest.fail("opened")


def test_reading_does_not_take_memory_by_the_frame():
    with media.open_frames(CLIPS / "testsrc2_vp9.webm") as stream:
        next(iter(stream))
        tracemalloc.start()
        for _ in stream:
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 * 3 * stream.height * stream.width


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif", ".png"])
@pytest.mark.parametrize("size", [(32, 48), (31, 47)])
def test_a_streamed_write_is_a_full_write(suffix, size, tmp_path):
    frames = moving(1 if suffix == ".png" else 6, *size)
    metadata = {"seed": 3}
    once, streamed = tmp_path / f"once{suffix}", tmp_path / "new" / f"stream{suffix}"
    media.write_video(once, frames, fps=8.0, metadata=metadata)
    media.write_frames(streamed, (f for f in frames), fps=8.0, metadata=metadata)
    assert streamed.read_bytes() == once.read_bytes()
    assert media.read_metadata(streamed) == metadata
    assert [p.name for p in streamed.parent.iterdir()] == [streamed.name]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif", ".png"])
def test_a_sidecar_holds_the_metadata_of_the_file(suffix, tmp_path):
    frames = moving(1 if suffix == ".png" else 6)
    metadata = {"prompt": "“red” 猫 👩‍👩‍👧" * 99, "seed": 3, "file": "caf\udce9.mp4"}
    alone, path = tmp_path / f"alone{suffix}", tmp_path / "new" / f"out{suffix}"
    media.write_frames(alone, frames, fps=8.0, metadata=metadata)
    sidecar = path.with_suffix(".json")
    media.write_frames(path, frames, fps=8.0, metadata=metadata, sidecar=sidecar)
    assert path.read_bytes() == alone.read_bytes()
    assert json.loads(sidecar.read_text(encoding="utf-8")) == metadata
    assert media.read_metadata(path) == metadata
    assert {p.name for p in path.parent.iterdir()} == {path.name, "out.json"}


class Stopped(KeyboardInterrupt):
    """Ctrl-C at a chosen frame."""


def stopped(frames, *, after, error):
    yield from itertools.islice(frames, after)
    raise error


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif", ".png", ".npy"])
@pytest.mark.parametrize("after", [0, 1, 4])
@pytest.mark.parametrize("error", [Stopped(), ValueError("no more"), OSError("gone")])
def test_an_interrupted_write_leaves_nothing(suffix, after, error, tmp_path):
    (tmp_path / f"old{suffix}").write_text("kept")
    before = below(tmp_path)
    for path in (tmp_path / "a" / "b" / f"new{suffix}", tmp_path / f"old{suffix}"):
        if suffix == ".npy":
            source = stopped(floats(6, 32, 48), after=after, error=error)
            with pytest.raises((Stopped, ValueError)):
                media.write_array(path, source, count=6)
        else:
            source = stopped(moving(6), after=after, error=error)
            with pytest.raises((Stopped, ValueError)):
                media.write_frames(path, source, fps=8.0)
        if suffix != ".npy":
            source = stopped(moving(6), after=after, error=error)
            with pytest.raises((Stopped, ValueError)):
                media.write_frames(
                    path, source, fps=8.0, sidecar=path.with_suffix(".json")
                )
    assert below(tmp_path) == before
    assert (tmp_path / f"old{suffix}").read_text() == "kept"


def test_a_directory_without_permission_is_refused_before_the_work(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    for path in (tmp_path / "a.mp4", tmp_path / "new" / "a.mp4"):
        with pytest.raises(
            media.MediaError, match=r"a\.mp4: no permission to write to"
        ):
            media.check_target(path, frames=1, fps=8.0)


def test_what_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    frames = moving(3)
    path = tmp_path / "a.mp4"
    with pytest.raises(ValueError, match="no frames"):
        media.write_frames(path, iter(()), fps=8.0)
    with pytest.raises(ValueError, match="frame 1 is uint8"):
        media.write_frames(path, [frames[0], frames[1][:8]], fps=8.0)
    with pytest.raises(ValueError, match="frame 0 is float32"):
        media.write_frames(path, floats(1, 8, 8), fps=8.0)
    with pytest.raises(media.MediaError, match=r"a\.png: a png holds one frame, not 2"):
        media.write_frames(tmp_path / "a.png", frames, fps=8.0)
    with pytest.raises(media.MediaError, match=r"fps=60\.0: use 50"):
        media.write_frames(tmp_path / "a.gif", frames, fps=60.0)
    monkeypatch.setattr("soraflax.media.writing.MAX_GIF_PIXELS", 2 * 32 * 48)
    with pytest.raises(media.MediaError, match=r"use at most 2, or \.mp4"):
        media.write_frames(tmp_path / "a.gif", frames, fps=8.0)
    with pytest.raises(ValueError, match="2 frames came, 3 were announced"):
        media.write_array(tmp_path / "a.npy", floats(2, 8, 8), count=3)
    with pytest.raises(ValueError, match="float32"):
        media.write_array(tmp_path / "a.npy", moving(2), count=2)
    with pytest.raises(media.MediaError, match=r"name it \.npy"):
        media.write_array(tmp_path / "a.raw", floats(2, 8, 8), count=2)
    assert below(tmp_path) == []


def test_arrays_come_back_exactly(tmp_path):
    video = floats(5, 6, 7)
    media.write_array(tmp_path / "new" / "a.npy", video, count=5)
    np.testing.assert_array_equal(np.load(tmp_path / "new" / "a.npy"), video)
    np.save(tmp_path / "b.npy", video)
    assert (tmp_path / "b.npy").read_bytes() == (
        tmp_path / "new" / "a.npy"
    ).read_bytes()
    with media.open_array(tmp_path / "b.npy") as stream:
        assert (stream.frames, stream.height, stream.width) == (5, 6, 7)
        assert stream.fps is None
        np.testing.assert_array_equal(np.stack(list(stream)), video)


def header(shape, dtype="<f4", *, fortran=False):
    """A file that claims an array and holds four bytes of it."""
    out = io.BytesIO()
    claim = {"descr": dtype, "fortran_order": fortran, "shape": shape}
    np.lib.format.write_array_header_1_0(out, claim)
    return out.getvalue() + bytes(4)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty file"),
        (b"PK\x03\x04" + bytes(64), "not an npy file"),
        (b"\x93NUMPY\x01\x00\xff\xff{'descr'", "not an npy file"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", r"npy version \(2, 0\)"),
        (header((2, 8, 8, 3), "|O"), "holds object: save it as float32"),
        (header((2, 8, 8, 3), "<f8"), "holds float64: save it as float32"),
        (header((2, 8, 8, 3), "|u1"), "holds uint8"),
        (header((2, 8, 8, 3), ">f4"), "holds >f4"),
        (header((8, 8, 3)), r"shape \[8, 8, 3\]: a video is \[T, H, W, 3\]"),
        (header((2, 8, 8, 4)), r"shape \[2, 8, 8, 4\]"),
        (header((0, 8, 8, 3)), "no frames or no pixels"),
        (header((-1, 8, 8, 3)), "no frames or no pixels"),
        (header((2, 8, 8, 3), fortran=True), "Fortran order"),
        (header((17, 16384, 16384, 3)), "at most 8192 pixels wide"),
        (header((17, 8, 10**30, 3)), "at most 8192 pixels wide"),
        (header((17, 8192, 8192, 3)), "4 bytes of pixels, but .* 13690208256: trunc"),
        (header((10**30, 8, 8, 3)), "truncated"),
    ],
)
def test_headers_are_checked_before_memory_is_taken(data, says, tmp_path):
    path = tmp_path / "bad.npy"
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(media.MediaError, match=says), media.open_array(path):
        pytest.fail("opened")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_a_longer_file_and_too_many_pixels_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", floats(2, 8, 8))
    with (
        pytest.raises(media.MediaError, match="max_pixels=63"),
        media.open_array(tmp_path / "a.npy", max_pixels=63),
    ):
        pytest.fail("opened")
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes() + b"more")
    with (
        pytest.raises(media.MediaError, match="not what was saved"),
        media.open_array(tmp_path / "a.npy"),
    ):
        pytest.fail("opened")
    with (
        pytest.raises(media.MediaError, match=r"gone\.npy: no such file"),
        media.open_array(tmp_path / "gone.npy"),
    ):
        pytest.fail("opened")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.nan, "frame 3 has NaN or infinite pixels"),
        (-np.inf, "frame 3 has NaN or infinite pixels"),
        (1.5, r"frame 3 has pixels from -.* to 1\.5: scale them to \[-1, 1\]"),
    ],
)
def test_bad_pixels_are_named_by_their_frame(value, says, tmp_path):
    video = floats(5, 4, 4)
    video[3, 1, 2, 0] = value
    np.save(tmp_path / "a.npy", video)
    with media.open_array(tmp_path / "a.npy") as stream:
        good = itertools.islice(stream, 3)
        np.testing.assert_array_equal(np.stack(list(good)), video[:3])
        with pytest.raises(media.MediaError, match=says):
            next(iter(stream))
