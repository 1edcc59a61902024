"""Every frame that is written can be read back, whatever it shows."""

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
