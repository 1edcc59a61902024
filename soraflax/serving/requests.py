"""What a visitor asks for, and the job that a model makes of it.

`TASKS` says of each task what it is given; a page shows just that, and `make_job`
refuses what is missing. Files are read and checked here, before a job may wait.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from soraflax import media
from soraflax.diffusion import samplers
from soraflax.generation import generator, jobs, paths, sounds, tasks
from soraflax.pretrained import models, sampling_defaults
from soraflax.serving import uploads

# Of a model that does not say how it is sampled.
PLAIN = sampling_defaults.SamplingDefaults("euler", steps=25, guidance=2.0)


@dataclasses.dataclass(frozen=True)
class Task:
    """What a way of prompting is given.

    Attributes:
      label: its name on a page.
      summary: what it does, in a line.
      files: roles of what is uploaded: 'clip', 'second', 'image', 'last', 'mask'.
      optional: those of `files` that may be missing.
      prompt: whether it is nothing without one.
      size: whether the size of the result is asked for; else it is that of the clip.
      seconds: what the seconds are of: the 'video', what is 'new', or '' for none.
      strength: default strength; None where there is none.
      direction: whether it has a direction of time.
      path: whether bodies may follow drawn paths.
    """

    label: str
    summary: str
    files: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    prompt: bool = False
    size: bool = False
    seconds: str = ""
    strength: float | None = None
    direction: bool = False
    path: bool = False


TASKS: Mapping[str, Task] = {
    "generate": Task(
        "Video", "A video from a text.", prompt=True, size=True, seconds="video"
    ),
    "image": Task("Image", "An image from a text.", prompt=True, size=True),
    "animate": Task(
        "Animate",
        "An image that begins to move, perhaps along paths or towards a last frame.",
        files=("image", "last"),
        optional=("last",),
        seconds="video",
        path=True,
    ),
    "extend": Task(
        "Extend",
        "What comes after a clip, or what came before it.",
        files=("clip",),
        seconds="new",
        strength=0.8,
        direction=True,
    ),
    "loop": Task(
        "Loop",
        "A clip that repeats without a seam.",
        files=("clip",),
        seconds="new",
        strength=0.5,
    ),
    "connect": Task(
        "Connect",
        "Two clips and a transition between them.",
        files=("clip", "second"),
        seconds="new",
        strength=tasks.TRANSITION_STRENGTH,
    ),
    "edit": Task(
        "Edit",
        "A clip after another text.",
        files=("clip",),
        prompt=True,
        strength=0.7,
    ),
    "inpaint": Task(
        "Inpaint",
        "A clip of which what you paint over is made anew.",
        files=("clip", "mask"),
    ),
    "outpaint": Task(
        "Outpaint",
        "A clip in a larger frame, whose rest is made.",
        files=("clip",),
        size=True,
    ),
    "upscale": Task(
        "Upscale", "A clip enlarged.", files=("clip",), size=True, strength=0.5
    ),
}
NAMES = {
    "clip": "clip",
    "second": "second clip",
    "image": "image",
    "last": "last frame",
    "mask": "mask",
}
_PATHS = 16  # of one request
# Roles of inputs in records, as `Model` names them.
_ROLES = {"last": "last_frame"}
_ROLES_OF_TWO = {"clip": "first", "second": "second"}


@dataclasses.dataclass(frozen=True)
class Request:
    """What a visitor asks for; what its task does not take is not looked at.

    Attributes:
      task: a name in `TASKS`.
      prompt, negative, seed: as in `jobs.Text`.
      size: width and height in pixels of what is made; clips are brought to about as
        many, unless `as_is`.
      seconds: of the video, or of what is new; None for what suits the model.
      guidance, steps, sampler: as in `SamplingConfig`; the name of a sampler. None for
        what is `usual`.
      strength: of the noise that known pixels are given; None for the task's own.
      direction: of time, of an extension.
      path: of bodies that move, `x0,y0:x1,y1`, with spaces between several.
      as_is: whether clips keep their size and all their frames.
      files: uploaded, by role.
      mask: a PNG as a data URL (`uploads.read_mask`).
    """

    task: str
    prompt: str = ""
    negative: str = ""
    seed: int = 0
    size: tuple[int, int] = generator.DEFAULT_SIZE
    seconds: float | None = None
    guidance: float | None = None
    steps: int | None = None
    sampler: str | None = None
    strength: float | None = None
    direction: tasks.Direction = "forward"
    path: str = ""
    as_is: bool = False
    files: Mapping[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    mask: str = ""

    @property
    def text(self) -> jobs.Text:
        """Its texts and its seed."""
        return jobs.Text(self.prompt.strip(), self.negative.strip(), self.seed)

    @property
    def length(self) -> jobs.Length:
        """Of what is made."""
        return jobs.Length(seconds=self.seconds)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A request that can be made.

    Attributes:
      job: what the model makes.
      config: how it samples.
      inputs: what it is made from, by role, for its record.
      clips: whose frames are in it, and their sound where it can be kept.
    """

    job: generator.Job
    config: generator.SamplingConfig
    inputs: Mapping[str, Any]
    clips: Sequence[sounds.Clip] = ()


