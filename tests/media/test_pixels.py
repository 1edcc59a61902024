"""Frames that are resized while they are decoded."""

import io
import struct
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from soraflax import media
from soraflax.media import orientation
from tests.media import samples, test_orientation

WIDTH, HEIGHT = 192, 128
# Red, green and blue of luma and two chromas in the ranges of ITU-R BT.601 and BT.709.
MATRICES = {
    "bt601": ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0)),
    "bt709": ((1.0, 0.0, 1.5748), (1.0, -0.187324, -0.468124), (1.0, 1.8556, 0.0)),
}


def ramps(rows: np.ndarray, columns: np.ndarray) -> list[np.ndarray]:
    """Luma and two chromas at places of the picture."""
    return [
        70 + 0.35 * columns + 0.25 * rows,
        116 + 0.1 * columns + 0 * rows,
        138 - 0.15 * rows + 0 * columns,
    ]


def encoded(layout: str, *, space: int) -> bytes:
    """Ramps without loss, four frames."""
    bits = 2 if "10" in layout else 0
    frame: Any = av.VideoFrame(WIDTH, HEIGHT, layout)
    for plane, number in zip(frame.planes, range(3), strict=True):
        down, across = HEIGHT // plane.height, WIDTH // plane.width
        rows = np.arange(plane.height)[:, None] * down + (down - 1) / 2
        columns = np.arange(plane.width)[None] * across + 0.0  # sited at the left
        values = np.round(ramps(rows, columns)[number] * 2**bits)
        kind = np.dtype("<u2" if bits else "u1")
        line = np.zeros((plane.height, plane.line_size // kind.itemsize), kind)
        line[:, : plane.width] = values
        plane.update(line.tobytes())
    frame.colorspace = space
    buffer, opened = io.BytesIO(), samples.opened
    with opened(buffer, "w", format="matroska") as out:
        stream: Any = out.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, layout
        stream.codec_context.colorspace = space
        for number in range(4):
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("layout", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("scale", [1, 2])
def test_colours_are_exact_to_a_level(layout, matrix, scale):
    data = encoded(layout, space={"bt601": 6, "bt709": 1}[matrix])
    size = (WIDTH // scale, HEIGHT // scale)
    fit = media.Fit(size, native=(WIDTH, HEIGHT)) if scale > 1 else None
    found = media.decode(data, max_frames=3, size=fit).frames
    assert found.shape == (3, *size[::-1], 3)
    rows = (np.arange(size[1])[:, None] + 0.5) * scale - 0.5
    columns = (np.arange(size[0])[None] + 0.5) * scale - 0.5
    luma, *chromas = ramps(rows, columns)
    parts = [(luma - 16) * 255 / 219, *((c - 128) * 255 / 224 for c in chromas)]
    exact = np.einsum("ck,kyx->yxc", MATRICES[matrix], np.stack(parts))
    inner = found.astype(float)[:, 4:-4, 4:-4] - exact[4:-4, 4:-4]
    # What is stored is rounded, and what is shown: half a level of luma (1.164), of
    # chroma (2.112 of BT.709's blue), and of RGB.
    assert np.abs(inner).max() <= (1.164 + 2.112 + 1) / 2
    assert np.abs(inner.mean((0, 1, 2))).max() < 0.15


def test_fine_patterns_become_gray():
    video = np.indices((64, 64)).sum(0) % 2 * 255
    video = np.repeat(video[None, ..., None], 3, -1).astype(np.uint8)
    data = samples.encode(video, pixel_format="yuv444p")
    small = media.decode(data, size=media.Fit((24, 24), native=(64, 64))).frames
    inner = small[:, 3:-3, 3:-3]
    assert np.abs(inner.astype(int) - 127).max() < 8


@pytest.mark.parametrize("kind", ["rgb", "alpha", "png"])
def test_what_is_no_yuv_is_resized_by_pillow(kind):
    frames = samples.moving(3, 32, 48)
    if kind == "png":
        data = samples.picture("png", frames[0])
    elif kind == "alpha":
        clear = samples.clear_but_red(frames)
        data = samples.encode(clear, pixel_format="bgra")
    else:
        data = samples.encode(frames)
    native = media.decode(data).frames
    found = media.decode(data, size=media.Fit((21, 15), native=(48, 32))).frames
    for small, frame in zip(found, native, strict=True):
        image = Image.fromarray(frame).resize((21, 15), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(small, np.asarray(image))
    whole = media.decode(data, size=media.Fit((48, 32), native=(48, 32))).frames
    np.testing.assert_array_equal(whole, native)


@pytest.mark.parametrize("turn", orientation.EXIF)
def test_a_turned_movie_is_upright(turn):
    values = [v / 65536 for v in struct.unpack("=9i", test_orientation.matrix(turn))]
    data = samples.with_matrix(values[0], values[1], values[3], values[4])
    plain = media.decode(samples.h264(), size=media.Fit((24, 16), native=(48, 32)))
    fit = media.Fit(turn.size((24, 16)), native=turn.size((48, 32)))
    found = media.decode(data, size=fit).frames
    np.testing.assert_array_equal(found[0], turn.apply(plain.frames[0]))


def test_frames_that_stand_still_are_repeated_and_windows_are_those_of_the_whole():
    data = samples.encode(
        samples.moving(6), pixel_format="yuv420p", times=[0, 1, 2, 5, 6, 7]
    )
    fit = media.Fit((24, 16), native=(48, 32))
    whole = media.decode(data, size=fit).frames
    assert len(whole) == len(media.decode(data).frames) == 8
    assert np.array_equal(whole[2], whole[3]) and np.array_equal(whole[2], whole[4])
    window = media.decode(data, size=fit, start=1, step=2, max_frames=3).frames
    np.testing.assert_array_equal(window, whole[1:6:2])


def test_other_frames_than_were_announced_are_refused():
    with pytest.raises(media.MediaError, match="x: frames of 32x48 were"):
        fit = media.Fit((24, 16), native=(32, 48))
        media.decode(samples.h264(), name="x", size=fit)
