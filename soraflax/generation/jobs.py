"""Jobs from what people have: images and clips of any size, seconds, or no numbers.

`generation.tasks` takes exact numbers on the model's grid. The functions here choose
them: a length in seconds becomes the nearest that can be made, a context suits the
windows of the model's training, an image or clip is fitted to the grid. What was
changed is said in `Job.notes`, a line each.

Every function takes the model and what its task is about, and returns a
`generator.Job`, of which `generator.Generator` makes a video.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from soraflax import media
from soraflax.generation import (
    conditioning,
    generator,
    lengths,
    prompts,
    resizing,
    tasks,
)
from soraflax.ops import grid as grids

Image = UInt8[np.ndarray, "H W 3"]


@dataclasses.dataclass(frozen=True)
class Text:
    """What the video of a job shows.

    Attributes:
      prompt: any text; what a model cannot read is cut, and said.
      negative: what the video should not show; takes the empty caption's place in
        guidance.
      seed: PRNG seed of the noise, 0 to 2**32 - 1.
    """

    prompt: str = ""
    negative: str = ""
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Length:
    """How many frames are made.

    Attributes:
      frames: exact number; None for what suits the model.
      seconds: the number of frames that lasts nearest to it.
    """

    frames: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.frames is not None and self.seconds is not None:
            raise ValueError("frames and seconds are given: use one of them")


def generate(
    model: generator.Generator,
    text: Text,
    *,
    size: tuple[int, int] | None = None,
    length: Length = Length(),
    fps: float | None = None,
) -> generator.Job:
    """Text to video.

    Args:
      model: that makes it.
      text: what it shows.
      size: width and height in pixels; None for the model's own.
      length: of the whole video.
      fps: frames per second; None for the model's reference rate.

    Raises:
      ValueError: a size off the grid, with the nearest sizes on it.
    """
    rate = fps or model.model.config.reference_fps
    size = size or generator.default_size(model)
    frames = _whole_length(model, length, fps=rate)
    empty = tasks.generate(model.grid, size=size, frames=frames, fps=rate)
    return _job(
        model,
        "generate",
        conditioned=empty,
        text=text,
        notes=_length_notes(length, frames, fps=rate),
        needs_prompt=True,
    )


def image(
    model: generator.Generator, text: Text, *, size: tuple[int, int] | None = None
) -> generator.Job:
    """Text to image; errors as of `generate`."""
    return _job(
        model,
        "image",
        conditioned=tasks.image(model.grid, size=size or generator.default_size(model)),
        text=text,
        needs_prompt=True,
    )


def animate(
    model: generator.Generator,
    first: Image | media.Video,
    *,
    text: Text = Text(),
    last: Image | media.Video | None = None,
    size: tuple[int, int] | None = None,
    length: Length = Length(),
    fps: float | None = None,
    names: tuple[str, str] = ("image", "last frame"),
) -> generator.Job:
    """An image that begins to move.

    Args:
      model: that makes it.
      first: the first frame, of any size; pixels, or a video of one frame.
      text: what the video shows.
      last: the last frame, brought to the size of the first.
      size: width and height; None for the nearest on the grid to the first frame's.
      length: of the whole video.
      fps: frames per second; None for the model's reference rate.
      names: what notes call the two images.

    Raises:
      ValueError: a size off the grid, with the nearest sizes on it; a video of several
        frames.
    """
    rate = fps or model.model.config.reference_fps
    frames = _whole_length(model, length, fps=rate)
    first, notes = resizing.fit_image(first, model.grid, size=size, name=names[0])
    if last is not None:
        target = (first.shape[1], first.shape[0])
        last, more = resizing.fit_image(last, model.grid, size=target, name=names[1])
        notes = [*notes, *more]
    notes = [*notes, *_length_notes(length, frames, fps=rate)]
    moving = tasks.animate(model.grid, first, frames=frames, fps=rate, last=last)
    return _job(model, "animate", conditioned=moving, text=text, notes=notes)


def extend(
    model: generator.Generator,
    clip: media.Video,
    *,
    text: Text = Text(),
    direction: tasks.Direction = "forward",
    length: Length = Length(),
    context: int | None = None,
    strength: float = 0.8,
    fit: resizing.Rule = "refuse",
    name: str = "clip",
) -> generator.Job:
    """A clip continued, or what came before it.

    Args:
      model: that makes it.
      clip: the clip; it is in the result unchanged.
      text: what the video shows.
      direction: 'forward' or 'backward'.
      length: of what is new.
      context: frames of the clip that the model sees; None for what suits it.
      strength: backward, of the noise that what comes before starts from.
      fit: what to do with a clip off the grid.
      name: what errors and notes call the clip.

    Raises:
      ValueError: a size or length off the grid, with the nearest on it.
    """
    clip, notes = resizing.fit_clip(clip, model.grid, rule=fit, name=name)
    suited, frames = _suited(model)[direction]
    longest_piece = frames
    options: dict[str, Any] = {"direction": direction}
    if direction == "forward":
        frames = _new_length(model, length, fps=clip.fps, default=frames)
    else:
        lengths.check_enough(model.grid, len(clip), name=name)
        options["strength"] = strength
        frames = _new_length_before(model, length, fps=clip.fps, piece=frames)
    notes = [*notes, *_length_notes(length, frames, fps=clip.fps)]
    options["context"] = context or min(suited, len(clip))
    extended = tasks.extend(
        model.grid,
        clip.frames,
        frames=frames,
        fps=clip.fps,
        longest_piece=longest_piece,
        **options,
    )
    return _job(
        model, "extend", conditioned=extended, text=text, notes=notes, options=options
    )


def loop(
    model: generator.Generator,
    clip: media.Video,
    *,
    text: Text = Text(),
    length: Length = Length(),
    context: int | None = None,
    strength: float = 0.5,
    fit: resizing.Rule = "refuse",
    name: str = "clip",
) -> generator.Job:
    """A clip, and the piece after it that leads back to its first frame.

    Args and errors are those of `extend`.
    """
    clip, notes = resizing.fit_clip(clip, model.grid, rule=fit, name=name)
    lengths.check_enough(model.grid, len(clip), name=name)
    suited, frames = _suited(model)["between"]
    frames = _new_length(model, length, fps=clip.fps, default=frames)
    notes = [*notes, *_length_notes(length, frames, fps=clip.fps)]
    options = {"context": context or min(suited, len(clip)), "strength": strength}
    looped = tasks.loop(
        model.grid,
        clip.frames,
        frames=frames,
        fps=clip.fps,
        **options,
    )
    return _job(
        model, "loop", conditioned=looped, text=text, notes=notes, options=options
    )


def connect(
    model: generator.Generator,
    first: media.Video,
    *,
    second: media.Video,
    text: Text = Text(),
    length: Length = Length(),
    context: int | None = None,
    strength: float = tasks.TRANSITION_STRENGTH,
    fit: resizing.Rule = "refuse",
    names: tuple[str, str] = ("first clip", "second clip"),
) -> generator.Job:
    """Two clips of one frame rate, and a transition between them.

    Args and errors are those of `extend`; `fit='resize'` brings the second clip to the
    size of the first.
    """
    first, notes = resizing.fit_clip(first, model.grid, rule=fit, name=names[0])
    target = first.size if fit == "resize" else None
    second, more = resizing.fit_clip(
        second, model.grid, rule=fit, size=target, name=names[1]
    )
    for clip, name in zip((first, second), names, strict=True):
        lengths.check_enough(model.grid, len(clip), name=name)
    if first.fps != second.fps:
        raise ValueError(
            f"{names[0]} has {first.fps:g} frames per second, {names[1]} "
            f"{second.fps:g}: give both one rate (--fps)"
        )
    suited, frames = _suited(model)["between"]
    frames = _new_length(model, length, fps=first.fps, default=frames)
    shorter = min(len(first), len(second))
    options = {"context": context or min(suited, shorter), "strength": strength}
    connected = tasks.connect(
        model.grid,
        first.frames,
        second=second.frames,
        frames=frames,
        fps=first.fps,
        **options,
    )
    notes = [*notes, *more, *_length_notes(length, frames, fps=first.fps)]
    return _job(
        model, "connect", conditioned=connected, text=text, notes=notes, options=options
    )


def edit(
    model: generator.Generator,
    clip: media.Video,
    *,
    text: Text,
    strength: float = 0.7,
    fit: resizing.Rule = "refuse",
    name: str = "clip",
) -> generator.Job:
    """A clip made anew after another prompt (SDEdit); args as of `extend`.

    Args:
      strength: share of the noise levels walked again; 0 keeps all, 1 keeps nothing.
    """
    clip, notes = resizing.fit_clip(clip, model.grid, rule=fit, name=name)
    edited = tasks.edit(model.grid, clip.frames, strength=strength, fps=clip.fps)
    options = {"strength": strength}
    return _job(
        model,
        "edit",
        conditioned=edited,
        text=text,
        notes=notes,
        options=options,
        needs_prompt=True,
    )


def inpaint(
    model: generator.Generator,
    clip: media.Video,
    *,
    mask: Bool[np.ndarray, "T H W"],
    text: Text = Text(),
    fit: resizing.Rule = "refuse",
    name: str = "clip",
) -> generator.Job:
    """A clip of which what a mask marks is made anew; args as of `extend`.

    Args:
      mask: true where the clip is made anew, of the clip's size.
    """
    clip, notes = resizing.fit_clip(clip, model.grid, rule=fit, name=name)
    if clip.frames.shape[1:3] != mask.shape[1:]:
        mask = resizing.cover_mask(mask, clip.size)
    painted = tasks.inpaint(model.grid, clip.frames, mask=mask, fps=clip.fps)
    return _job(model, "inpaint", conditioned=painted, text=text, notes=notes)


def outpaint(
    model: generator.Generator,
    clip: media.Video,
    *,
    size: tuple[int, int],
    text: Text = Text(),
    name: str = "clip",
) -> generator.Job:
    """A clip in the middle of a frame of another shape, whose rest is made.

    Args:
      model: that makes it.
      clip: of any size.
      size: width and height of the new frame.
      text: what the video shows.
      name: what notes call the clip.

    Raises:
      ValueError: a size off the grid, or a frame that the clip fills.
    """
    larger = tasks.outpaint(model.grid, clip.frames, size=size, fps=clip.fps)
    rows, columns = (larger.keep_mask[0].any(axis=axis) for axis in (1, 0))
    inner = (int(columns.sum()), int(rows.sum()))
    notes = resizing.reading_notes(clip, name)
    if inner != clip.size:
        notes.append(resizing.note(name, clip.size, after=inner))
    return _job(model, "outpaint", conditioned=larger, text=text, notes=notes)


def upscale(
    model: generator.Generator,
    clip: media.Video,
    *,
    size: tuple[int, int],
    text: Text = Text(),
    strength: float = 0.5,
    name: str = "clip",
) -> generator.Job:
    """A clip enlarged, noised and denoised at its new size; args as of `outpaint`.

    Args:
      strength: of the noise; more invents more detail.
    """
    # Refused before anything is enlarged.
    grid = model.grid
    grid.latent_shape(grid.min_frames, height=size[1], width=size[0])
    larger = tasks.upscale(
        grid, clip.frames, size=size, strength=strength, fps=clip.fps
    )
    notes = resizing.reading_notes(clip, name)
    if clip.size[0] * size[1] != clip.size[1] * size[0]:
        sizes = "{}x{} becomes {}x{}".format(*clip.size, *size)
        notes.append(f"{name}: {sizes} pixels: stretched")
    return _job(
        model,
        "upscale",
        conditioned=larger,
        text=text,
        notes=notes,
        options={"strength": strength},
    )


def _job(
    model: generator.Generator,
    task: str,
    *,
    conditioned: conditioning.Conditioning,
    text: Text,
    notes: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    needs_prompt: bool = False,
) -> generator.Job:
    """A job whose texts the model can read."""
    read = {
        name: prompts.clean(
            words,
            vocabulary=model.model.tokenizer,
            text_length=model.model.config.text_length,
            name=name,
        )
        for name, words in (("prompt", text.prompt), ("negative prompt", text.negative))
    }
    told = [*notes, *(note for cleaned in read.values() for note in cleaned.notes)]
    if needs_prompt and not text.prompt:
        told.append("the prompt is empty: what is made is left to chance")
    return generator.Job(
        conditioned,
        text=read["prompt"].text,
        negative=read["negative prompt"].text,
        seed=text.seed,
        task=task,
        notes=tuple(dict.fromkeys(told)),
        options=options or {},
    )


def _suited(model: generator.Generator) -> dict[str, tuple[int, int]]:
    """Context and new frames of each task that suit the windows of training."""
    return lengths.contexts(model.grid, model.model.config.window)


def _whole_length(model: generator.Generator, length: Length, *, fps: float) -> int:
    """Frames of a new video."""
    if length.seconds is None:
        return length.frames or generator.default_frames(model)
    return model.grid.nearest_frames(length.seconds, fps)


def _new_length(
    model: generator.Generator, length: Length, *, fps: float, default: int
) -> int:
    """Frames made after or between what is given.

    Raises:
      ValueError: more than a video may have.
    """
    group = model.grid.frame_step
    frames = length.frames or default
    if length.seconds is not None:
        wanted = grids.wanted_frames(length.seconds, fps)
        frames = max(1, round(wanted / group)) * group
    _check_few(frames, grids.MAX_FRAMES // group * group)
    return frames


def _new_length_before(
    model: generator.Generator, length: Length, *, fps: float, piece: int
) -> int:
    """Frames made before what is given, in pieces of `piece` at most.

    Raises:
      ValueError: more than a video may have.
    """
    frames = length.frames or piece
    if length.seconds is not None:
        wanted = grids.wanted_frames(length.seconds, fps)
        frames = lengths.nearest_pieces(model.grid, wanted, longest=piece)
    _check_few(frames, grids.MAX_FRAMES // piece * piece)
    return frames


def _length_notes(length: Length, frames: int, *, fps: float) -> list[str]:
    """What became of a length in seconds that is no legal number of frames."""
    if length.seconds is None or abs(frames / fps - length.seconds) < 0.5e-3:
        return []
    return [
        f"{length.seconds:g} seconds become {frames / fps:.3g}: {frames} frames at "
        f"{fps:g} a second are the nearest that can be made"
    ]


def _check_few(frames: int, largest: int) -> None:
    if frames > largest:
        raise ValueError(f"{frames} new frames: use {largest} or less")
