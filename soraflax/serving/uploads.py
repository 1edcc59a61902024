"""What visitors bring: clips, images and masks, held against limits before all work.

A clip as a phone records it is large and fast for most models. Unless it is to stay as
it is, it becomes one that suits the model,

    every s-th frame,  s = round(fps / reference fps),                            (1)
    w x h nearest on the grid to the area that is asked for, the middle kept,     (2)

and what was done is said, a line each.
"""

import base64
import binascii
import contextlib
import dataclasses
import io
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from soraflax import media
from soraflax.generation import resizing
from soraflax.media import guard
from soraflax.ops import grid as grids

_PNG = "data:image/png;base64,"
_MAX_DRAWING = 2**24  # characters of a mask, and pixels of it
MAX_CLIP_BYTES = 2**30  # of decoded frames, held in memory


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a server takes.

    Attributes:
      upload_bytes: of a file.
      size: width and height; what has more pixels than both make is refused.
      seconds: of a clip, and of what is made.
      steps: of the sampler.
    """

    upload_bytes: int = 64 * 2**20
    size: tuple[int, int] = (1280, 720)
    seconds: float = 60.0
    steps: int = 100

    @property
    def pixels(self) -> int:
        """Of a frame."""
        return self.size[0] * self.size[1]

    def check_size(self, size: tuple[int, int]) -> None:
        """Refuse a frame of too many pixels.

        Raises:
          ValueError: with the largest frame of these proportions.
        """
        width, height = size
        if width * height > self.pixels:
            scale = math.sqrt(self.pixels / (width * height))
            largest = f"{int(width * scale)}x{int(height * scale)}"
            raise ValueError(f"{width}x{height} pixels: use {largest} or less here")

    def check_seconds(self, seconds: float) -> None:
        """Refuse too long a video.

        Raises:
          ValueError: with the longest.
        """
        if seconds > self.seconds:
            raise ValueError(f"{seconds:g} seconds: use {self.seconds:g} or less here")


@dataclasses.dataclass(frozen=True)
class Target:
    """What clips are brought to, equations (1) and (2).

    Attributes:
      pixels: of a frame, about; None keeps the size.
      fps: reference frame rate; None keeps every frame.
      grid: that sides come to; None for any.
    """

    pixels: int | None = None
    fps: float | None = None
    grid: grids.Grid | None = None

    def stride(self, fps: float) -> int:
        """s of equation (1)."""
        return 1 if self.fps is None else max(1, round(fps / self.fps))

    def frame(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height by equation (2), `size` where it is small enough."""
        width, height = size
        if self.pixels is None or width * height <= self.pixels:
            return size
        scale = math.sqrt(self.pixels / (width * height))
        wanted = max(2, round(width * scale)), max(2, round(height * scale))
        return resizing.nearest_size(self.grid, wanted) if self.grid else wanted


