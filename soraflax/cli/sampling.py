"""The work of every command that makes videos: read, check, sample, write, say how.

A command's module reads its files into a job (`generation.jobs`). Here the job is
checked, sampled for every seed asked for, under a bar and with previews, and written
with a record of how it was made.
"""

import argparse
import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from soraflax import media
from soraflax.autoencoding import previews
from soraflax.cli import devices, options, outputs, progress, sound, wording
from soraflax.diffusion import guidance, samplers
from soraflax.generation import adapters, caching, familiarity, generator, provenance
from soraflax.nn import convolution
from soraflax.pretrained import shipped

Generator = generator.Generator
Job = generator.Job
# Videos, and bytes of them, that are held in memory together.
MAX_TOGETHER, MAX_TOGETHER_BYTES = 64, 2**30


def run(
    args: argparse.Namespace,
    make_job: Callable[[argparse.Namespace, Generator], Job],
    *,
    files: Mapping[str, pathlib.Path | None] | None = None,
    positional: Sequence[str],
) -> None:
    """Check everything, sample, write every video, and print where each is.

    Args:
      args: as parsed, with those of `options.add_sampling`.
      make_job: reads the files of a command into a job, of the first seed.
      files: what results are made from, by the role of each; None is left out.
      positional: names of the arguments that stand without a flag, in order.
    """
    inputs = {role: path for role, path in (files or {}).items() if path is not None}
    signer = outputs.signer(args)
    with (
        progress.Progress(f"{outputs.GENERATOR} {args.command}") as line,
        devices.kept_programs(args) as cache,
        devices.split_over(
            args.devices or devices.suited(args.checkpoint, getattr(args, "size", None))
        ),
        devices.memory_errors("--tile 512x512, --devices N or a smaller size"),
    ):
        line.begin("reading the model")
        model = Generator.load(shipped.or_given(args.checkpoint), cache=cache)
        model = adapters.adapted(model, args.lora)
        model.announce = line.begin
        given: Any = {"inputs": inputs, "positional": positional}
        work = prepare(args, make_job, model=model, line=line, **given)
        with line.hidden():
            outputs.print_notes(args.command, work.jobs[0].notes)
        written: list[pathlib.Path] = []

        def write(number: int, frames: Iterable[np.ndarray]) -> None:
            path, fps = work.paths[number], work.jobs[number].conditioning.fps
            made: Any = {"record": work.records[number], "sounds": work.sounds}
            made["signer"] = signer
            passed = work.words.checked(frames, fps=fps)
            outputs.write(path, passed, fps=fps, **made)
            written.append(path)
            with line.hidden():
                print(path, flush=True)

        try:
            shown: Any = {"line": line, "previewed": work.paths * bool(args.preview)}
            sample(model, work.jobs, config=work.config, write=write, **shown)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(_left_behind(written, str(stop))) from None


@dataclasses.dataclass(frozen=True)
class Work:
    """What a command makes, checked before any of it is sampled.

    Attributes:
      words: prompts and filters.
      config: how it is sampled.
      jobs: one for every seed, alike but for it.
      paths: of the results.
      records: how each is made.
      sounds: heard beside the frames of each.
    """

    words: wording.Wording
    config: generator.SamplingConfig
    jobs: list[Job]
    paths: list[pathlib.Path]
    records: list[dict[str, Any]]
    sounds: Sequence[media.PlacedSound]


