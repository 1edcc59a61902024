"""Decoding in a worker: the same answers, and what becomes of files that end it."""

import os
import pathlib
import signal

import numpy as np
import pytest

from soraflax import media
from soraflax.media import guard
from tests.media import samples, test_sound


@pytest.fixture(scope="module", autouse=True)
def stopped():
    yield
    guard.stop()


@pytest.fixture
def clip(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(samples.h264())
    return path


def worker() -> int:
    """Process id of the worker that waits."""
    (idle,) = guard._idle
    return idle.process.pid


def test_answers_are_those_without_a_guard(clip):
    assert guard.probe(clip, name="a") == media.probe(clip)
    with guard.open_frames(clip) as guarded, media.open_frames(clip) as plain:
        assert (guarded.frames, guarded.fps) == (plain.frames, plain.fps)
        assert np.array_equal(np.stack(list(guarded)), np.stack(list(plain)))


def test_sound_is_copied_from_the_first_frame_on(clip, tmp_path):
    source, target = test_sound.CLIP, tmp_path / "sound.mkv"
    assert not guard.extract_sound(clip, target) and not target.exists()
    assert guard.extract_sound(source, target)
    expected = [(time, data) for time, data in test_sound.packets(source) if time >= 0]
    with samples.opened(str(target)) as file:
        (stream,) = file.streams
        found = [
            (float(packet.pts * packet.time_base), bytes(packet))
            for packet in file.demux(stream)
            if packet.size
        ]
    assert [data for _, data in found] == [data for _, data in expected]
    assert np.allclose([t for t, _ in found], [t for t, _ in expected], atol=2e-3)
    with pytest.raises(media.MediaError, match=r"gone\.mp4"):
        guard.extract_sound(tmp_path / "gone.mp4", target)


def test_one_worker_serves_every_file(clip, tmp_path):
    guard.probe(clip)
    first = worker()
    (tmp_path / "bad.mp4").write_bytes(b"nonsense")
    with pytest.raises(media.MediaError, match=r"^b: not a video or image"):
        guard.probe(tmp_path / "bad.mp4", name="b")
    with guard.open_frames(clip) as stream:
        next(iter(stream))  # and no more
    with pytest.raises(ValueError, match="mine"), guard.open_frames(clip):
        raise ValueError("mine")
    assert guard.probe(clip).frames == 12 and worker() == first


def test_two_files_at_once_have_two_workers(clip):
    with guard.open_frames(clip) as first, guard.open_frames(clip) as second:
        for one, other in zip(first, second, strict=True):
            assert np.array_equal(one, other)
    assert len(guard._idle) == 1


def test_a_worker_that_dies_is_replaced(clip):
    guard.probe(clip)
    process = worker()
    with guard.open_frames(clip) as stream:
        frames = iter(stream)
        next(frames)
        os.kill(process, 11)
        with pytest.raises(media.MediaError, match=r"decoder crashed \(signal 11\)"):
            list(frames)
    assert guard.probe(clip).frames == 12


def test_a_file_that_hangs_is_given_up(clip, monkeypatch):
    guard.probe(clip, limits=guard.Limits(seconds=30.0))  # starts a worker
    limits = guard.Limits(seconds=0.5)
    monkeypatch.setattr(guard._idle[0], "limits", limits)
    os.kill(worker(), signal.SIGSTOP)
    with pytest.raises(media.MediaError, match=r"clip\.mp4: no frame within 0\.5 s"):
        guard.probe(clip, limits=limits)
    assert guard.probe(clip).frames == 12


def test_a_file_that_takes_too_much_memory_is_refused(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(samples.picture("png", np.zeros((6000, 8000, 3), np.uint8)))
    with pytest.raises(media.MediaError, match=r"large\.png: "):
        guard.probe(path, limits=guard.Limits(memory=128 * 2**20))
    assert guard.probe(path).frames == 1
