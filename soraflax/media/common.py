"""Errors, records and checks that reading and writing share."""

import contextlib
import dataclasses
import functools
import io
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

try:
    import av
except ImportError:  # pragma: no cover
    av = None

MAX_PIXELS = 2**26
# Bytes that file systems take: of a name, of a path (NAME_MAX, PATH_MAX of Linux).
MAX_NAME, MAX_PATH = 255, 4095
_DRAFT_ROOM = 40  # bytes of a path, for the folder in which a file is written first
MAX_SIDE = 2**13  # of frames that are streamed into a model; 8K video is 7,680 wide
SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif"),
    *(".png", ".apng", ".jpg", ".jpeg", ".webp", ".avif", ".heic", ".heif"),
)


class MediaError(ValueError):
    """A file that cannot be read or written; the message is one line."""


@dataclasses.dataclass(frozen=True)
class FrameStream:
    """An open video; iterating gives its frames, once, one at a time.

    Attributes:
      name: name of the file, for errors.
      frames: number of frames; a file that holds fewer or more raises at the end.
      height: height in pixels, as displayed.
      width: width in pixels, as displayed.
      fps: frames per second; 1.0 for a still image, None where the file does not say.
      pixels: iterator of frames `[H, W, 3]`, uint8 RGB or float32 in [-1, 1].
      notes: what was done to the frames or left out, a line each; whole once the last
        frame is drawn.
      displacements: of each frame by the codec's motion vectors, as parts of the longer
        side (`vectors.displacement`); there once the last frame is drawn, where they
        were asked for and the file is a movie.
    """

    name: str
    frames: int
    height: int
    width: int
    fps: float | None
    pixels: Iterator[np.ndarray]
    notes: Sequence[str] = ()
    displacements: Sequence[float] = ()

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.pixels


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """Facts of a file that decoded to its end; sizes are in pixels, as displayed.

    `notes` say what reading does to its frames or leaves out, a line each.
    """

    frames: int
    height: int
    width: int
    fps: float
    container: str
    codec: str
    notes: tuple[str, ...] = ()


def pyav() -> Any:
    """The `av` module.

    Raises:
      ImportError: it is not installed; the message says what to install.
    """
    if av is None:
        raise ImportError("video files need PyAV: pip install 'soraflax[media]'")
    return av


@functools.cache
def scaling(method: str) -> int:
    """Flags of FFmpeg's scaler: a filter, and colours that are rounded, not cut off.

    By its own defaults what was stored as 4:2:0 comes out darker, by one level of 255
    on average and three at most, each time a video is read.

    Args:
      method: name of a filter in PyAV's `Interpolation`.
    """
    flags = pyav().video.reformatter.Interpolation
    exact = flags.ACCURATE_RND | flags.FULL_CHR_H_INT | flags.FULL_CHR_H_INP
    return int(flags[method] | exact)


def cause(error: Exception) -> str:
    """The operating system's or FFmpeg's message, in one line."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).lower().split())


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a file to read; of a pipe nothing may ever come, nor is it there twice.

    Raises:
      MediaError: it is missing, may not be read, or is no regular file.
    """
    name = os.fspath(path)
    try:
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise MediaError(f"{name}: a pipe or device: save it as a file")
        return open(path, "rb")
    except OSError as error:
        raise MediaError(f"{name}: {cause(error)}") from error


def check_pixels(name: str, height: int, *, width: int, max_pixels: int) -> None:
    """Refuse frames of more than `max_pixels`.

    Raises:
      MediaError: the frames are larger.
    """
    if height * width > max_pixels:
        raise MediaError(
            f"{name}: {width} x {height} frames are more than max_pixels={max_pixels}"
        )


def check_sides(name: str, height: int, *, width: int) -> None:
    """Refuse frames that no model takes: one pixel wide or high, or over `MAX_SIDE`.

    Raises:
      MediaError: a side out of range; the message has the nearest legal one.
    """
    for side, dimension in ((width, "wide"), (height, "high")):
        if not 2 <= side <= MAX_SIDE:
            nearest = 2 if side < 2 else MAX_SIDE
            raise MediaError(
                f"{name}: {width} x {height} frames: use at "
                f"{'least' if side < 2 else 'most'} {nearest} pixels {dimension}"
            )


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse a path at which no file can be written.

    Raises:
      MediaError: a directory, a path below a file, or below a directory that may not be
        written to; a name that is too long, or not UTF-8.
    """
    path = Path(path)
    _check_name(path)
    if path.is_dir():
        raise MediaError(f"{path}: is a directory; name a file")
    ancestor = next((parent for parent in path.parents if parent.exists()), None)
    if ancestor is not None and not ancestor.is_dir():
        raise MediaError(f"{path}: {ancestor} is a file, not a directory")
    if ancestor is not None and not os.access(ancestor, os.W_OK | os.X_OK):
        raise MediaError(f"{path}: no permission to write to {ancestor.absolute()}")


def _check_name(path: Path) -> None:
    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError:
        text = os.fspath(path).encode("utf-8", "backslashreplace").decode("utf-8")
        raise MediaError(f"{text}: the name is not UTF-8: choose another") from None
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if longest > MAX_NAME:
        raise MediaError(
            f"{path}: a name of {longest} bytes: use {MAX_NAME} or fewer, and as many "
            "less as what is written beside it adds to its name"
        )
    length = len(os.fsencode(path.absolute())) + _DRAFT_ROOM
    if length > MAX_PATH:
        raise MediaError(f"{path}: a path {length - MAX_PATH} bytes too long")


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """`atomic_files` for one file."""
    with atomic_files(path) as parts:
        yield parts[0]


@contextlib.contextmanager
def atomic_files(path: Path, *siblings: Path) -> Iterator[tuple[Path, ...]]:
    """Temporary paths whose files replace `path` and its siblings when the block ends.

    All of the new files appear, or none: if the block raises, older files are restored
    and parent directories that it made are removed.

    Args:
      path: target file; missing parent directories are made.
      siblings: further target files in the same directory.

    Raises:
      MediaError: the disk refuses.
    """
    missing = [parent for parent in path.parents if not parent.exists()]
    targets = (path, *siblings)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".write-", dir=path.parent) as folder:
            # Short names, whatever those of the targets: none may be too long.
            parts = tuple(
                Path(folder) / f"{number}{target.suffix}"
                for number, target in enumerate(targets)
            )
            yield parts
            with contextlib.ExitStack() as undo:
                for part, target in zip(parts, targets, strict=True):
                    old = part.with_name(f"old-{part.name}")
                    # One rename is atomic by itself; several need backups to undo.
                    if siblings:
                        _back_up(target, old, undo=undo)
                    os.replace(part, target)
                undo.pop_all()
    except BaseException as error:
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError):
            raise MediaError(f"{path}: {cause(error)}") from error
        raise


def _back_up(path: Path, old: Path, *, undo: contextlib.ExitStack) -> None:
    """Register with `undo` that `path` becomes what it is now; `old` is its backup."""
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