def prepare(
    args: argparse.Namespace,
    make_job: Callable[[argparse.Namespace, Generator], Job],
    *,
    model: Generator,
    line: progress.Progress,
    inputs: Mapping[str, pathlib.Path],
    positional: Sequence[str],
) -> Work:
    """The work of a command; arguments as of `run`.

    Args:
      model: that samples.
      line: hidden while the prompt is worked on.
      inputs: files by their role.

    Raises:
      ValueError, OSError: what cannot be made, or be written.
    """
    config = sampling_config(args, model)
    with line.hidden():
        words = wording.prepare(args, model, inputs=inputs)
    first = words.recorded(make_job(words.args, model))
    first = familiarity.annotated(first, model.model.config, sampling_config=config)
    if args.tile is None:
        _check_split(model, first)
    kept = sound.of_job(args, first, inputs=inputs)
    first = dataclasses.replace(first, notes=(*first.notes, *kept.notes))
    jobs = [
        dataclasses.replace(first, seed=args.seed + number)
        for number in range(args.num_videos)
    ]
    paths = outputs.result_paths(args.out, args.num_videos)
    for path, job in zip(paths, jobs, strict=True):
        _check(args, job, path=path, inputs=inputs)
        model.check(job, config)
    records = []
    for job in jobs:
        again = words.repeated(args, seed=job.seed)
        command = outputs.repeat_command(again, positional=positional, seed=job.seed)
        source = provenance.of_job(job, config, inputs=inputs, command=command)
        records.append(provenance.record(source, model.model))
    return Work(words, config, jobs, paths, records, kept.sounds)


