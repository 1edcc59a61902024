"""Every frame that is written can be read back, whatever it shows."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from soraflax import media


@pytest.mark.parametrize("fps", [0.5, 8.0, 24.0, 30.0, 50.0])
@pytest.mark.parametrize("moves", [(), (5,), (5, 6, 11), range(0, 17, 2)])
def test_a_gif_has_every_frame_though_it_stands_still(
    tmp_path: Path, fps: float, moves: Sequence[int]
) -> None:
    frames = np.zeros((17, 16, 24, 3), np.uint8)
    frames[:, 4:8, 4:8] = (255, 128, 0)
    for move in moves:
        frames[move:, 8:12] = 60 - frames[move:, 8:12]
    metadata = {"prompt": "é" * 600}
    path = tmp_path / "still.gif"
    media.write_video(path, frames, fps=fps, metadata=metadata)
    video = media.read_video(path)
    np.testing.assert_array_equal(video.frames, frames)
    assert len(video) / video.fps == pytest.approx(17 / fps, abs=0.011)
    assert media.read_metadata(path) == metadata


def test_the_gif_of_one_frame_is_an_image(tmp_path: Path) -> None:
    frames = np.full((1, 16, 24, 3), 7, np.uint8)
    media.write_video(tmp_path / "one.gif", frames, fps=1.0)
    np.testing.assert_array_equal(media.read_video(tmp_path / "one.gif").frames, frames)


def test_a_movie_read_and_written_again_and_again_keeps_its_colours(
    tmp_path: Path,
) -> None:
    colours = np.random.default_rng(0).integers(20, 236, (4, 4, 3))
    frames = np.kron(colours, np.ones((16, 16, 1))).astype(np.uint8)[None]
    video = frames = frames.repeat(3, axis=0)
    for turn in range(4):
        path = tmp_path / f"{turn}.mp4"
        media.write_video(path, video, fps=8.0)
        video = media.read_video(path).frames
    off = video.astype(float) - frames
    inner = off.reshape(3, 4, 16, 4, 16, 3)[:, :, 4:12, :, 4:12]
    # Less than a quarter of a level each time, which is what H.264 itself loses.
    assert np.abs(inner.mean(axis=(0, 1, 2, 3, 4))).max() < 1


def test_bytes_of_a_movie_do_not_depend_on_what_memory_held(tmp_path: Path) -> None:
    program = """
import sys
import numpy as np
from soraflax import media

frames = np.random.default_rng(1).integers(0, 256, (9, 4, 4, 3))
video = np.kron(frames, np.ones((1, 16, 16, 1))).astype(np.uint8)
media.write_video(sys.argv[1], video, fps=8.0)
"""
    found = set()
    for fill in (0, 90, 165):  # glibc fills what is allocated and freed
        path = tmp_path / f"{fill}.mp4"
        environment = os.environ | {"MALLOC_PERTURB_": str(fill)}
        words = [sys.executable, "-c", program, str(path)]
        subprocess.run(words, env=environment, check=True, timeout=120)
        found.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(found) == 1
