"""Sound beside other pictures: the same packets, at the times of their frames."""

import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from soraflax import media

CLIP = Path(__file__).parent.parent / "data" / "sound" / "with_audio.mkv"
FPS = 24.0


def packets(path: Path) -> list[tuple[float, bytes]]:
    """Time in seconds and bytes of every packet of sound, from the first frame on."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return []
        video: Any = container.streams.video[0]
        start = float((video.start_time or 0) * video.time_base)
        return [
            (float(packet.pts * packet.time_base) - start, bytes(packet))
            for packet in container.demux(container.streams.audio[0])
            if packet.size and packet.pts is not None and packet.time_base
        ]


def write(path: Path, *sounds: media.PlacedSound, frames: int = 60) -> None:
    pixels = np.zeros((frames, 16, 32, 3), np.uint8)
    media.write_frames(path, pixels, fps=FPS, sounds=sounds)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("at", [0.0, 0.75])
def test_packets_are_copied_to_their_time(
    suffix: str, at: float, tmp_path: Path
) -> None:
    path = tmp_path / f"out{suffix}"
    write(path, media.PlacedSound(CLIP, 0.5, at))
    expected = [
        (time + at, data) for time, data in packets(CLIP) if -1e-3 <= time < 0.5
    ]
    found = packets(path)
    assert [data for _, data in found] == [data for _, data in expected]
    assert 20 < len(found) < 25
    times, wanted = (np.array([t for t, _ in part]) for part in (found, expected))
    np.testing.assert_allclose(times, wanted, atol=2.1e-3)
    assert media.read_video(path).frames.shape == (60, 16, 32, 3)
    assert media.find_sound(path) is not None


def test_two_sounds_follow_each_other(tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"
    write(path, media.PlacedSound(CLIP, 0.5), media.PlacedSound(CLIP, 0.5, 1.5))
    times = np.array([time for time, _ in packets(path)])
    assert (times < 0.53).sum() == (times > 1.47).sum() == len(times) // 2
    assert times.max() < 2.03 and (np.diff(times) > 0).all()


def test_the_same_sound_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write(tmp_path / name, media.PlacedSound(CLIP, 1.0))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_files_without_sound_have_none(tmp_path: Path) -> None:
    for name in ("mute.mkv", "mute.mp4"):
        write(tmp_path / name)
        assert media.find_sound(tmp_path / name) is None
    media.write_video(tmp_path / "i.png", np.zeros((1, 8, 8, 3), np.uint8), fps=1.0)
    assert media.find_sound(tmp_path / "i.png") is None
    with pytest.raises(media.MediaError, match=r"gone\.mkv: no such file"):
        media.find_sound(tmp_path / "gone.mkv")


def pcm(path: Path) -> Path:
    """A clip whose sound an mp4 does not hold."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_u8", rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.full((1, 4000), 128, np.uint8), format="u8", layout="mono"
        )
        frame.sample_rate, frame.pts = 8000, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def test_what_a_container_cannot_hold_is_known_before(tmp_path: Path) -> None:
    aac, raw = media.find_sound(CLIP), media.find_sound(pcm(tmp_path / "raw.mkv"))
    assert aac is not None and raw is not None
    assert (aac.codec, raw.codec) == ("aac", "pcm_u8")
    held = {s: media.can_hold(s, aac) for s in (".mp4", ".MKV", ".gif", ".png", "")}
    assert held == {".mp4": True, ".MKV": True, ".gif": False, ".png": False, "": False}
    assert media.can_hold(".mkv", raw) and not media.can_hold(".mp4", raw)
    assert aac.layout != raw.layout


def test_sound_that_goes_leaves_no_file(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mkv"
    shutil.copy(CLIP, clip)
    sound = media.PlacedSound(clip, 1.0)
    clip.unlink()
    with pytest.raises(media.MediaError, match=r"clip\.mkv: no such file"):
        write(tmp_path / "out.mp4", sound)
    assert list(tmp_path.iterdir()) == []
