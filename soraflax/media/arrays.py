"""Videos as `.npy` files: float32 `[T, H, W, 3]` in [-1, 1], exact, frame by frame.

A header is believed only after everything it claims is checked, and before anything is
allocated: the type, the shape, and that the file is as long as they say. Frames are
read rather than memory-mapped, since mapped pages count as the process's own and its
peak memory would grow with the file. Arrays of objects, which are pickles, are never
read.
"""

import contextlib
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from soraflax.media import common

SUFFIX = ".npy"
_PIXEL = np.dtype("<f4")
# The only version in which numpy saves plain arrays; it bounds headers to 64 KiB.
_VERSION = (1, 0)


@contextlib.contextmanager
def open_array(
    path: str | os.PathLike[str], *, max_pixels: int = common.MAX_PIXELS
) -> Iterator[common.FrameStream]:
    """A `.npy` video whose float32 frames are read one at a time; it has no `fps`.

    Raises:
      MediaError: not such a file, shorter or longer than its header says, or frames of
        more than `max_pixels`, of a side of one pixel, or of one longer than
        `common.MAX_SIDE`; while iterating, a pixel that is not a number in [-1, 1].
    """
    name = os.fspath(path)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(common.open_regular(path))
        size = os.fstat(file.fileno()).st_size
        frames, height, width = _shape(file, name, max_pixels=max_pixels)
        expected = _PIXEL.itemsize * 3 * frames * height * width
        if (actual := size - file.tell()) != expected:
            raise common.MediaError(
                f"{name}: {actual} bytes of pixels, but its header says {expected}: "
                f"{'truncated' if actual < expected else 'not what was saved'}"
            )
        pixels = _frames(file, name, shape=(frames, height, width))
        yield common.FrameStream(name, frames, height, width, None, pixels)


def write_array(
    path: str | os.PathLike[str], frames: Iterable[np.ndarray], *, count: int
) -> None:
    """Write `count` frames, `[H, W, 3]` float32, as they come.

    The file appears whole or not at all, and `numpy.load` reads it.

    Raises:
      MediaError: as in `check_array_target`, or the disk refuses.
      ValueError: another number of frames than `count`, or frames of another type or
        size than the first.
    """
    path = Path(path)
    check_array_target(path)
    shape, written = None, 0
    with common.atomic_file(path) as part, open(part, "wb") as out:
        for frame in frames:
            if shape is None:
                shape = frame.shape
                _write_header(out, (count, *shape))
            if frame.dtype != _PIXEL or frame.shape != shape or shape[2:] != (3,):
                raise ValueError(
                    f"frame {written} is {frame.dtype} {list(frame.shape)}: frames "
                    "must be float32 [H, W, 3], all of one size"
                )
            out.write(frame.tobytes())
            written += 1
        if written != count or not count:
            raise ValueError(f"{written} frames came, {count} were announced")


def check_array_target(path: str | os.PathLike[str]) -> None:
    """Refuse a file that `write_array` could not write; ask before long work.

    Raises:
      MediaError: a directory, a path below a file, or another suffix than `.npy`.
    """
    common.check_writable(path)
    if Path(path).suffix.lower() != SUFFIX:
        raise common.MediaError(f"{os.fspath(path)}: name it {SUFFIX}")


def _write_header(out: io.BufferedIOBase, shape: tuple[int, ...]) -> None:
    header = {"descr": _PIXEL.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, header)


def _shape(
    file: io.BufferedIOBase, name: str, *, max_pixels: int
) -> tuple[int, int, int]:
    """Frames, height and width from the header; leaves `file` at the first pixel."""
    try:
        version = np.lib.format.read_magic(file)
        if version != _VERSION:
            raise common.MediaError(f"{name}: npy version {version}: use {_VERSION}")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except common.MediaError:
        raise
    except (ValueError, OSError) as error:
        cause = "not an npy file" if file.seek(0, os.SEEK_END) else "empty file"
        raise common.MediaError(f"{name}: {cause}") from error
    if dtype != _PIXEL:
        raise common.MediaError(f"{name}: holds {dtype}: save it as float32")
    if len(shape) != 4 or shape[3] != 3:
        raise common.MediaError(
            f"{name}: shape {list(shape)}: a video is [T, H, W, 3], an image has T = 1"
        )
    if min(shape) < 1:
        raise common.MediaError(f"{name}: shape {list(shape)}: no frames or no pixels")
    if fortran:
        raise common.MediaError(
            f"{name}: in Fortran order: save numpy.ascontiguousarray of it"
        )
    frames, height, width = shape[:3]
    common.check_sides(name, height, width=width)
    common.check_pixels(name, height, width=width, max_pixels=max_pixels)
    return frames, height, width


def _frames(
    file: io.BufferedIOBase, name: str, *, shape: tuple[int, int, int]
) -> Iterator[np.ndarray]:
    frames, height, width = shape
    length = _PIXEL.itemsize * 3 * height * width
    for number in range(frames):
        data = file.read(length)
        if len(data) < length:
            raise common.MediaError(f"{name}: truncated at frame {number}")
        frame = np.frombuffer(data, _PIXEL).reshape(height, width, 3)
        if not np.isfinite(frame).all():
            raise common.MediaError(
                f"{name}: frame {number} has NaN or infinite pixels"
            )
        low, high = frame.min(), frame.max()
        if low < -1.0 or high > 1.0:
            raise common.MediaError(
                f"{name}: frame {number} has pixels from {low:g} to {high:g}: scale "
                "them to [-1, 1]"
            )
        yield frame