def check_file(path: pathlib.Path, limits: Limits, *, name: str) -> None:
    """Refuse a file that is too large, or of a kind that is never read.

    Raises:
      MediaError: with the largest size, or the kinds.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise media.MediaError(f"{name}: the file is gone: choose it again") from error
    if size > limits.upload_bytes:
        most = limits.upload_bytes / 2**20
        raise media.MediaError(
            f"{name}: {size / 2**20:.1f} MB: use a file of {most:g} MB or less"
        )
    if path.suffix.lower() not in media.SUFFIXES:
        kinds = ", ".join(suffix.lstrip(".") for suffix in media.SUFFIXES)
        raise media.MediaError(
            f"{name}: {path.name} is no video or image: use one of {kinds}"
        )


def read_clip(
    path: pathlib.Path,
    limits: Limits,
    *,
    target: Target = Target(),
    fps: float,
    name: str = "clip",
) -> tuple[media.Video, list[str]]:
    """A clip that suits a model, and notes of what was changed.

    Args:
      path: a video, or an image, which is a clip of one frame.
      limits: of the server.
      target: what the clip is brought to.
      fps: frames per second of an image.
      name: what errors and notes call the clip.

    Raises:
      MediaError: too large or too long, unreadable or damaged.
    """
    check_file(path, limits, name=name)
    with _named(path, name), guard.open_frames(path) as stream:
        rate = fps if stream.frames == 1 else stream.fps or fps
        if stream.frames > limits.seconds * rate + 1:
            raise media.MediaError(
                f"{path}: {stream.frames / rate:.3g} seconds: cut it to "
                f"{limits.seconds:g} or less"
            )
        own = (stream.width, stream.height)
        stride, size = target.stride(rate), target.frame(own)
        limits.check_size(size)
        _check_memory(path, -(-stream.frames // stride), size=size)
        kept = [
            _scaled(frame, size)
            for index, frame in enumerate(stream)
            if index % stride == 0
        ]
    notes = [f"{name}: {note}" for note in stream.notes]
    if stride > 1:
        notes.append(
            f"{name}: {rate:.4g} frames a second become {rate / stride:.4g}: "
            f"1 of {stride} is kept"
        )
    if size != own:
        notes.append(resizing.note(name, own, after=size))
    return media.Video(np.stack(kept), rate / stride), notes


def facts(path: pathlib.Path) -> tuple[tuple[int, int], int, float | None]:
    """Width and height, frames, and frames per second of a file, None of an image."""
    with guard.open_frames(path) as stream:
        rate = None if stream.frames == 1 else stream.fps
        return (stream.width, stream.height), stream.frames, rate


def read_image(
    path: pathlib.Path, limits: Limits, *, target: Target = Target(), name: str
) -> tuple[UInt8[np.ndarray, "h w 3"], list[str]]:
    """An image, or the first frame of a video; as `read_clip`."""
    check_file(path, limits, name=name)
    with _named(path, name), guard.open_frames(path) as stream:
        own = (stream.width, stream.height)
        size = target.frame(own)
        limits.check_size(size)
        frame = _scaled(next(iter(stream)), size)
        notes = [f"{name}: {note}" for note in stream.notes]
        notes += [f"{name}: the first frame of the video"] * (stream.frames > 1)
    if size != own:
        notes.append(resizing.note(name, own, after=size))
    return frame, notes


def read_mask(
    drawing: str, size: tuple[int, int], *, frames: int
) -> Bool[np.ndarray, "frames h w"]:
    """A mask that was painted over a clip.

    Args:
      drawing: a PNG as a data URL, of the clip's proportions before it was fitted:
        what is not transparent is to be made anew.
      size: width and height of the clip in pixels.
      frames: of the clip; the mask holds for all.

    Raises:
      MediaError: no such PNG, or nothing painted.
    """
    from PIL import Image

    if not drawing:
        raise media.MediaError("mask: paint over what is to be made anew")
    try:
        if not drawing.startswith(_PNG) or len(drawing) > _MAX_DRAWING:
            raise ValueError("no PNG, or too large")
        data = base64.b64decode(drawing.removeprefix(_PNG), validate=True)
        with _bounded_image(data) as image:
            alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    except (binascii.Error, OSError, ValueError, Image.DecompressionBombError):
        raise media.MediaError("mask: cannot be read: paint it again") from None
    # As the clip, of which the middle is kept where proportions differ.
    mask = resizing.cover_mask(alpha[None] >= resizing.WHITE, size)
    if not mask.any():
        raise media.MediaError("mask: paint over what is to be made anew")
    return np.repeat(mask, frames, axis=0)


def _check_memory(path: pathlib.Path, frames: int, *, size: tuple[int, int]) -> None:
    """Refuse a clip that would fill the memory of the server.

    Raises:
      MediaError: with how many of its frames would not.
    """
    each = 3 * size[0] * size[1]
    if frames * each > MAX_CLIP_BYTES:
        raise media.MediaError(
            f"{path}: {frames} frames of {size[0]}x{size[1]} pixels: cut it to "
            f"{MAX_CLIP_BYTES // each} or fewer"
        )


def _scaled(
    frame: UInt8[np.ndarray, "height width 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    if size == (frame.shape[1], frame.shape[0]):
        return frame
    return resizing.cover(frame[None], size)[0]


@contextlib.contextmanager
def _named(path: pathlib.Path, name: str) -> Iterator[None]:
    """Errors that name the file as the visitor does, not where the server keeps it."""
    try:
        yield
    except ValueError as error:
        message = str(error).replace(str(path), path.name)
        raise media.MediaError(f"{name}: {message}") from None


@contextlib.contextmanager
def _bounded_image(data: bytes) -> Iterator[Any]:
    """A PNG in memory, refused before it is decoded where it is too large."""
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        if image.width * image.height > _MAX_DRAWING:
            raise ValueError("too large")
        yield image