def parse_size(text: str) -> tuple[int, int]:
    """`WIDTHxHEIGHT` in pixels; what is typed after it is not looked at.

    Raises:
      ValueError: no such size.
    """
    match = re.match(r"\s*(\d{1,5})\s*[x×X*]\s*(\d{1,5})\b", text)
    if match is None:
        raise ValueError(f"size {text!r}: use WIDTHxHEIGHT, for example 96x64")
    return int(match[1]), int(match[2])


def prepare(
    request: Request, model: generator.Generator, *, limits: uploads.Limits
) -> Prepared:
    """Read the files of a request, and check everything before any work.

    Raises:
      ValueError: one line that says what is wrong or missing, and the nearest that can
        be made.
    """
    _check(request, limits)
    config = sampling(request, model.model.config, limits=limits)
    given = _Given(request, model, limits=limits)
    make = _from_clip if "clip" in TASKS[request.task].files else _from_text
    job = make(request, model, given=given)
    limits.check_size(job.conditioning.size)
    model.check(job, config)
    job = dataclasses.replace(job, notes=(*given.notes, *job.notes))
    return Prepared(job, config, given.inputs, given.clips)


def usual(config: models.VideoModelConfig) -> sampling_defaults.SamplingDefaults:
    """How a model is sampled where a request does not say."""
    return config.sampling or PLAIN


def sampling(
    request: Request, config: models.VideoModelConfig, *, limits: uploads.Limits
) -> generator.SamplingConfig:
    """How a request is sampled.

    Raises:
      ValueError: a number out of range, or an unknown sampler.
    """
    own = usual(config)
    steps = min(own.steps, limits.steps) if request.steps is None else request.steps
    sampler = own.sampler if request.sampler is None else request.sampler
    if steps > limits.steps:
        raise ValueError(f"{steps} steps: use {limits.steps} or less here")
    if sampler not in samplers.SAMPLERS:
        names = ", ".join(samplers.SAMPLERS)
        raise ValueError(f"sampler {sampler!r}: use one of {names}")
    return generator.SamplingConfig.of_model(
        config,
        steps=steps,
        guidance=own.guidance if request.guidance is None else request.guidance,
        sampler=samplers.SAMPLERS[sampler],
    )


def _check(request: Request, limits: uploads.Limits) -> None:
    """Refuse a request that lacks something, or asks for more than there is.

    Raises:
      ValueError: with what is missing, or the largest value.
    """
    if request.task not in TASKS:
        raise ValueError(f"task {request.task!r}: use one of {', '.join(TASKS)}")
    task = TASKS[request.task]
    for role in task.files:
        given = request.mask if role == "mask" else request.files.get(role)
        if not given and role not in task.optional:
            if role == "mask":
                raise ValueError("mask: paint over what is to be made anew")
            raise ValueError(f"{NAMES[role]}: drop a file, or choose one")
    if task.prompt and not request.prompt.strip():
        raise ValueError("prompt: say what the video shows")
    if task.size:
        limits.check_size(request.size)
    if task.seconds and request.seconds is not None:
        limits.check_seconds(request.seconds)
    if task.path and (count := len(request.path.split())) > _PATHS:
        raise ValueError(f"{count} paths: use {_PATHS} or fewer here")


