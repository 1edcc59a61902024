"""What a command is given to work from: clips, images, masks, texts and lengths.

Whatever cannot be used is one line that names the file and the nearest thing that can.
"""

import argparse
import dataclasses
import math
import os

import numpy as np
from jaxtyping import Bool

from soraflax import media
from soraflax.generation import generator, jobs, resizing
from soraflax.ops import grid as grids

_LUMA = np.array([299, 587, 114], np.int32)  # thousandths, of ITU-R BT.601


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
            size = f"{math.prod(shape) / 2**30:.1f} GiB of memory"
            raise media.MediaError(
                f"{stream.name}: {stream.frames} frames take {size}: cut it"
            ) from None
        for index, frame in enumerate(stream):
            frames[index] = frame
        return media.Video(frames, stream.fps or 1.0, notes=tuple(stream.notes))


def read_image(path: str | os.PathLike[str]) -> media.Video:
    """An image, as a video of one frame; what is transparent is shown over white.

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
        return media.Video(frame[None], 1.0, notes=tuple(stream.notes))


def read_mask(
    path: str | os.PathLike[str], *, frames: int, height: int, width: int
) -> tuple[Bool[np.ndarray, "frames height width"], list[str]]:
    """Where a video is to be made anew, in white (luma of 128 or more), for a clip.

    Args:
      path: an image, which holds for every frame, or a video of as many frames.
      frames: of the clip, as are `height` and `width` in pixels.

    Returns:
      The mask, and notes of what reading it did.

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
        for index, frame in enumerate(stream):
            frames_of = slice(None) if stream.frames == 1 else index
            mask[frames_of] = frame.astype(np.int32) @ _LUMA >= 1000 * resizing.WHITE
        if not mask.any():
            raise media.MediaError(
                f"{stream.name}: nothing to inpaint: paint white what is to be new"
            )
        return mask, [f"{stream.name}: {note}" for note in stream.notes]


def read_video(
    path: str | os.PathLike[str], model: generator.Generator, *, fps: float | None
) -> media.Video:
    """A clip at `fps`, else its own rate; that of an image is the model's."""
    clip = read_clip(path, max_frames=grids.MAX_FRAMES)
    rate = model.model.config.reference_fps if len(clip) == 1 else clip.fps
    return dataclasses.replace(clip, fps=fps or rate)


def text(args: argparse.Namespace) -> jobs.Text:
    """The prompts of the arguments, and the seed."""
    return jobs.Text(args.prompt, args.negative_prompt, args.seed)


def length(args: argparse.Namespace) -> jobs.Length:
    """The length that the arguments ask for."""
    return jobs.Length(args.frames, args.seconds)
