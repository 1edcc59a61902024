"""Ways of prompting: each says which pixels are kept, and nothing else.

    generate, image   nothing is kept                            a size
    animate           the first frame, perhaps the last          an image
    extend            the end of a clip, or its beginning        a clip
    loop              its end, and its beginning after it        a clip
    connect           the end of one, the beginning of another   two clips
    edit              nothing; it starts from the clip           a clip, a strength
    inpaint           what a mask leaves                         a clip, a mask
    outpaint          the clip, in the middle of a larger frame  a clip, a size
    upscale           nothing; it starts from the clip, enlarged a clip, a size

Videos are uint8 `[T, H, W, 3]`. Sizes are in pixels and must be on the model's grid;
the error names the nearest.

With r the frames of video that a latent frame stands for and p the latent frames of a
patch, kept frames at the start number 1 + r (p k - 1), kept frames after new ones
r p k (1): joins then lie between patches. What does not fit is left out of the canvas,
not out of the result.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np
from jaxtyping import Bool, UInt8

from soraflax.generation import lengths
from soraflax.generation.conditioning import Conditioning
from soraflax.ops import grid as grids

Video = UInt8[np.ndarray, "T H W 3"]
Direction = Literal["forward", "backward"]
# Of a transition, which begins as what both sides make of it: enough to make one of
# them, too little to cut.
TRANSITION_STRENGTH = 0.2


def generate(
    grid: grids.Grid, *, size: tuple[int, int], frames: int, fps: float
) -> Conditioning:
    """A video of which nothing is given.

    Args:
      grid: sizes that the model can make.
      size: width and height.
      frames: how many.
      fps: frames per second.

    Raises:
      ValueError: a size off the grid, with the nearest sizes on it.
    """
    width, height = size
    grid.latent_shape(frames, height, width)
    none = np.zeros((0, height, width, 3), np.uint8)
    return Conditioning(none, _none(none), fps, frames)


def image(grid: grids.Grid, *, size: tuple[int, int]) -> Conditioning:
    """An image is a video of one frame.

    Raises:
      ValueError: a size off the grid, or a model whose patches span several frames.
    """
    return generate(grid, size=size, frames=1, fps=1.0)


def animate(
    grid: grids.Grid,
    first: UInt8[np.ndarray, "H W 3"],
    *,
    frames: int,
    fps: float,
    last: UInt8[np.ndarray, "H W 3"] | None = None,
) -> Conditioning:
    """An image that begins to move, towards a last frame if there is one.

    Raises:
      ValueError: a size off the grid, images of two sizes, or fewer than two frames.
    """
    grid.latent_shape(frames, *first.shape[:2])
    if frames < 2:
        raise ValueError(f"{frames} frames: use {1 + grid.frame_step} or more to move")
    if last is None:
        return Conditioning(first[None], ~_none(first[None]), fps, frames)
    _check_same_size(first[None], last[None])
    middle = _blank(first[None], frames - 2)
    return Conditioning(
        np.concatenate([first[None], middle, last[None]]),
        _mask(middle, (1, True), (frames - 2, False), (1, True)),
        fps,
        frames,
    )


def extend(
    grid: grids.Grid,
    video: Video,
    *,
    direction: Direction,
    frames: int,
    context: int,
    fps: float,
    strength: float = 0.8,
    longest_piece: int | None = None,
) -> Conditioning:
    """A clip continued, or what came before it.

    What comes before a clip is made in pieces, the last first. Each is a clip of its
    own: its first latent frame holds one frame of video, as in training, and its end is
    the beginning of what is there already. Pieces are joined in pixels.

    Args:
      grid: sizes that the model can make.
      video: the clip.
      direction: 'forward' or 'backward'.
      frames: new frames, a multiple of r p forward; backward what `lengths.pieces`
        allows.
      context: frames of the clip that are shown to the model, at most; see (1).
      fps: frames per second.
      strength: backward, of the noise that what comes before starts from: its frames
        are first the clip's own first one, held. Less joins closer and moves less.
        What comes after starts from nothing but noise.
      longest_piece: backward, new frames of a piece, at most, such as
        `lengths.contexts` gives; None for one piece of any length.

    Raises:
      ValueError: a size off the grid, or a context longer than the clip.
    """
    if direction not in ("forward", "backward"):
        raise ValueError(f"direction {direction!r}: use 'forward' or 'backward'")
    _check_frame(grid, video)
    if direction == "forward":
        tail = lengths.tail(grid, len(video), context=context)
        lengths.check_new(grid, frames)
        shown = video[-tail:]
        total = tail + frames
        grid.latent_shape(total, *video.shape[1:3])
        return Conditioning(shown, ~_none(shown), fps, total, before=video[:-tail])
    head = lengths.head(grid, len(video), context=context)
    new, *further = lengths.pieces(grid, frames, longest=longest_piece)
    return Conditioning(
        np.concatenate([np.repeat(video[:1], new, axis=0), video[:head]]),
        _mask(video, (new, False), (head, True)),
        fps,
        new + head,
        strength,
        after=video[head:],
        prepend=tuple(further),
        prepend_context=context,
    )


def piece_before(
    grid: grids.Grid, following: Conditioning, *, video: Video
) -> Conditioning:
    """The next of the further pieces of `following`, which made `video`."""
    new, *further = following.prepend
    piece = extend(
        grid,
        video,
        direction="backward",
        frames=new,
        context=min(following.prepend_context, len(video)),
        fps=following.fps,
        strength=following.strength,
    )
    return dataclasses.replace(
        piece,
        prepend=tuple(further),
        prepend_context=following.prepend_context,
    )


def loop(
    grid: grids.Grid,
    video: Video,
    *,
    frames: int,
    context: int,
    fps: float,
    strength: float = 0.5,
) -> Conditioning:
    """A clip, and the piece after it that leads back to its first frame.

    With a strength below 1 the piece starts from the clip's last frame, held for half
    of its time, and its first frame for the other half.

    Args and errors are those of `connect`, of the clip with itself.
    """
    between = _between(
        grid,
        (video, video),
        frames=frames,
        context=context,
        fps=fps,
        strength=strength,
    )
    before = 0 if between.before is None else len(between.before)
    own = len(video) - before + frames
    return dataclasses.replace(between, after=None, result_frames=own)


def connect(
    grid: grids.Grid,
    first: Video,
    *,
    second: Video,
    frames: int,
    context: int,
    fps: float,
    strength: float = TRANSITION_STRENGTH,
) -> Conditioning:
    """Two clips, and a transition between them.

    With a strength below 1 the transition starts from what both sides are if they go on
    by themselves, the one after the first clip dissolved into the one before the second
    (`generation.transitions`), and is then denoised as one. The more of that is kept,
    the closer both joins are. A text is what the second clip shows.

    Args:
      grid: sizes that the model can make.
      first, second: the clips.
      frames: new ones, a multiple of r p.
      context: frames of either clip that are shown to the model, at most; see (1).
      fps: frames per second.
      strength: of the noise that the transition starts from; see `Canvas`.

    Raises:
      ValueError: a size off the grid, clips of two sizes, or a context longer than one
        of them.
    """
    between = _between(
        grid,
        (first, second),
        frames=frames,
        context=context,
        fps=fps,
        strength=strength,
    )
    if strength == 1:
        return between
    sides = _sides(
        grid,
        (first, second),
        frames=frames,
        shown=between.frames - frames,
        fps=fps,
    )
    return dataclasses.replace(between, sides=sides)


def _sides(
    grid: grids.Grid,
    clips: tuple[Video, Video],
    *,
    frames: int,
    shown: int,
    fps: float,
) -> tuple[Conditioning, Conditioning]:
    """`frames` after the first clip, and as many before the second; no results."""
    first, second = clips
    onward = extend(
        grid,
        first,
        direction="forward",
        frames=frames,
        context=min(shown, len(first)),
        fps=fps,
    )
    # A canvas begins with frames of its own, which are more than are asked for.
    more = grid.min_frames
    before = extend(
        grid,
        second,
        direction="backward",
        frames=frames + more,
        context=min(shown - more, len(second)),
        fps=fps,
    )
    return (
        dataclasses.replace(onward, before=None),
        dataclasses.replace(before, after=None, result_frames=frames + more),
    )


def _between(
    grid: grids.Grid,
    clips: tuple[Video, Video],
    *,
    frames: int,
    context: int,
    fps: float,
    strength: float,
) -> Conditioning:
    """New frames between two clips, begun from the frames beside them, held."""
    first, second = clips
    _check_same_size(first, second)
    _check_frame(grid, first)
    tail, head = (
        lengths.tail(grid, len(first), context=context),
        lengths.head(grid, len(second), context=context),
    )
    lengths.check_new(grid, frames)
    held = [np.repeat(first[-1:], frames - frames // 2, axis=0)]
    held += [np.repeat(second[:1], frames // 2, axis=0)]
    return Conditioning(
        np.concatenate([first[-tail:], *held, second[:head]]),
        _mask(first, (tail, True), (frames, False), (head, True)),
        fps,
        tail + frames + head,
        strength,
        before=first[:-tail],
        after=second[head:],
    )


def edit(
    grid: grids.Grid, video: Video, *, strength: float, fps: float
) -> Conditioning:
    """A clip made anew from itself with noise added (SDEdit, arXiv:2108.01073).

    Raises:
      ValueError: a size off the grid.
    """
    own, video = len(video), _padded(grid, video)
    grid.latent_shape(*video.shape[:3])
    return Conditioning(
        video, _none(video), fps, len(video), strength, result_frames=own
    )


def inpaint(
    grid: grids.Grid, video: Video, *, mask: Bool[np.ndarray, "T H W"], fps: float
) -> Conditioning:
    """What a mask marks is made anew; in places, in time, or both.

    Raises:
      ValueError: a size off the grid, a mask of another size, or one that marks nothing
        or everything.
    """
    if mask.dtype != np.bool_:
        raise ValueError(f"a mask of {mask.dtype}: give bool")
    if mask.shape != video.shape[:3]:
        raise ValueError(f"a mask of {_size(mask)} on a clip of {_size(video)}")
    if not mask.any():
        raise ValueError("the mask marks nothing: there is nothing to inpaint")
    if mask.all():
        raise ValueError("the mask marks everything: leave some of it, or generate")
    own, video = len(video), _padded(grid, video)
    grid.latent_shape(*video.shape[:3])
    keep_mask = ~np.concatenate([mask, np.repeat(mask[-1:], len(video) - own, axis=0)])
    return Conditioning(video, keep_mask, fps, len(video), result_frames=own)


def outpaint(
    grid: grids.Grid, video: Video, *, size: tuple[int, int], fps: float
) -> Conditioning:
    """A clip in the middle of a frame of another shape, whose rest is made.

    A clip that is wider or higher than the new frame is first made small enough, to
    sides of whole patches, and cut a little where that changes its shape.

    Args:
      grid: sizes that the model can make.
      video: the clip.
      size: width and height of the new frame.
      fps: frames per second.

    Raises:
      ValueError: a size off the grid, or a frame that the clip fills.
    """
    width, height = size
    own, video = len(video), _padded(grid, video)
    frames = len(video)
    grid.latent_shape(frames, height, width)
    scale = min(1.0, width / video.shape[2], height / video.shape[1])
    inner = list(video.shape[1:3])
    if scale < 1:
        inner = [
            min(side, max(step, round(part * scale / step) * step))
            for part, side, step in zip(
                inner, (height, width), grid.patch_sides, strict=True
            )
        ]
    if inner == [height, width]:
        raise ValueError(
            f"a clip of {_size(video)} fills {width}x{height}: use a larger size"
        )
    small = resize(_center_crop(video, inner), (inner[1], inner[0]))
    top, left = (
        (side - part) // 2 // step * step  # whole patches, so that masks fit them
        for side, part, step in zip(
            (height, width), inner, grid.patch_sides, strict=True
        )
    )
    canvas = np.zeros((frames, height, width, 3), np.uint8)
    keep_mask = _none(canvas)
    area = (slice(None), slice(top, top + inner[0]), slice(left, left + inner[1]))
    canvas[area], keep_mask[area] = small, True
    return Conditioning(canvas, keep_mask, fps, frames, result_frames=own)


def upscale(
    grid: grids.Grid,
    video: Video,
    *,
    size: tuple[int, int],
    strength: float,
    fps: float,
) -> Conditioning:
    """A clip enlarged, noised and denoised at its new size.

    Raises:
      ValueError: a size off the grid, or smaller than the clip.
    """
    width, height = size
    if width < video.shape[2] or height < video.shape[1]:
        raise ValueError(
            f"a clip of {_size(video)} is larger than {width}x{height}: use "
            f"{video.shape[2]}x{video.shape[1]} or more"
        )
    return edit(grid, resize(video, size), strength=strength, fps=fps)


def resize(video: Video, size: tuple[int, int]) -> Video:
    """Bicubic, antialiased, to (width, height)."""
    if video.shape[1:3] == size[::-1]:
        return video
    shape = (size[1], size[0], 3)
    frames = (
        jax.image.resize(frame.astype(np.float32), shape, "cubic") for frame in video
    )
    return np.stack(
        [np.asarray(f).round().clip(0, 255).astype(np.uint8) for f in frames]
    )


def _center_crop(video: Video, sides: Sequence[int]) -> Video:
    """The middle of a clip, in the shape of a frame of (height, width)."""
    height, width = video.shape[1:3]
    scale = min(height / sides[0], width / sides[1])
    rows, columns = (max(1, round(side * scale)) for side in sides)
    top, left = (height - rows) // 2, (width - columns) // 2
    return video[:, top : top + rows, left : left + columns]


def _padded(grid: grids.Grid, video: Video) -> Video:
    """The clip, its last frame repeated up to the next legal number of frames."""
    missing = grid.frames_above(len(video)) - len(video)
    return np.concatenate([video, np.repeat(video[-1:], missing, axis=0)])


def _blank(video: Video, frames: int) -> Video:
    return np.zeros((frames, *video.shape[1:]), np.uint8)


def _none(video: Video) -> Bool[np.ndarray, "T H W"]:
    return np.zeros(video.shape[:3], bool)


def _mask(video: Video, *runs: tuple[int, bool]) -> Bool[np.ndarray, "T H W"]:
    """Runs of frames that are kept or not."""
    frames = np.concatenate([np.full(length, kept) for length, kept in runs])
    return np.broadcast_to(
        frames[:, None, None], (len(frames), *video.shape[1:3])
    ).copy()


def _check_same_size(first: np.ndarray, second: np.ndarray) -> None:
    if first.shape[1:] != second.shape[1:]:
        width, height = first.shape[2], first.shape[1]
        raise ValueError(
            f"{width}x{height} and {second.shape[2]}x{second.shape[1]} pixels: give "
            f"both one size, such as {width}x{height}"
        )


def _check_frame(grid: grids.Grid, video: Video) -> None:
    """Refuse sides off the grid."""
    grid.latent_shape(grid.min_frames, *video.shape[1:3])


def _size(video: np.ndarray) -> str:
    return f"{video.shape[0]} frames of {video.shape[2]}x{video.shape[1]}"
