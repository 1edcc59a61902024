"""What a command is asked: files, prompts and sizes to a job, checked before work."""

import argparse
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from soraflax import media
from soraflax.cli import inputs, options
from soraflax.generation import (
    conditioning,
    generator,
    prompts,
    tasks,
)
from soraflax.ops import grid as grids

NEED_PROMPT = ("generate", "image", "edit")


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a command is asked.

    Attributes:
      job: for its first seed.
      frames: of the result.
      inputs: files, by the role each has.
      notes: what was changed about the input, a line each.
      positional: names of the arguments that stand without a flag.
      extra: of the task, for the record.
    """

    job: generator.Job
    frames: int
    inputs: Mapping[str, pathlib.Path]
    notes: Sequence[str]
    positional: Sequence[str]
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Task:
    """What a task makes of its arguments.

    Attributes:
      given: see `generation.conditioning`.
      inputs, positional, extra: as of `Asked`.
      notes: what was done to the input.
    """

    given: conditioning.Conditioning
    inputs: Mapping[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    positional: Sequence[str] = ("clip", "prompt")
    notes: Sequence[str] = ()
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read(args: argparse.Namespace, model: generator.Generator) -> Asked:
    """Everything that a command is asked, read and checked.

    Raises:
      ValueError, OSError: what is wrong, in one line.
    """
    task = TASKS[args.command](args, model)
    texts = {
        name: prompts.clean(
            text,
            vocabulary=model.model.tokenizer,
            text_length=model.model.config.text_length,
            name=name,
        )
        for name, text in (
            ("prompt", args.prompt),
            ("negative prompt", args.negative_prompt),
        )
    }
    notes = [note for text in texts.values() for note in text.notes]
    if args.command in NEED_PROMPT and not args.prompt:
        notes.append("the prompt is empty: what is made is left to chance")
    job = generator.Job(
        task.given,
        text=texts["prompt"].text,
        negative=texts["negative prompt"].text,
        seed=args.seed,
    )
    return Asked(
        job,
        frames=task.given.length,
        inputs=task.inputs,
        notes=[*task.notes, *notes],
        positional=task.positional,
        extra=task.extra,
    )


def _generate(args: argparse.Namespace, model: generator.Generator) -> Task:
    fps = args.fps or model.model.config.reference_fps
    frames = _length(args, model, fps=fps)
    empty = tasks.generate(model.grid, size=args.size, frames=frames, fps=fps)
    return Task(empty, positional=("prompt",))


def _image(args: argparse.Namespace, model: generator.Generator) -> Task:
    return Task(tasks.image(model.grid, size=args.size), positional=("prompt",))


def _animate(args: argparse.Namespace, model: generator.Generator) -> Task:
    fps = args.fps or model.model.config.reference_fps
    frames = _length(args, model, fps=fps)
    if args.size is not None:
        _check_size(model.grid, args.size)
    first, note = inputs.fit_image(
        inputs.read_image(args.image), model.grid, size=args.size, name=str(args.image)
    )
    files, notes, last = {"image": args.image}, [note], None
    if args.last_frame is not None:
        last, note = inputs.fit_image(
            inputs.read_image(args.last_frame),
            model.grid,
            size=(first.shape[1], first.shape[0]),
            name=str(args.last_frame),
        )
        files["last_frame"] = args.last_frame
        notes.append(note)
    moving = tasks.animate(model.grid, first, frames=frames, fps=fps, last=last)
    return Task(moving, files, ("image", "prompt"), _told(notes))


def _extend(args: argparse.Namespace, model: generator.Generator) -> Task:
    clip, notes = _clip(args, model, path=args.clip)
    context, new = _contexts(model)[args.direction]
    how: dict[str, Any] = {"direction": args.direction, "fps": clip.fps}
    if args.direction == "forward":
        new = _new(args, clip.fps, default=new, grid=model.grid)
    else:
        _check_enough(clip, model.grid, path=args.clip)
        how["strength"] = args.strength
        how["longest_piece"] = new
        new = _new_before(args, clip.fps, piece=new, grid=model.grid)
    context = _context(args, context, clip=clip)
    more = tasks.extend(model.grid, clip.frames, frames=new, context=context, **how)
    return Task(
        more,
        {"clip": args.clip},
        notes=notes,
        extra={"direction": args.direction, "context": context}
        | {k: v for k, v in how.items() if k == "strength"},
    )


def _loop(args: argparse.Namespace, model: generator.Generator) -> Task:
    clip, notes = _clip(args, model, path=args.clip)
    _check_enough(clip, model.grid, path=args.clip)
    context, new = _contexts(model)["between"]
    context = _context(args, context, clip=clip)
    looped = tasks.loop(
        model.grid,
        clip.frames,
        frames=_new(args, clip.fps, default=new, grid=model.grid),
        context=context,
        fps=clip.fps,
        strength=args.strength,
    )
    extra = {"context": context, "strength": args.strength}
    return Task(looped, {"clip": args.clip}, notes=notes, extra=extra)


def _connect(args: argparse.Namespace, model: generator.Generator) -> Task:
    first, notes = _clip(args, model, path=args.clip)
    second, more = _clip(args, model, path=args.second)
    for clip, path in ((first, args.clip), (second, args.second)):
        _check_enough(clip, model.grid, path=path)
    if first.fps != second.fps:
        raise ValueError(
            f"{args.clip} has {first.fps:g} frames per second, {args.second} "
            f"{second.fps:g}: give both one rate (--fps)"
        )
    if args.fit == "resize" and first.frames.shape[1:] != second.frames.shape[1:]:
        was, size = _size(second), _size(first)
        frames = inputs.resize(second.frames, size)
        second = media.Video(frames, second.fps)
        more = [*more, inputs.resized(str(args.second), was, after=size)]
    context, new = _contexts(model)["between"]
    shorter = min(first, second, key=lambda clip: len(clip.frames))
    context = _context(args, context, clip=shorter)
    joined = tasks.connect(
        model.grid,
        first.frames,
        second=second.frames,
        frames=_new(args, first.fps, default=new, grid=model.grid),
        context=context,
        fps=first.fps,
        strength=args.strength,
    )
    extra = {"context": context, "strength": args.strength}
    files = {"first": args.clip, "second": args.second}
    names = ("clip", "second", "prompt")
    return Task(joined, files, names, [*notes, *more], extra=extra)


def _edit(args: argparse.Namespace, model: generator.Generator) -> Task:
    clip, notes = _clip(args, model, path=args.clip)
    edited = tasks.edit(model.grid, clip.frames, strength=args.strength, fps=clip.fps)
    extra = {"strength": args.strength}
    return Task(edited, {"clip": args.clip}, notes=notes, extra=extra)


def _inpaint(args: argparse.Namespace, model: generator.Generator) -> Task:
    whole = _read(args, model, path=args.clip)
    frames, height, width = whole.frames.shape[:3]
    mask = inputs.read_mask(args.mask, frames=frames, height=height, width=width)
    clip, notes = _fitted(args, model, clip=whole, path=args.clip)
    if clip.frames.shape[1:3] != mask.shape[1:]:
        mask = inputs.resize_mask(mask, _size(clip))
    painted = tasks.inpaint(model.grid, clip.frames, mask=mask, fps=clip.fps)
    files = {"clip": args.clip, "mask": args.mask}
    return Task(painted, files, notes=notes)


def _outpaint(args: argparse.Namespace, model: generator.Generator) -> Task:
    clip = _read(args, model, path=args.clip)
    larger = tasks.outpaint(model.grid, clip.frames, size=args.size, fps=clip.fps)
    rows, columns = (larger.keep_mask[0].any(axis=axis) for axis in (1, 0))
    size, inner = _size(clip), (int(columns.sum()), int(rows.sum()))
    notes = [] if inner == size else [inputs.resized(str(args.clip), size, after=inner)]
    return Task(larger, {"clip": args.clip}, notes=notes)


def _upscale(args: argparse.Namespace, model: generator.Generator) -> Task:
    _check_size(model.grid, args.size)
    clip = _read(args, model, path=args.clip)
    larger = tasks.upscale(
        model.grid,
        clip.frames,
        size=args.size,
        strength=args.strength,
        fps=clip.fps,
    )
    (width, height), extra = _size(clip), {"strength": args.strength}
    notes = []
    if width * args.size[1] != height * args.size[0]:
        sizes = "{}x{} becomes {}x{}".format(width, height, *args.size)
        notes = [f"{args.clip}: {sizes} pixels: stretched"]
    return Task(larger, {"clip": args.clip}, notes=notes, extra=extra)


TASKS: dict[str, Callable[[argparse.Namespace, generator.Generator], Task]] = {
    "generate": _generate,
    "image": _image,
    "animate": _animate,
    "extend": _extend,
    "loop": _loop,
    "connect": _connect,
    "edit": _edit,
    "inpaint": _inpaint,
    "outpaint": _outpaint,
    "upscale": _upscale,
}


def _read(
    args: argparse.Namespace, model: generator.Generator, *, path: pathlib.Path
) -> media.Video:
    """A clip at the rate asked for, else its own; that of an image is the model's."""
    clip = inputs.read_clip(path, max_frames=grids.MAX_FRAMES)
    still = model.model.config.reference_fps if len(clip.frames) == 1 else clip.fps
    return media.Video(clip.frames, args.fps or still)


