"""Reading and writing video files: inverses, checks of damaged files, odd inputs."""

import io
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from soraflax import media

CLIPS = Path(__file__).parent / "data" / "clips"
# name: frames, height, width, fps; counted with ffprobe -count_frames
EXPECTED = {
    "asl-milk.mkv": (51, 480, 640, 30.0),
    "av1_video.mkv": (125, 360, 640, 25.0),
    "friday.mp4": (185, 480, 640, 30.0),
    "movi_a_2.gif": (24, 256, 256, 12.0),
    "shapes.png": (1, 80, 120, 1.0),
    "testsrc2_12bit_hdr.mp4": (60, 180, 320, 30.0),
    "testsrc2_mpeg4.avi": (30, 720, 1280, 30.0),
    "testsrc2_odd_height_and_width_444.mp4": (25, 241, 321, 25.0),
    "testsrc2_odd_height_and_width_vp9.mp4": (25, 241, 321, 25.0),
    "testsrc2_vp9.webm": (30, 720, 1280, 30.0),
}


def _moving_square(frames: int = 6, height: int = 32, width: int = 48) -> np.ndarray:
    video = np.full((frames, height, width, 3), (40, 90, 200), np.uint8)
    for t in range(frames):
        video[t, 8:20, 4 + 3 * t : 16 + 3 * t] = (220, 40, 30)
    return video


@pytest.mark.parametrize("name", EXPECTED)
def test_every_container_gives_its_frames(name: str) -> None:
    frames, height, width, fps = EXPECTED[name]
    found = media.probe(CLIPS / name)
    assert (found.frames, found.height, found.width) == (frames, height, width)
    assert found.fps == pytest.approx(fps)
    video = media.read_video(CLIPS / name, max_frames=3)
    assert video.frames.shape == (min(3, frames), height, width, 3)
    assert video.frames.dtype == np.uint8
    assert video.frames.std() > 10


def test_hdr_decodes_to_a_usable_picture() -> None:
    frame = media.read_video(CLIPS / "testsrc2_12bit_hdr.mp4", max_frames=1).frames
    assert frame.min() < 30 and frame.max() > 220


def test_bytes_and_file_agree_and_slices_are_slices() -> None:
    data = media.read_bytes(CLIPS / "movi_a_2.gif")
    whole = media.read_video(CLIPS / "movi_a_2.gif")
    part = media.decode(data, start=3, step=4, max_frames=5)
    np.testing.assert_array_equal(part.frames, whole.frames[3:23:4])
    assert part.fps == whole.fps / 4


def test_resize_while_decoding() -> None:
    video = media.read_video(CLIPS / "shapes.png", size=(60, 40))
    assert video.frames.shape == (1, 40, 60, 3)
    whole = media.read_video(CLIPS / "shapes.png").frames.astype(float)
    area = whole.reshape(1, 40, 2, 60, 2, 3).mean((2, 4))
    assert np.abs(area - video.frames).mean() < 1.5


def test_dropped_frames_keep_the_clock() -> None:
    """This file skips one frame: 65 pictures over 66 ticks of 1/30 s."""
    found = media.probe(CLIPS / "asl-brother.mkv")
    assert (found.frames, found.fps) == (66, 30.0)
    assert len(media.read_video(CLIPS / "asl-brother.mkv").frames) == 66


def test_variable_frame_rate_is_made_constant(tmp_path: Path) -> None:
    times = [0, 1, 2, 3, 7, 8, 9]
    frames = _moving_square(len(times))
    path = tmp_path / "held.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264rgb", rate=10, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "rgb24"
        for time, pixels in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 10)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    video = media.read_video(path)
    assert video.fps == pytest.approx(10)
    np.testing.assert_array_equal(video.frames, frames[[0, 1, 2, 3, 3, 3, 3, 4, 5, 6]])
    part = media.decode(path.read_bytes(), start=2, max_frames=3)
    np.testing.assert_array_equal(part.frames, frames[[2, 3, 3]])
    with pytest.raises(media.MediaError, match="from frame 99"):
        media.decode(path.read_bytes(), start=99)


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(
    shape=st.tuples(st.integers(1, 5), st.integers(2, 37), st.integers(2, 37)),
    fps=st.sampled_from([1.0, 7.5, 8.0, 24.0, 30000 / 1001]),
    seed=st.integers(0, 99),
)
def test_lossless_is_an_inverse(
    shape: tuple[int, int, int], fps: float, seed: int
) -> None:
    frames = np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.uint8)
    data = media.encode_lossless(frames, fps)
    video = media.decode(data)
    np.testing.assert_array_equal(video.frames, frames)
    assert video.fps == pytest.approx(fps, rel=1e-3)
    assert data == media.encode_lossless(frames, fps)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif", ".png"])
def test_written_files_read_back(suffix: str, tmp_path: Path) -> None:
    frames = _moving_square(1 if suffix == ".png" else 6)
    path = tmp_path / "new" / f"clip{suffix}"
    metadata = {"prompt": "a “red” square", "seed": 3}
    media.write_video(path, frames, fps=8.0, metadata=metadata)
    video = media.read_video(path)
    assert video.frames.shape == frames.shape
    assert np.abs(video.frames.astype(int) - frames).mean() < 4
    assert video.fps == pytest.approx(1.0 if suffix == ".png" else 8.0, rel=0.01)
    assert media.read_metadata(path) == metadata
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_mp4_is_what_browsers_play(tmp_path: Path) -> None:
    path = tmp_path / "odd.mp4"
    media.write_video(path, _moving_square(4, 31, 47), fps=8.0)
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.width, context.height) == (48, 32)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_a_gif_that_stops_moving_keeps_its_length(tmp_path: Path) -> None:
    """Gif writers merge equal frames into one that is shown for longer."""
    moving = _moving_square(4)
    frames = np.concatenate([moving[:2], moving[1:2], moving[2:], moving[-1:]])
    media.write_video(tmp_path / "still.gif", frames, fps=10.0)
    video = media.read_video(tmp_path / "still.gif")
    assert video.fps == pytest.approx(10)
    np.testing.assert_array_equal(video.frames, frames)


