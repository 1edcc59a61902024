"""Eight orientations, by EXIF and by matrices, each against pixels."""

import itertools
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from soraflax import media
from soraflax.media import orientation
from tests.media import samples

PIXELS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def matrix(turn: orientation.Orientation) -> bytes:
    x, y = (-1 if turn.right_to_left else 1), (-1 if turn.upside_down else 1)
    a, b, c, d = (0, y, x, 0) if turn.exchanged else (x, 0, 0, y)
    return struct.pack("=9i", *(65536 * v for v in (a, b, 0, c, d, 0, 0, 0, 1)))


@pytest.mark.parametrize("number", range(1, 9))
def test_exif_is_as_pillow_has_it(number):
    image = Image.fromarray(PIXELS)
    image.getexif()[0x0112] = number
    expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(orientation.from_exif(number).apply(PIXELS), expected)


@pytest.mark.parametrize("turn", orientation.EXIF)
def test_a_matrix_is_where_pixels_go(turn):
    assert orientation.from_matrix(matrix(turn)) == turn
    shown = turn.apply(PIXELS)
    assert turn.size((3, 2)) == shown.shape[1::-1]
    a, b, _, c, d = (v // 65536 for v in struct.unpack("=9i", matrix(turn))[:5])
    for y, x in np.ndindex(2, 3):
        column = a * x + c * y + turn.right_to_left * (shown.shape[1] - 1)
        row = b * x + d * y + turn.upside_down * (shown.shape[0] - 1)
        assert np.array_equal(shown[row, column], PIXELS[y, x])


@pytest.mark.parametrize(
    ("first", "second"), list(itertools.product(orientation.EXIF, repeat=2))
)
def test_one_after_the_other(first, second):
    assert np.array_equal(
        first.then(second).apply(PIXELS), second.apply(first.apply(PIXELS))
    )


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "avif"])
@pytest.mark.parametrize("number", range(1, 9))
def test_a_still_of_each_is_shown_upright(kind, number):
    plain = media.decode(samples.picture(kind)).frames[0]
    shown = media.decode(samples.oriented(kind, number)).frames[0]
    assert np.array_equal(shown, orientation.from_exif(number).apply(plain))


@pytest.mark.parametrize("turn", orientation.EXIF)
def test_a_movie_of_each_is_shown_upright_at_any_size(turn):
    values = [v / 65536 for v in struct.unpack("=9i", matrix(turn))]
    data = samples.with_matrix(values[0], values[1], values[3], values[4])
    plain = media.decode(samples.h264()).frames
    shown = media.decode(data).frames
    assert np.array_equal(shown[0], turn.apply(plain[0]))
    found = media.probe(data)
    assert (found.height, found.width) == shown.shape[1:3]
    half = turn.size((24, 16))
    small = media.decode(data, size=half).frames
    plain_small = media.decode(samples.h264(), size=(24, 16)).frames
    assert np.array_equal(small[0], turn.apply(plain_small[0]))


def test_other_angles_are_refused():
    with pytest.raises(media.MediaError, match="turned by 30 degrees"):
        media.decode(samples.with_matrix(0.866, 0.5, -0.5, 0.866))


def test_nonsense_is_upright():
    assert orientation.from_matrix(bytes(36)) == orientation.UPRIGHT
    for number in (0, 9, None, "6", -1):
        assert orientation.from_exif(number) == orientation.UPRIGHT


def test_motion_jpeg_with_exif_in_its_frames():
    """EXIF stands in each frame of a movie, where PyAV cannot read it."""
    frame = media.decode(samples.oriented("jpeg", 2)).frames[0]
    data = samples.jpegs_in_a_movie(samples.oriented("jpeg", 2), frames=3)
    shown = media.decode(data).frames
    assert np.abs(shown[1].astype(int) - frame).mean() < 4
