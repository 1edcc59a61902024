"""`soraflax generate` and every other command that makes videos.

A command's module turns its arguments into a job (`generation.jobs`). Here the job is
sampled, once for each seed, and written, with a bar, previews, and a record of how.
"""

import argparse
import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm

from soraflax.autoencoding import previews
from soraflax.cli import devices, outputs
from soraflax.diffusion import samplers
from soraflax.generation import caching, generator, provenance

Model = generator.Generator
# Videos, and bytes of them, that are held in memory together.
MOST_AT_ONCE, MOST_BYTES = 64, 2**30


def run(
    args: argparse.Namespace,
    make_job: Callable[[argparse.Namespace, Model], generator.Job],
    *,
    files: Mapping[str, pathlib.Path | None] | None = None,
    positional: Sequence[str],
) -> None:
    """Check everything, sample, write every video, and print where each is.

    Args:
      args: of a command with the options of `options.add_sampling`.
      make_job: reads what the arguments name; the job of the first seed.
      files: what the result is made from, by the role of each.
      positional: names of the arguments that are given without a flag, in order.
    """
    inputs = {role: path for role, path in (files or {}).items() if path is not None}
    with (
        devices.split_over(args.devices),
        devices.memory_errors("--tile 512x512, --devices N or a smaller size"),
    ):
        model = Model.load(args.checkpoint)
        config = sampling(args, model)
        first = make_job(args, model)
        jobs = [
            dataclasses.replace(first, seed=args.seed + number)
            for number in range(args.num_videos)
        ]
        paths = outputs.result_paths(args.out, args.num_videos)
        for path, job in zip(paths, jobs, strict=True):
            outputs.check(
                path,
                frames=job.conditioning.length,
                fps=job.conditioning.fps,
                size=job.conditioning.size,
                inputs=inputs.values(),
            )
            model.check(job, config)
        outputs.tell(args.command, first.notes)
        commands = [
            outputs.repeating(args, positional=positional, seed=job.seed)
            for job in jobs
        ]
        records = [
            provenance.record(
                provenance.of_job(job, config, inputs=inputs, command=command),
                model.model,
            )
            for job, command in zip(jobs, commands, strict=True)
        ]
        written: list[pathlib.Path] = []

        def write(number: int, frames: Iterable[np.ndarray]) -> None:
            fps = jobs[number].conditioning.fps
            outputs.write(paths[number], frames, fps=fps, record=records[number])
            written.append(paths[number])
            print(paths[number], flush=True)

        previewed = paths if args.preview else []
        try:
            _make(model, jobs, config=config, previewed=previewed, write=write)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(_left(written, str(stop))) from None


def _left(written: Sequence[pathlib.Path], preview: str) -> str:
    """What Ctrl-C leaves on disk."""
    whole = [f"{path} is whole" for path in written[-1:]]
    if len(written) > 1:
        whole = [f"{written[0]} to {written[-1]} are whole"]
    return ", ".join(whole + [preview] * bool(preview)) or "nothing was written"


def sampling(args: argparse.Namespace, model: Model) -> generator.SamplingConfig:
    """What the flags say of sampling.

    Raises:
      ValueError: values that do not go together.
    """
    cache = None
    if args.cache is not None:
        cache = caching.StepCacheConfig(threshold=args.cache)
    if args.zero_init >= args.steps:
        raise ValueError(
            f"--zero-init {args.zero_init} of {args.steps} steps leaves noise: use "
            f"{args.steps - 1} or less"
        )
    how = model.windows
    if args.tile is not None:
        how = dataclasses.replace(how, tile=(args.tile[1], args.tile[0]))
    return generator.SamplingConfig(
        steps=args.steps,
        guidance=args.guidance,
        sampler=samplers.SAMPLERS[args.sampler],
        interval=args.guidance_interval,
        rescale=args.guidance_rescale,
        zero_init=args.zero_init,
        cache=cache,
        windows=how,
    )


def _make(
    model: Model,
    jobs: Sequence[generator.Job],
    *,
    config: generator.SamplingConfig,
    previewed: Sequence[pathlib.Path],
    write: Callable[[int, Iterable[np.ndarray]], None],
) -> None:
    """Short videos are sampled together; long ones one by one, as they are written."""
    rate = jobs[0].conditioning.fps / model.grid.temporal_ratio
    at_once = _at_once(model, jobs[0], config=config)
    for start in range(0, len(jobs), at_once):
        numbers = range(start, min(start + at_once, len(jobs)))
        beside = [previewed[number] for number in numbers] if previewed else []
        with Watch(model, beside, fps=rate) as watch:
            if model.window_count(jobs[start], config) > 1:
                write(start, model.frames(jobs[start], config, **watch.callbacks))
                continue
            videos = model([jobs[i] for i in numbers], config, **watch.callbacks)
            for number, video in zip(numbers, videos, strict=True):
                write(number, video)


def _at_once(model: Model, job: generator.Job, *, config: Any) -> int:
    """How many videos are sampled together: one that is long or in tiles, more of
    others.
    """
    tiled = config.windows is not None and config.windows.tile is not None
    pieces = job.conditioning.prepend
    if tiled or pieces or model.window_count(job, config) > 1:
        return 1
    return max(
        1, min(MOST_AT_ONCE, MOST_BYTES // (3 * math.prod(job.conditioning.shape)))
    )


class Watch:
    """A bar over the sampler's steps, and previews of what becomes of them."""

    def __init__(
        self,
        model: Model,
        paths: Sequence[pathlib.Path],
        *,
        fps: float,
    ) -> None:
        """Nothing is shown yet.

        Args:
          model: that samples.
          paths: of results that have previews.
          fps: of previews.
        """
        # Where no one looks on, standard error is for what went wrong.
        self._bar = tqdm.tqdm(desc="sampling", unit="step", leave=False, disable=None)
        show = previews.Projection.fit(model.model.autoencoder) if paths else None
        self._writers = [outputs.PreviewWriter(p, show, fps=fps) for p in paths if show]

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._bar.close()
        for writer in self._writers:
            writer.__exit__(kind, error, trace)
        left = [str(w.path) for w in self._writers if w.path is not None]
        if kind is KeyboardInterrupt and left:
            are = "previews are" if len(left) > 1 else "preview is"
            raise KeyboardInterrupt(f"the last {are} {', '.join(left)}") from None

    def _step(self, done: int, total: int) -> None:
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    @property
    def callbacks(self) -> dict[str, Any]:
        """`progress` and `callback` of a generator."""
        return {
            "progress": self._step,
            "callback": self._show if self._writers else None,
        }

    def _show(self, step: generator.Step) -> None:
        if not any(writer.due for writer in self._writers):
            return
        for writer, latent in zip(self._writers, step.latents(), strict=True):
            writer(latent)
