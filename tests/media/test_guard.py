"""Decoding in a worker: the same answers, and what becomes of files that end it."""

import os
import pathlib

import numpy as np
import pytest

from soraflax import media
from soraflax.media import guard
from tests.media import samples


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


def test_a_file_that_hangs_is_given_up(tmp_path, clip, monkeypatch):
    os.mkfifo(tmp_path / "waits.mp4")  # nobody writes to it
    limits = guard.Limits(seconds=30.0)
    guard.probe(clip, limits=limits)  # starts a worker
    monkeypatch.setattr(guard._idle[0], "limits", guard.Limits(seconds=0.5))
    limits = guard.Limits(seconds=0.5)
    with pytest.raises(media.MediaError, match=r"waits\.mp4: no frame within 0\.5 s"):
        guard.probe(tmp_path / "waits.mp4", limits=limits)


def test_a_file_that_takes_too_much_memory_is_refused(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(samples.picture("png", np.zeros((6000, 8000, 3), np.uint8)))
    with pytest.raises(media.MediaError, match=r"large\.png: "):
        guard.probe(path, limits=guard.Limits(memory=128 * 2**20))
    assert guard.probe(path).frames == 1
