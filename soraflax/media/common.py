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


def check_pixels(name: str, height: int, *, width: int, max_pixels: int) -> None:
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
      MediaError: a directory, a path below a file, or below a directory that may not be
        written to.
    """
    path = Path(path)
    if path.is_dir():
        raise MediaError(f"{path}: is a directory; name a file")
    there = next((parent for parent in path.parents if parent.exists()), None)
    if there is not None and not there.is_dir():
        raise MediaError(f"{path}: {there} is a file, not a directory")
    if there is not None and not os.access(there, os.W_OK | os.X_OK):
        raise MediaError(f"{path}: no permission to write to {there.absolute()}")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """As `whole_files`, of one file."""
    with whole_files(path) as parts:
        yield parts[0]


@contextlib.contextmanager
def whole_files(path: Path, *beside: Path) -> Iterator[tuple[Path, ...]]:
    """Where to write what becomes files of one directory when the block ends.

    If it raises, no trace is left and files that were there before are what they were.
    All of the new ones appear, or none. Missing parent directories are made; those are
    removed again if the block raises.

    Raises:
      MediaError: the disk refuses.
    """
    missing = [parent for parent in path.parents if not parent.exists()]
    goals = (path, *beside)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".write-", dir=path.parent) as folder:
            parts = tuple(Path(folder) / goal.name for goal in goals)
            yield parts
            with contextlib.ExitStack() as undo:
                for part, goal in zip(parts, goals, strict=True):
                    if beside:
                        _keep(goal, Path(folder) / f"old-{goal.name}", undo=undo)
                    os.replace(part, goal)
                undo.pop_all()
    except BaseException as error:
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError):
            raise MediaError(f"{path}: {cause(error)}") from error
        raise


def _keep(path: Path, old: Path, *, undo: contextlib.ExitStack) -> None:
    """Have `undo` bring `path` back to what it is now."""
    if not path.exists():
        undo.callback(path.unlink, missing_ok=True)
        return
    undo.callback(_restore, path, old)
    try:
        os.link(path, old)
    except OSError:  # a file system without links
        os.replace(path, old)


def _restore(path: Path, old: Path) -> None:
    if old.exists():
        os.replace(old, path)
