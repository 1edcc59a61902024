"""What a command is asked: files, prompts and sizes to a job, checked before work."""

import argparse
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from soraflax import media
from soraflax.commands import inputs
from soraflax.generation import canvas, extending, generator, given, prompts, tasks

DEFAULT_FRAMES = 17


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a command is asked.

    Attributes:
      job: for its first seed.
      frames: of the result.
      inputs: files, by the role each has.
      notes: what was changed about the input, a line each.
      positional: names of the arguments that stand without a flag.
      pieces: frames of further pieces before the result (`generation.extending`).
      context: frames that each of those is shown.
      extra: of the task, for the record.
    """

    job: generator.Job
    frames: int
    inputs: Mapping[str, pathlib.Path]
    notes: Sequence[str]
    positional: Sequence[str]
    pieces: Sequence[int] = ()
    context: int = 0
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Task:
    """What a task makes of its arguments.

    Attributes:
      given: see `generation.given`.
      inputs, positional, pieces, context, extra: as of `Asked`.
      notes: what was done to the input.
    """

    given: given.Given
    inputs: Mapping[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    positional: Sequence[str] = ("clip", "prompt")
    notes: Sequence[str] = ()
    pieces: Sequence[int] = ()
    context: int = 0
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
    job = generator.Job(
        task.given,
        text=texts["prompt"].text,
        negative=texts["negative prompt"].text,
        seed=args.seed,
    )
    return Asked(
        job,
        frames=task.given.length + sum(task.pieces),
        inputs=task.inputs,
        notes=[*task.notes, *notes],
        positional=task.positional,
        pieces=task.pieces,
        context=task.context,
        extra=task.extra,
    )


def _generate(args: argparse.Namespace, model: generator.Generator) -> Task:
    fps = _fps(args, model)
    frames = args.frames or DEFAULT_FRAMES
    if args.seconds is not None:
        frames = model.grid.nearest_frames(args.seconds, fps)
    empty = tasks.generate(model.grid, size=args.size, frames=frames, fps=fps)
    return Task(empty, positional=("prompt",))


def _image(args: argparse.Namespace, model: generator.Generator) -> Task:
    return Task(tasks.image(model.grid, size=args.size), positional=("prompt",))


def _animate(args: argparse.Namespace, model: generator.Generator) -> Task:
    fps = _fps(args, model)
    frames = args.frames or DEFAULT_FRAMES
    if args.seconds is not None:
        frames = model.grid.nearest_frames(args.seconds, fps)
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
    clip, notes = _clip(args, model, args.clip)
    context, new = _contexts(model)[args.direction]
    context = _context(args, context, clip)
    how: dict[str, Any] = {"direction": args.direction}
    extra = how | {"context": context}
    if args.direction == "forward":
        new = _new(args, clip.fps, new, model.grid)
        more = tasks.extend(
            model.grid, clip.frames, frames=new, context=context, fps=clip.fps, **how
        )
        return Task(more, {"clip": args.clip}, notes=notes, extra=extra)
    frames = args.frames or new
    if args.seconds is not None:
        wanted = _seconds(args) * clip.fps
        frames = extending.nearest(model.grid, wanted, most=new)
    first, *pieces = extending.pieces(model.grid, frames, most=new)
    more = tasks.extend(
        model.grid, clip.frames, frames=first, context=context, fps=clip.fps, **how
    )
    return Task(
        more,
        {"clip": args.clip},
        notes=notes,
        pieces=pieces,
        context=context,
        extra=extra,
    )


def _loop(args: argparse.Namespace, model: generator.Generator) -> Task:
    clip, notes = _clip(args, model, args.clip)
    context, new = _contexts(model)["between"]
    context = _context(args, context, clip)
    looped = tasks.loop(
        model.grid,
        clip.frames,
        frames=_new(args, clip.fps, new, model.grid),
        context=context,
        fps=clip.fps,
    )
    extra = {"context": context}
    return Task(looped, {"clip": args.clip}, notes=notes, extra=extra)


def _connect(args: argparse.Namespace, model: generator.Generator) -> Task:
    first, notes = _clip(args, model, args.clip)
    second, more = _clip(args, model, args.second)
    if first.fps != second.fps:
        raise ValueError(
            f"{args.clip} has {first.fps:g} frames per second, {args.second} "
            f"{second.fps:g}: give both one rate"
        )
    context, new = _contexts(model)["between"]
    shorter = min(first, second, key=lambda clip: len(clip.frames))
    context = _context(args, context, shorter)
    joined = tasks.connect(
        model.grid,
        first.frames,
        second.frames,
        frames=_new(args, first.fps, new, model.grid),
        context=context,
        fps=first.fps,
    )
    files = {"first": args.clip, "second": args.second}
    names = ("clip", "second", "prompt")
    return Task(joined, files, names, [*notes, *more], extra={"context": context})


def _edit(args: argparse.Namespace, model: generator.Generator) -> Task:
    clip, notes = _clip(args, model, args.clip)
    edited = tasks.edit(model.grid, clip.frames, strength=args.strength, fps=clip.fps)
    extra = {"strength": args.strength}
    return Task(edited, {"clip": args.clip}, notes=notes, extra=extra)


def _inpaint(args: argparse.Namespace, model: generator.Generator) -> Task:
    whole = inputs.read_clip(args.clip)
    frames, height, width = whole.frames.shape[:3]
    mask = inputs.read_mask(args.mask, frames=frames, height=height, width=width)
    clip, notes = _fitted(args, model, whole, args.clip)
    if clip.frames.shape[1:3] != mask.shape[1:]:
        mask = inputs.resize_mask(mask, (clip.frames.shape[2], clip.frames.shape[1]))
    painted = tasks.inpaint(model.grid, clip.frames, mask, fps=clip.fps)
    files = {"clip": args.clip, "mask": args.mask}
    return Task(painted, files, notes=notes)


def _outpaint(args: argparse.Namespace, model: generator.Generator) -> Task:
    clip = inputs.read_clip(args.clip)
    larger = tasks.outpaint(model.grid, clip.frames, size=args.size, fps=clip.fps)
    return Task(larger, {"clip": args.clip})


def _upscale(args: argparse.Namespace, model: generator.Generator) -> Task:
    clip = inputs.read_clip(args.clip)
    larger = tasks.upscale(
        model.grid,
        clip.frames,
        size=args.size,
        strength=args.strength,
        fps=clip.fps,
    )
    extra = {"strength": args.strength}
    return Task(larger, {"clip": args.clip}, extra=extra)


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


def _clip(
    args: argparse.Namespace, model: generator.Generator, path: pathlib.Path
) -> tuple[media.Video, list[str]]:
    return _fitted(args, model, inputs.read_clip(path), path)


def _fitted(
    args: argparse.Namespace,
    model: generator.Generator,
    clip: media.Video,
    path: pathlib.Path,
) -> tuple[media.Video, list[str]]:
    clip, note = inputs.fit_clip(clip, model.grid, rule=args.fit, name=str(path))
    if len(clip.frames) == 1:
        clip = media.Video(clip.frames, model.model.config.reference_fps)
    return clip, _told([note])


def _told(notes: Sequence[str | None]) -> list[str]:
    return [note for note in notes if note is not None]


def _fps(args: argparse.Namespace, model: generator.Generator) -> float:
    """The frame rate that is asked for.

    Raises:
      ValueError: it, or the seconds, are no finite number above 0.
    """
    fps = model.model.config.reference_fps if args.fps is None else args.fps
    for name, value in (("fps", fps), ("seconds", args.seconds)):
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"--{name} {value}: use a finite number above 0")
    return fps


def _seconds(args: argparse.Namespace) -> float:
    if not 0 < args.seconds < float("inf"):
        raise ValueError(f"--seconds {args.seconds}: use a finite number above 0")
    return args.seconds


def _new(args: argparse.Namespace, fps: float, default: int, grid: canvas.Grid) -> int:
    """How many frames are to be made between or after what is given."""
    if args.seconds is None:
        return args.frames or default
    wanted = _seconds(args) * fps
    return max(1, round(wanted / grid.group)) * grid.group


def _contexts(model: generator.Generator) -> dict[str, tuple[int, int]]:
    return tasks.contexts(model.grid, model.model.config.window)


def _context(args: argparse.Namespace, default: int, clip: media.Video) -> int:
    """Frames of a clip that are shown: as asked, else what suits and is there."""
    return args.context or min(default, len(clip.frames))
