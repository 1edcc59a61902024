"""What reading and writing share."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

try:
    import av
except ImportError:  # pragma: no cover
    av = None

MAX_PIXELS = 2**26
MAX_SIDE = 2**13  # of frames that are streamed into a model; 8K video is 7,680 wide
SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".gif", ".png", ".jpg", ".jpeg")


class MediaError(ValueError):
    """A file that cannot be read or written; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Video:
    """Decoded frames.

    Attributes:
      frames: `[T, H, W, 3]` uint8 RGB.
      fps: frames per second; 1.0 for a still image.
    """

    frames: np.ndarray
    fps: float


@dataclasses.dataclass(frozen=True)
class FrameStream:
    """An open video; iterating gives its frames, once, one at a time.

    Attributes:
      name: the file's.
      frames: how many will come; a file that holds fewer or more raises at the end.
      height: in pixels, as displayed.
      width: the same.
      fps: frames per second; 1.0 for a still image, None where the file does not say.
      pixels: `[H, W, 3]`, uint8 RGB or float32 in [-1, 1].
    """

    name: str
    frames: int
    height: int
    width: int
    fps: float | None
    pixels: Iterator[np.ndarray]

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.pixels


@dataclasses.dataclass(frozen=True)
class Probe:
    """What a full decode of a file found; sizes are in pixels, as displayed."""

    frames: int
    height: int
    width: int
    fps: float
    container: str
    codec: str


def pyav() -> Any:
    """The `av` module.

    Raises:
      ImportError: it is not installed; the message says what to install.
    """
    if av is None:
        raise ImportError("video files need PyAV: pip install 'soraflax[media]'")
    return av


def cause(error: Exception) -> str:
    """An operating system's or FFmpeg's own words, in one line."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).lower().split())


def check_pixels(name: str, height: int, width: int, *, max_pixels: int) -> None:
    """Refuse frames of more than `max_pixels`.

    Raises:
      MediaError: they are.
    """
    if height * width > max_pixels:
        raise MediaError(
            f"{name}: {width} x {height} frames are more than max_pixels={max_pixels}"
        )


def check_sides(name: str, height: int, width: int) -> None:
    """Refuse frames that no model takes: one pixel wide or high, or over `MAX_SIDE`.

    Raises:
      MediaError: with the nearest side that is taken.
    """
    for side, what in ((width, "wide"), (height, "high")):
        if not 2 <= side <= MAX_SIDE:
            nearest = 2 if side < 2 else MAX_SIDE
            raise MediaError(
                f"{name}: {width} x {height} frames: use at "
                f"{'least' if side < 2 else 'most'} {nearest} pixels {what}"
            )


def check_place(path: str | os.PathLike[str]) -> None:
    """Refuse a path at which no file can be made.

    Raises:
      MediaError: a directory, or a path below a file.
    """
    path = Path(path)
    if path.is_dir():
        raise MediaError(f"{path}: is a directory; name a file")
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise MediaError(f"{path}: {parent} is a file, not a directory")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write what becomes `path` when the block ends, and else leaves no trace.

    Missing parent directories are made; those are removed again if the block raises.

    Raises:
      MediaError: the disk refuses.
    """
    missing = [parent for parent in path.parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".write-", dir=path.parent) as folder:
            part = Path(folder) / path.name
            yield part
            os.replace(part, path)
    except BaseException as error:
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError):
            raise MediaError(f"{path}: {cause(error)}") from error
        raise