def test_rotation_and_transparency(tmp_path: Path) -> None:
    frames = _moving_square(3)
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.set_display_rotation(90)
        for pixels in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode(None))
    video = media.read_video(path)
    found = media.probe(path)
    assert video.frames.shape == (3, 48, 32, 3)
    assert (found.height, found.width) == (48, 32)
    with av.open(str(path)) as container:
        turn = next(container.decode(video=0)).rotation
    expected = np.rot90(frames, round(turn / 90) % 4, axes=(1, 2))
    assert np.abs(video.frames.astype(int) - expected).mean() < 5

    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, 4:] = (255, 0, 0, 255)
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    shown = media.read_video(tmp_path / "clear.png").frames[0]
    assert shown[0, 0].tolist() == [255, 255, 255]
    assert shown[0, 7].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "gif"])
def test_transparency_is_shown_over_white_however_it_is_stored(
    mode: str, tmp_path: Path
) -> None:
    rgba = np.zeros((8, 16, 4), np.uint8)
    rgba[:, 4:, 3] = 255
    rgba[:, 8:] = (255, 255, 255, 255) if mode == "LA" else (255, 0, 0, 255)
    image = Image.fromarray(rgba)
    if mode == "P":
        image = image.quantize(8)
    elif mode == "LA":
        image = image.convert("LA")
    path = tmp_path / ("clear.gif" if mode == "gif" else "clear.png")
    image.save(path)
    shown = media.read_video(path).frames[0]
    assert shown[0, 0].tolist() == [255, 255, 255]
    assert shown[0, 5].tolist() == [0, 0, 0]
    assert shown[0, 12].tolist() == rgba[0, 12, :3].tolist()


@pytest.mark.parametrize(
    "name",
    [
        "asl-eat.mkv",
        "movi_a_2.gif",
        "shapes.png",
        "testsrc2_12bit_hdr.mp4",
        "testsrc2_mpeg4.avi",
        "testsrc2_vp9.webm",
    ],
)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.8])
def test_truncated_files_are_refused(name: str, share: float, tmp_path: Path) -> None:
    data = (CLIPS / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(media.MediaError, match=name) as error:
        media.probe(path)
    assert "\n" not in str(error.value)


def _audio_only() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as out:
        stream = out.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 800), np.int16), format="s16", layout="mono"
        )
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "empty file"),
        (b"a,b\n1,2\n" * 50, "not a video or image"),
        (_audio_only(), "no video stream"),
    ],
)
def test_files_without_video_are_refused(data: bytes, cause: str) -> None:
    with pytest.raises(media.MediaError, match=f"clip.mp4: {cause}"):
        media.decode(data, name="clip.mp4")


def test_a_video_without_frames_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.avi"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        out.start_encoding()
    with pytest.raises(media.MediaError, match=r"none\.avi: no frames"):
        media.read_video(path)


def test_missing_and_too_large_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(media.MediaError, match=r"gone\.mp4: no such file"):
        media.read_video(tmp_path / "gone.mp4")
    with pytest.raises(media.MediaError, match="is a directory"):
        media.read_video(tmp_path)
    with pytest.raises(media.MediaError, match=r"640 x 480 .* max_pixels=1000"):
        media.read_video(CLIPS / "asl-eat.mkv", max_pixels=1000)


def test_impossible_writes_leave_nothing(tmp_path: Path) -> None:
    frames = _moving_square(3)
    with pytest.raises(media.MediaError, match=r"cannot write '.mp3': .*\.mp4"):
        media.write_video(tmp_path / "a.mp3", frames, fps=8.0)
    with pytest.raises(media.MediaError, match="one frame, not 3"):
        media.write_video(tmp_path / "a.png", frames, fps=8.0)
    for bad in (frames[0], frames[:0], frames.astype(np.float32)):
        with pytest.raises(ValueError, match="uint8"):
            media.write_video(tmp_path / "a.mp4", bad, fps=8.0)
    with pytest.raises(ValueError, match="fps=0"):
        media.write_video(tmp_path / "a.mp4", frames, fps=0)
    with pytest.raises(media.MediaError, match=r"fps=2000: use 1000, .* 0.01 to 1000"):
        media.write_video(tmp_path / "a.mp4", frames, fps=2000)
    with pytest.raises(media.MediaError, match=r"fps=60: use 50, the nearest"):
        media.write_video(tmp_path / "a.gif", frames, fps=60)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(media.MediaError, match=r"a\.mp4: .*file is a file, not a dir"):
        media.write_video(blocked / "deep" / "a.mp4", frames, fps=8.0)
    folder = tmp_path / "folder.mp4"
    folder.mkdir()
    with pytest.raises(media.MediaError, match=r"folder\.mp4: is a directory"):
        media.write_video(folder, frames, fps=8.0)
    assert {p.name for p in tmp_path.iterdir()} == {"file", "folder.mp4"}


def test_a_missing_extra_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['av'] = None\n"
        "from soraflax import media\n"
        "try: media.decode(b'x')\n"
        "except ImportError as error: print(error)"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert "pip install 'soraflax[media]'" in done.stdout