class _Given:
    """Reads what a request is given, and keeps notes and the inputs of its record."""

    def __init__(
        self, request: Request, model: generator.Generator, *, limits: uploads.Limits
    ) -> None:
        self._request, self._limits, self._grid = request, limits, model.grid
        self._fps = model.model.config.reference_fps
        self.notes: list[str] = []
        self.inputs: dict[str, Any] = {}
        self.clips: list[sounds.Clip] = []

    def _target(self) -> uploads.Target:
        if self._request.as_is:
            return uploads.Target()
        width, height = self._request.size
        # What is enlarged keeps its pixels until then.
        enlarged = self._request.task == "upscale"
        pixels = None if enlarged else width * height
        return uploads.Target(pixels, self._fps, self._grid)

    def clip(self, role: str = "clip") -> media.Video:
        """The clip of a role."""
        path = self._request.files[role]
        clip, notes = uploads.read_clip(
            path,
            self._limits,
            target=self._target(),
            fps=self._fps,
            name=NAMES[role],
        )
        self.notes += notes
        roles = _ROLES_OF_TWO if self._request.task == "connect" else {}
        self.inputs[roles.get(role, role)] = path
        self.clips.append(sounds.Clip(path, len(clip), clip.fps, NAMES[role]))
        return clip

    def image(self, role: str = "image") -> Any:
        """The image of a role, `[H, W, 3]`; None where there is none."""
        path = self._request.files.get(role)
        if path is None:
            return None
        image, notes = uploads.read_image(
            path, self._limits, target=self._target(), name=NAMES[role]
        )
        self.notes += notes
        self.inputs[_ROLES.get(role, role)] = path
        return image

    def second(self, first: media.Video) -> media.Video:
        """The second clip, shown at the rate of the first unless it is to stay."""
        clip = self.clip("second")
        if self._request.as_is or clip.fps == first.fps:
            return clip
        self.notes.append(
            f"{NAMES['second']}: {clip.fps:.4g} frames a second are shown at "
            f"{first.fps:.4g}, the rate of the first"
        )
        return media.Video(clip.frames, first.fps)

    def mask(self, clip: media.Video) -> Any:
        """The mask that was painted over a clip, `[T, H, W]`."""
        mask = uploads.read_mask(self._request.mask, clip.size, frames=len(clip))
        self.inputs["mask"] = mask
        return mask


def _from_text(
    request: Request, model: generator.Generator, *, given: _Given
) -> generator.Job:
    """The job of a task that works on a text, and perhaps on images."""
    if request.task == "image":
        return jobs.image(model, request.text, size=request.size)
    if request.task == "generate":
        length = request.length
        return jobs.generate(model, request.text, size=request.size, length=length)
    job = jobs.animate(
        model,
        given.image("image"),
        text=request.text,
        last=given.image("last"),
        length=request.length,
        names=(NAMES["image"], NAMES["last"]),
    )
    return paths.follow(job, request.path)


def _from_clip(
    request: Request, model: generator.Generator, *, given: _Given
) -> generator.Job:
    """The job of a task that works on a clip, brought to the grid."""
    clip, text, task = given.clip(), request.text, request.task
    strength = TASKS[task].strength if request.strength is None else request.strength
    noise: Any = {"strength": strength}
    if task == "inpaint":
        mask = given.mask(clip)
        return jobs.inpaint(model, clip, mask=mask, text=text, fit="resize")
    if task == "outpaint":
        return jobs.outpaint(model, clip, size=request.size, text=text)
    if task == "upscale":
        return jobs.upscale(model, clip, size=request.size, text=text, **noise)
    if task == "edit":
        return jobs.edit(model, clip, text=text, fit="resize", **noise)
    new: Any = noise | {"text": text, "length": request.length, "fit": "resize"}
    if task == "connect":
        return jobs.connect(model, clip, second=given.second(clip), **new)
    if task == "loop":
        return jobs.loop(model, clip, **new)
    return jobs.extend(model, clip, direction=request.direction, **new)
