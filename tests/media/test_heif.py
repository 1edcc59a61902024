"""heic and avif: grids, transformations, alpha, and what is not read."""

import struct

import numpy as np
import pytest

from soraflax import media
from tests.media import samples

TILES = [
    np.full((64, 64, 3), colour, np.uint8)
    for colour in ((220, 40, 30), (30, 200, 40), (40, 60, 210), (200, 200, 200))
]
TILES[0][4:12, 4:20] = (250, 240, 10)


def joined() -> np.ndarray:
    return np.vstack([np.hstack(TILES[:2]), np.hstack(TILES[2:])])


def near(found: np.ndarray, expected: np.ndarray) -> bool:
    """Equal but for rounding between RGB and YUV."""
    return found.shape == expected.shape and bool(
        (np.abs(found.astype(int) - expected) <= 3).all()
    )


def test_a_single_heic_is_its_picture():
    video = media.decode(samples.heic(TILES[:1]))
    assert near(video.frames[0], TILES[0]) and video.fps == 1.0


def test_a_grid_is_composed_and_cropped_to_its_size():
    data = samples.heic(TILES, grid=(2, 2, 128, 128))
    assert near(media.decode(data).frames[0], joined())
    assert media.probe(data).notes == ("composed of 4 tiles",)
    cropped = samples.heic(TILES, grid=(2, 2, 100, 90))
    assert near(media.decode(cropped).frames[0], joined()[:90, :100])
    assert media.decode(cropped, size=(50, 45)).frames.shape == (1, 45, 50, 3)


@pytest.mark.parametrize("quarter", range(4))
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_turns_and_mirrors_come_in_the_order_of_the_properties(quarter, axis):
    turn = samples.box(b"irot", bytes([quarter]))
    expected = np.rot90(TILES[0], quarter)
    properties = [turn]
    if axis is not None:
        properties.append(samples.box(b"imir", bytes([axis])))
        expected = expected[::-1] if axis == 0 else expected[:, ::-1]
    data = samples.heic(TILES[:1], properties=properties)
    assert near(media.decode(data).frames[0], expected)


def test_a_clean_aperture_cuts():
    # 40 x 20 pixels around a centre 8 left of and 4 above the middle.
    values = struct.pack(">IIIIiIiI", 40, 1, 20, 1, -8, 1, -4, 1)
    data = samples.heic(TILES[:1], properties=[samples.box(b"clap", values)])
    assert near(media.decode(data).frames[0], TILES[0][18:38, 4:44])


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ((2, 3, 128, 128), "can be read: invalid data"),
        ((2, 2, 200, 128), "leave a gap"),
        ((2, 2, 60000, 60000), "more than max_pixels"),
    ],
)
def test_grids_that_make_no_sense_are_refused(grid, says):
    with pytest.raises(media.MediaError, match=says):
        media.decode(samples.heic(TILES, grid=grid))


def test_a_picture_of_another_make_is_refused_by_it():
    data = samples.heic(TILES, grid=(2, 2, 128, 128)).replace(b"grid\0", b"iovl\0")
    with pytest.raises(media.MediaError, match=r"'iovl'.*save it as \.png"):
        media.decode(data)


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_cut_files_are_refused(share):
    data = samples.heic(TILES, grid=(2, 2, 128, 128))
    with pytest.raises(media.MediaError):
        media.decode(data[: int(share * len(data))])