def _check_split(model: Generator, job: Job) -> None:
    """Refuse what could not be decoded on these devices, before it is sampled.

    Raises:
      ValueError: the mesh does not divide its longer side.
    """
    ratio = model.model.autoencoder.config.spatial_ratio
    width, height = (side // ratio for side in job.conditioning.size)
    try:
        convolution.check_split(height, width)
    except ValueError as error:
        raise ValueError(f"{error}, or --devices N that does, or 1") from None


def _check(
    args: argparse.Namespace,
    job: Job,
    *,
    path: pathlib.Path,
    inputs: Mapping[str, pathlib.Path],
) -> None:
    """Refuse the result of a job that could not be written."""
    outputs.check_result(
        path,
        frames=job.conditioning.length,
        fps=job.conditioning.fps,
        size=job.conditioning.size,
        inputs=inputs.values(),
        previewed=args.preview,
    )


def _left_behind(written: Sequence[pathlib.Path], preview: str) -> str:
    """What Ctrl-C leaves on disk."""
    results = [f"{path} is whole" for path in written[-1:]]
    if len(written) > 1:
        results = [f"{written[0]} to {written[-1]} are whole"]
    return ", ".join(results + [preview] * bool(preview)) or "nothing was written"


def sampling_config(
    args: argparse.Namespace, model: Generator
) -> generator.SamplingConfig:
    """The sampling that the options of `options.add_sampling` ask for.

    Raises:
      ValueError: values that do not go together.
    """
    if args.low_guidance is not None and model.model.config.boundary is None:
        raise ValueError(
            "--low-guidance is of models with two experts, and this one has one "
            "transformer: leave it out"
        )
    cache = None
    if args.cache is not None:
        cache = caching.StepCacheConfig(threshold=args.cache)
    windows = model.windows
    if args.tile is not None:
        windows = dataclasses.replace(windows, tile=(args.tile[1], args.tile[0]))
    given = {
        "steps": args.steps,
        "guidance": args.guidance,
        "low_guidance": args.low_guidance,
        "sampler": samplers.SAMPLERS[args.sampler] if args.sampler else None,
    }
    if model.model.config.sampling is None:
        plain = {"steps": options.STEPS, "guidance": options.GUIDANCE}
        given = plain | {k: v for k, v in given.items() if v is not None}
    config = generator.SamplingConfig.of_model(
        model.model.config,
        **given,
        shift=args.shift,
        interval=args.guidance_interval,
        rescale=args.guidance_rescale,
        zero_init=args.zero_init,
        cache=cache,
        windows=windows,
    )
    config = dataclasses.replace(
        config, skip=_skip_guidance(args, model, own=config.skip)
    )
    if config.zero_init >= config.steps:
        raise ValueError(
            f"--zero-init {config.zero_init} of {config.steps} steps leaves noise: use "
            f"{config.steps - 1} or less"
        )
    return config


def _skip_guidance(
    args: argparse.Namespace, model: Generator, *, own: guidance.SkipGuidance | None
) -> guidance.SkipGuidance | None:
    """The skip guidance that is asked for, or the model's `own`.

    Raises:
      ValueError: no blocks, or such as the model does not have.
    """
    if args.skip_guidance == 0:
        return None
    blocks = args.skip_blocks or (own.blocks if own else ())
    if not blocks:
        if args.skip_guidance is None:
            return None
        raise ValueError("--skip-guidance: name blocks of the middle as --skip-blocks")
    scale = args.skip_guidance or (own.scale if own else 1.0)
    skip = guidance.SkipGuidance(blocks, scale)
    skip.kept(model.model.config.transformer.depth)
    return skip


def sample(
    model: Generator,
    jobs: Sequence[Job],
    *,
    config: generator.SamplingConfig,
    line: progress.Progress,
    previewed: Sequence[pathlib.Path],
    write: Callable[[int, Iterable[np.ndarray]], None],
) -> None:
    """Short videos are sampled together; long ones one by one, as they are written.

    Args:
      model: that samples.
      jobs: of one task, alike but for their seeds.
      config: how to sample.
      line: says how far it is.
      previewed: paths of the results where they have previews; none otherwise.
      write: takes the number of a job and the frames of its video.
    """
    rate = jobs[0].conditioning.fps / model.grid.temporal_ratio
    together = jobs_together(model, jobs[0], config=config)
    for start in range(0, len(jobs), together):
        numbers = range(start, min(start + together, len(jobs)))
        paths = [previewed[number] for number in numbers] if previewed else []
        name = f"video {start + 1} of {len(jobs)}, " if len(jobs) > together else ""
        with Watch(model, paths, fps=rate, line=line, name=name) as watch:
            batch = [jobs[number] for number in numbers]
            if model.window_count(batch[0], config) > 1:
                frames = model.frames(batch[0], config, callback=watch)
                total = batch[0].conditioning.length
                write(start, watch.counted(frames, total=total))
                continue
            for number, video in zip(
                numbers, model(batch, config, callback=watch), strict=True
            ):
                write(number, video)


def jobs_together(model: Generator, job: Job, *, config: Any) -> int:
    """How many such jobs are sampled at once: one if long or in tiles, else more."""
    tiled = config.windows is not None and config.windows.tile is not None
    if tiled or job.conditioning.prepend or model.window_count(job, config) > 1:
        return 1
    count = MAX_TOGETHER_BYTES // (3 * math.prod(job.conditioning.shape))
    return max(1, min(MAX_TOGETHER, count))


class Watch:
    """A count of the sampler's steps, and previews of what becomes of them.

    It is the `callback` of a generator, and a context manager around its work.
    """

    def __init__(
        self,
        model: Generator,
        paths: Sequence[pathlib.Path],
        *,
        fps: float,
        line: progress.Progress,
        name: str = "",
    ) -> None:
        """Nothing is made yet.

        Args:
          model: that samples.
          paths: of results that have previews.
          fps: of previews.
          line: that is shown.
          name: of what is made, where that is not all.
        """
        self._line, self._name = line, name
        self._sampled = False
        line.begin(f"{name}compiling, and step 1")
        show = previews.Projection.fit(model.model.autoencoder) if paths else None
        self._writers = [outputs.PreviewWriter(p, show, fps=fps) for p in paths if show]

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        for writer in self._writers:
            writer.__exit__(kind, error, trace)
        left = [str(w.path) for w in self._writers if w.path is not None]
        if kind is KeyboardInterrupt and left:
            are = "previews are" if len(left) > 1 else "preview is"
            raise KeyboardInterrupt(f"the last {are} {', '.join(left)}") from None

    def __call__(self, step: generator.Step) -> None:
        what = f"{self._name}step {{}} of {{}}"
        self._line.update(step.done, step.total, what=what)
        self._sampled = step.done == step.total
        if self._sampled:
            self._line.begin(f"{self._name}decoding")
        if any(writer.due for writer in self._writers):
            for writer, latent in zip(self._writers, step.latents(), strict=True):
                writer(latent)

    def counted(
        self, frames: Iterable[np.ndarray], *, total: int
    ) -> Iterator[np.ndarray]:
        """The frames of a video; those after the last step are counted as written."""
        for number, frame in enumerate(frames, 1):
            yield frame
            if self._sampled:
                what = f"{self._name}frame {{}} of {{}} written"
                self._line.update(number, total, what=what)
