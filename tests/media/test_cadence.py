"""Film among 30 frames a second: found where it is, and nowhere else."""

import numpy as np
import pytest

from soraflax import media
from tests.media import samples


def film(frames: int = 24) -> np.ndarray:
    """A white square that moves; the red one is as bright as its ground."""
    video = samples.moving(frames, 64, 96)
    video[(video == samples.RED).all(-1)] = 255
    return video


def repeated(frames: np.ndarray) -> np.ndarray:
    """Every fourth frame twice."""
    return np.repeat(frames, [1 + (i % 4 == 1) for i in range(len(frames))], axis=0)


def notes(frames: np.ndarray, **keywords) -> tuple[str, ...]:
    return media.probe(samples.h264(frames, **keywords)).notes


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("cut", [0, 3])
def test_fields_of_film_are_said(backward, cut):
    found = notes(samples.pulled_down(film())[cut:][:: -1 if backward else 1])
    assert len(found) == 1 and found[0].startswith("telecined (3:2)")


def test_repeats_of_film_are_said():
    (note,) = notes(repeated(film()))
    assert note.startswith("every fifth frame repeats")


def test_a_note_is_there_once_the_last_frame_is(tmp_path):
    (tmp_path / "a.mp4").write_bytes(samples.h264(samples.pulled_down(film())))
    with media.open_frames(tmp_path / "a.mp4") as stream:
        assert len(stream.notes) == 0
        assert sum(1 for _ in stream) == 30 and "telecined" in stream.notes[0]
    assert "telecined" in media.read_video(tmp_path / "a.mp4").notes[0]


def test_other_frames_are_not_film():
    still = np.repeat(film(1), 30, axis=0)
    twice = np.repeat(film(15), 2, axis=0)
    once = film(30)
    once[7] = once[6]
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (30, 64, 96, 3)).astype(np.uint8)
    for frames in (film(30), still, twice, once, noise):
        assert notes(frames) == ()


def test_interlaced_frames_are_not_film():
    fields = {"x264-params": "interlaced=1:tff=1", "preset": "ultrafast"}
    found = notes(samples.woven(film(60)), options=fields)
    assert len(found) == 1 and found[0].startswith("interlaced")
