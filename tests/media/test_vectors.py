"""How far a picture moves, by the motion vectors of its codec."""

import pathlib

import numpy as np
import pytest

from soraflax import media
from soraflax.media import guard
from tests.media import samples

SHIFT, SIDE = 3, 96
OPTIONS = {"preset": "medium", "crf": "18", "x264-params": "bframes=0:ref=1"}


def panned(frames: int = 8) -> np.ndarray:
    """A texture that moves left by `SHIFT` pixels a frame."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (SIDE // 8, SIDE // 8 * 2, 3)).astype(np.uint8)
    wide = coarse.repeat(8, axis=0).repeat(8, axis=1)
    return np.stack([wide[:, SHIFT * t : SHIFT * t + SIDE] for t in range(frames)])


def displacements(path: pathlib.Path) -> list[float]:
    """Guarded and not, which give the same."""
    with media.open_frames(path, measure=True) as plain:
        assert not plain.displacements and len(list(plain)) == plain.frames
    with guard.open_frames(path, measure=True) as guarded:
        assert len(list(guarded)) == guarded.frames
    np.testing.assert_equal(plain.displacements, guarded.displacements)
    assert len(plain.displacements) == plain.frames
    return list(plain.displacements)


def test_a_pan_moves_by_what_it_pans(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "pan.mp4"
    path.write_bytes(samples.h264(panned(), options=OPTIONS))
    found = displacements(path)
    assert np.isnan(found[0])  # a key frame has no vectors
    assert np.median(found[1:]) * SIDE == pytest.approx(SHIFT, rel=0.15)


def test_what_stands_still_does_not_move(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "still.mp4"
    path.write_bytes(samples.h264(np.repeat(panned(1), 8, axis=0), options=OPTIONS))
    assert np.nanmax(displacements(path)) * SIDE < 0.05


def test_codecs_without_vectors_say_so(tmp_path: pathlib.Path) -> None:
    rules = {"container": "webm", "codec": "libvpx-vp9", "pixel_format": "yuv420p"}
    path = tmp_path / "pan.webm"
    path.write_bytes(samples.encode(panned(), **rules))
    assert np.isnan(displacements(path)).all()


def test_stills_and_streams_that_did_not_ask_have_none(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "still.png"
    path.write_bytes(samples.picture("png"))
    with guard.open_frames(path, measure=True) as stream:
        assert len(list(stream)) == 1 and not stream.displacements
    path = tmp_path / "pan.mp4"
    path.write_bytes(samples.h264(panned(), options=OPTIONS))
    with guard.open_frames(path) as stream:
        assert len(list(stream)) == 8 and not stream.displacements


def test_a_frame_that_is_shown_again_did_not_move(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "uneven.mkv"
    times = [0, 1, 2, 5, 6, 7, 8, 9]
    path.write_bytes(
        samples.h264(panned(), options=OPTIONS, container="matroska", times=times)
    )
    found = displacements(path)
    assert len(found) == 10 and found[3:5] == [0.0, 0.0] and found[5] * SIDE > 1
