"""What a command is given to work from: clips, images and masks, on the model's grid.

Whatever cannot be used is one line that names the file and the nearest thing that can.
"""

import itertools
import math
import os
from typing import Literal

import numpy as np
from jaxtyping import Bool, UInt8

from soraflax import media
from soraflax.ops import grid as grids

Rule = Literal["refuse", "resize"]
_LUMA = np.array([299, 587, 114], np.int32)  # thousandths, of ITU-R BT.601
_WHITE = 128


def read_clip(
    path: str | os.PathLike[str], *, max_frames: int | None = None
) -> media.Video:
    """Every frame of a video, or an image as a video of one.

    Args:
      path: of the file.
      max_frames: a longer one is refused before it is decoded; all are held in memory.

    Raises:
      MediaError: unreadable, damaged, or longer than `max_frames`.
    """
    with media.open_frames(path) as stream:
        if max_frames is not None and stream.frames > max_frames:
            raise media.MediaError(
                f"{stream.name}: {stream.frames} frames: cut it to at most {max_frames}"
            )
        shape = (stream.frames, stream.height, stream.width, 3)
        try:
            frames = np.empty(shape, np.uint8)
        except MemoryError:
            taken = f"{math.prod(shape) / 2**30:.1f} GiB of memory"
            raise media.MediaError(
                f"{stream.name}: {stream.frames} frames take {taken}: cut it"
            ) from None
        for at, frame in enumerate(stream):
            frames[at] = frame
        return media.Video(frames, stream.fps or 1.0)


def read_image(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "height width 3"]:
    """An image; what is transparent is shown over white.

    Raises:
      MediaError: unreadable, or a video.
    """
    with media.open_frames(path) as stream:
        if stream.frames != 1:
            raise media.MediaError(
                f"{stream.name}: a video of {stream.frames} frames: an image is needed "
                "here, such as one of them saved as .png"
            )
        (frame,) = stream
        return frame


def read_mask(
    path: str | os.PathLike[str], *, frames: int, height: int, width: int
) -> Bool[np.ndarray, "frames height width"]:
    """Where a video is to be made anew, in white (luma of 128 or more), for a clip.

    Args:
      path: an image, which holds for every frame, or a video of as many frames.
      frames: of the clip, as are `height` and `width` in pixels.

    Raises:
      MediaError: unreadable, of another size or number of frames than the clip, or
        black everywhere.
    """
    mask = np.empty((frames, height, width), bool)
    with media.open_frames(path) as stream:
        if (stream.height, stream.width) != (height, width):
            raise media.MediaError(
                f"{stream.name}: the mask is {stream.width}x{stream.height} pixels, "
                f"the clip {width}x{height}: give them one size"
            )
        if stream.frames not in (1, frames):
            raise media.MediaError(
                f"{stream.name}: the mask has {stream.frames} frames, the clip "
                f"{frames}: give it as many, or 1 that holds for all"
            )
        for at, frame in enumerate(stream):
            here = slice(None) if stream.frames == 1 else at
            mask[here] = frame.astype(np.int32) @ _LUMA >= 1000 * _WHITE
        if not mask.any():
            raise media.MediaError(
                f"{stream.name}: nothing to inpaint: paint white what is to be new"
            )
    return mask


def nearest_size(grid: grids.Grid, width: int, height: int) -> tuple[int, int]:
    """The width and height on a model's grid that are nearest to these, in pixels."""
    across, down = _steps(grid)
    return _nearest(width, across), _nearest(height, down)


def fit_image(
    image: UInt8[np.ndarray, "height width 3"],
    grid: grids.Grid,
    *,
    size: tuple[int, int] | None = None,
    name: str = "image",
) -> tuple[UInt8[np.ndarray, "h w 3"], str | None]:
    """An image on the grid: resized, the middle of it kept where shapes differ.

    Args:
      image: of any size.
      grid: the model's.
      size: wanted width and height; None for the nearest on the grid.
      name: what the note calls it.

    Returns:
      The image, and a line that says what was done; None if it fitted as it is.

    Raises:
      ValueError: `size` is off the grid, with the nearest on it.
    """
    height, width = image.shape[:2]
    if size is not None:
        for side, step, way in zip(size, _steps(grid), ("wide", "high"), strict=True):
            grids.check_size(side, step, first=step, unit=f"pixels {way}")
    goal = size or nearest_size(grid, width, height)
    if goal == (width, height):
        return image, None
    return resize(image[None], goal)[0], resized(name, (width, height), after=goal)


def fit_clip(
    clip: media.Video,
    grid: grids.Grid,
    *,
    rule: Rule = "refuse",
    name: str = "clip",
) -> tuple[media.Video, str | None]:
    """A clip whose frames are on the grid; how many there are is not looked at.

    Args:
      clip: of any size.
      grid: the model's.
      rule: what to do with a clip off the grid: refuse it, or resize it to the nearest
        size on it, the middle kept.
      name: what the error and the note call it.

    Returns:
      The clip, and a line that says what was done; None if it fitted as it is.

    Raises:
      ValueError: off the grid and the rule is 'refuse', with the nearest size.
    """
    height, width = clip.frames.shape[1:3]
    goal = nearest_size(grid, width, height)
    if goal == (width, height):
        return clip, None
    if rule == "refuse":
        raise ValueError(
            f"{name}: {width}x{height} pixels: use {goal[0]}x{goal[1]}, or say "
            "--fit resize"
        )
    frames = resize(clip.frames, goal)
    return media.Video(frames, clip.fps), resized(name, (width, height), after=goal)


def resize(
    frames: UInt8[np.ndarray, "frames height width 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "frames h w 3"]:
    """Frames that cover a width and height, antialiased; the middle of them is kept.

    Their proportions do not change: what is too long is cut off on both sides alike.
    """
    from PIL import Image

    height, width = frames.shape[1:3]
    scale = max(size[0] / width, size[1] / height)
    across, down = min(width, size[0] / scale), min(height, size[1] / scale)
    left, top = (width - across) / 2, (height - down) / 2
    box = (left, top, left + across, top + down)
    lanczos = Image.Resampling.LANCZOS
    made = (Image.fromarray(frame).resize(size, lanczos, box=box) for frame in frames)
    return np.stack([np.asarray(frame) for frame in made])


def resize_mask(
    mask: Bool[np.ndarray, "frames height width"], size: tuple[int, int]
) -> Bool[np.ndarray, "frames h w"]:
    """A mask to a width and height, as `resize` does to the clip that it is of."""
    pixels = np.where(mask[..., None], np.uint8(255), np.uint8(0))
    return resize(np.repeat(pixels, 3, axis=-1), size)[..., 0] >= _WHITE


def _steps(grid: grids.Grid) -> tuple[int, int]:
    """Pixels between two legal widths, and between two legal heights."""
    _, down, across = grid.patch
    return grid.spatial_ratio * across, grid.spatial_ratio * down


def _nearest(side: int, step: int) -> int:
    """The nearest multiple of `step`, and at least it; the smaller of two."""
    legal = grids.nearest_sizes(side, step, first=step)
    return min(legal, key=lambda near: (abs(near - side), near))


def resized(name: str, before: tuple[int, int], *, after: tuple[int, int]) -> str:
    """A line that says what `resize` did to a width and height."""
    sizes = "{}x{} becomes {}x{}".format(*itertools.chain(before, after))
    cut = before[0] * after[1] != before[1] * after[0]
    return f"{name}: {sizes} pixels: resized{', the middle kept' if cut else ''}"