def _clip(
    args: argparse.Namespace, model: generator.Generator, *, path: pathlib.Path
) -> tuple[media.Video, list[str]]:
    return _fitted(args, model, clip=_read(args, model, path=path), path=path)


def _fitted(
    args: argparse.Namespace,
    model: generator.Generator,
    *,
    clip: media.Video,
    path: pathlib.Path,
) -> tuple[media.Video, list[str]]:
    clip, note = inputs.fit_clip(clip, model.grid, rule=args.fit, name=str(path))
    return clip, _told([note])


def _told(notes: Sequence[str | None]) -> list[str]:
    return [note for note in notes if note is not None]


def _size(clip: media.Video) -> tuple[int, int]:
    """Width and height."""
    return clip.frames.shape[2], clip.frames.shape[1]


def _check_size(grid: grids.Grid, size: tuple[int, int]) -> None:
    """Refuse a size off the grid or too large before anything is enlarged to it."""
    grid.latent_shape(grid.min_frames, size[1], size[0])


def _check_enough(clip: media.Video, grid: grids.Grid, *, path: pathlib.Path) -> None:
    """Refuse a clip too short for anything to be made before it.

    Raises:
      ValueError: with how many frames it needs.
    """
    if len(clip.frames) < grid.frame_step:
        count = len(clip.frames)
        raise ValueError(
            f"{path}: {count} frame{'s' * (count > 1)}: give {grid.frame_step} or more"
        )


