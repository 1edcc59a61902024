"""`soraflax generate` and every other command that makes videos.

Each is a task (`generation.tasks`): `commands.requests` reads what it is given. Here it
is sampled and written, with a bar, previews, and a record of how it was made.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tqdm

from soraflax.commands import devices, outputs, requests
from soraflax.diffusion import sampler
from soraflax.generation import caching, extending, generator, previews

Model = generator.Generator


def run(args: argparse.Namespace) -> None:
    """Check everything, sample, write every video, and print where each is."""
    with (
        devices.split_over(args.devices),
        devices.memory_errors("--tile 512x512, --devices N or a smaller size"),
    ):
        model = Model.load(args.checkpoint)
        config = sampling(args, model)
        asked = requests.read(args, model)
        paths = outputs.places(args.out, args.num_videos)
        jobs = [
            dataclasses.replace(asked.job, seed=args.seed + number)
            for number in range(args.num_videos)
        ]
        for path, job in zip(paths, jobs, strict=True):
            outputs.check(
                path,
                frames=asked.frames,
                fps=job.given.fps,
                size=job.given.size,
                inputs=asked.inputs.values(),
            )
            model.check_job(job, config)
        outputs.tell(args.command, asked.notes)
        records = [
            outputs.record(_made(args, asked, job, config), model.model) for job in jobs
        ]

        def write(number: int, frames: Iterable[np.ndarray]) -> None:
            fps = jobs[number].given.fps
            outputs.write(paths[number], frames, fps, record=records[number])
            print(paths[number])

        _make(args, model, asked, jobs, config=config, write=write)


def sampling(args: argparse.Namespace, model: Model) -> generator.SamplingConfig:
    """What the flags say of sampling.

    Raises:
      ValueError: values that do not go together.
    """
    cache = None
    if args.cache is not None:
        cache = caching.CacheConfig()
        if args.cache >= 0:
            cache = dataclasses.replace(cache, threshold=args.cache)
    how = model.windows
    if args.tile is not None:
        how = dataclasses.replace(how, tile=(args.tile[1], args.tile[0]))
    return generator.SamplingConfig(
        steps=args.steps,
        guidance=args.guidance,
        sampler=sampler.SAMPLERS[args.sampler],
        interval=args.guidance_interval,
        rescale=args.guidance_rescale,
        zero_init=args.zero_init,
        cache=cache,
        windows=how,
    )


def _made(
    args: argparse.Namespace,
    asked: requests.Asked,
    job: generator.Job,
    config: generator.SamplingConfig,
) -> outputs.Made:
    return outputs.Made(
        task=args.command,
        prompt=job.text,
        negative=job.negative,
        seed=job.seed,
        size=job.given.size,
        frames=asked.frames,
        fps=job.given.fps,
        sampling=config,
        inputs=asked.inputs,
        command=outputs.repeating(args, positional=asked.positional, seed=job.seed),
        notes=asked.notes,
        extra=asked.extra,
    )


def _make(
    args: argparse.Namespace,
    model: Model,
    asked: requests.Asked,
    jobs: Sequence[generator.Job],
    *,
    config: generator.SamplingConfig,
    write: Callable[[int, Iterable[np.ndarray]], None],
) -> None:
    """Short videos are sampled together; long ones one by one, as they are written."""
    paths = outputs.places(args.out, len(jobs)) if args.preview else []
    rate = jobs[0].given.fps / model.grid.temporal_ratio
    if len(jobs) > 1 and not asked.pieces and model.window_count(jobs[0], config) == 1:
        with Watch(model, paths, fps=rate) as watch:
            for number, video in enumerate(
                model.complete(jobs, config, **watch.callbacks)
            ):
                write(number, video)
        return
    for number, job in enumerate(jobs):
        with Watch(model, paths[number : number + 1], fps=rate) as watch:
            if not asked.pieces:
                write(number, model.frames(job, config, **watch.callbacks))
                continue
            (video,) = model.complete([job], config, **watch.callbacks)
            longer = extending.before(
                model,
                job,
                video,
                sizes=asked.pieces,
                context=asked.context,
                config=config,
                **watch.callbacks,
            )
            write(number, longer)


class Watch:
    """A bar over the sampler's steps, and previews of what becomes of them."""

    def __init__(self, model: Model, paths: Sequence[pathlib.Path], *, fps: float):
        self._bar = tqdm.tqdm(desc="sampling", unit="step")
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
            raise KeyboardInterrupt(f"the last preview is {left[0]}") from None

    def _step(self, done: int, total: int) -> None:
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    @property
    def callbacks(self) -> dict[str, Any]:
        """`progress` and `preview` of a generator."""
        return {
            "progress": self._step,
            "preview": self._show if self._writers else None,
        }

    def _show(self, latents: Callable[[], list[np.ndarray]]) -> None:
        if not any(writer.due for writer in self._writers):
            return
        for writer, latent in zip(self._writers, latents(), strict=True):
            writer(latent)
