"""What reading and writing share."""

import dataclasses
from typing import Any

import numpy as np

try:
    import av
except ImportError:  # pragma: no cover
    av = None

MAX_PIXELS = 2**26
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