def _length(args: argparse.Namespace, model: generator.Generator, *, fps: float) -> int:
    """Frames of a new video."""
    if args.seconds is None:
        return args.frames or options.FRAMES
    return model.grid.nearest_frames(args.seconds, fps)


def _new(
    args: argparse.Namespace, fps: float, *, default: int, grid: grids.Grid
) -> int:
    """How many frames are to be made between or after what is given.

    Raises:
      ValueError: more than a video may have.
    """
    frames = args.frames or default
    if args.seconds is not None:
        wanted = grids.wanted_frames(args.seconds, fps)
        frames = max(1, round(wanted / grid.frame_step)) * grid.frame_step
    _check_few(frames, grids.MAX_FRAMES // grid.frame_step * grid.frame_step)
    return frames


def _new_before(
    args: argparse.Namespace, fps: float, *, piece: int, grid: grids.Grid
) -> int:
    """The same before what is given, in pieces of so many at most.

    Raises:
      ValueError: a number that no pieces make, with the nearest that some do.
    """
    frames = args.frames or piece
    if args.seconds is not None:
        wanted = grids.wanted_frames(args.seconds, fps)
        frames = tasks.nearest_pieces(grid, wanted, longest=piece)
    _check_few(frames, grids.MAX_FRAMES // piece * piece)
    return frames


def _check_few(frames: int, most: int) -> None:
    if frames > most:
        raise ValueError(f"{frames} new frames: use {most} or less")


def _contexts(model: generator.Generator) -> dict[str, tuple[int, int]]:
    return tasks.contexts(model.grid, model.model.config.window)


def _context(args: argparse.Namespace, default: int, *, clip: media.Video) -> int:
    """Frames of a clip that are shown: as asked, else what suits and is there."""
    return args.context or min(default, len(clip.frames))
