"""Jobs in, videos out.

    Job        given pixels, a text, a seed       `generation.tasks`, `.conditioning`
    Canvas     a latent, and what of it is known  `generation.canvas`
    Segment    a tile of a window of a canvas     `generation.windows`
    Packed     segments in rows of one capacity   `generation.batching`
    denoised   step by step                       `generation.sampling`
    video      decoded, what was given put back   `autoencoding.decoding`

Jobs of any sizes and durations share packed rows and are denoised together.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from soraflax.autoencoding import decoding
from soraflax.generation import (
    batching,
    conditioning,
    residence,
    sampling,
    tasks,
    transitions,
)
from soraflax.generation import canvas as canvases
from soraflax.generation import progress as progress_lib
from soraflax.generation import windows as windows_lib
from soraflax.ops import grid as grids
from soraflax.ops import packing
from soraflax.pretrained import models

Callback = progress_lib.Callback
Job = conditioning.Job
Progress = progress_lib.Progress
SamplingConfig = sampling.SamplingConfig
Step = progress_lib.Step
WindowConfig = windows_lib.WindowConfig
Video = UInt8[np.ndarray, "T H W 3"]
# Of a new video, where neither the model nor its user says.
DEFAULT_SIZE, DEFAULT_FRAMES = (64, 64), 17
# From the seed of a piece to that of the piece before it.
_SEED_STEP = 7919
# Of a latent in training, whose deviation is 1; what is larger has left all pictures.
_MAX_DEVIATIONS = 1e4


class Generator:
    """A trained model, ready to fill canvases.

    Arguments that its methods share:

      config: how to sample; None for `sampling`.
      progress: called with (steps done, steps in all) after every step.
      callback: called with a `Step` after every step; where it returns True sampling
        stops, and what is returned is what was made so far.

    Where text comes as features of an outside encoder the model is taken to be large:
    its parts come to the devices in turn, the encoder, the transformer, the decoder,
    split over the mesh that is set, if there is one.

    Attributes:
      model: the transformer, its autoencoder and its vocabulary.
      grid: sizes that it can make.
      denoiser: its transformer, compiled for rows.
      announce: called with a few words where a part of the work begins that takes long.
    """

    def __init__(self, model: models.VideoModel) -> None:
        transformer, encoder = model.config.transformer, model.autoencoder.config
        self.model = model
        self.grid = grids.Grid(
            encoder.temporal_ratio,
            encoder.spatial_ratio,
            transformer.patch,
            channels=transformer.latent_channels,
        )
        self._residence = residence.Residence(model)
        self.denoiser = sampling.Denoiser(model, self._residence.transformer)
        self.announce: Callable[[str], object] = lambda words: None

    @classmethod
    def load(cls, directory: Any, *, cache: pathlib.Path | None = None) -> "Generator":
        """Read a trained video model; as `models.load_video_model`."""
        return cls(models.load_video_model(directory, cache=cache))

    @property
    def sampling(self) -> SamplingConfig:
        """As the model's authors sample: `SamplingConfig.of_model`."""
        return SamplingConfig.of_model(self.model.config)

    @property
    def windows(self) -> WindowConfig:
        """Windows that suit the model's training: `WindowConfig.of_training`."""
        return WindowConfig.of_training(self.model.config.window, self.grid.patch[0])

    def prompt(
        self,
        text: str,
        *,
        size: tuple[int, int] = (64, 64),
        frames: int = 17,
        fps: float | None = None,
        seed: int = 0,
        negative: str = "",
    ) -> Job:
        """The job of text alone, of which nothing is given.

        Args:
          text: what the video shows.
          size: width and height in pixels.
          frames: number of frames; 1 for an image.
          fps: frames per second; None for the model's reference rate.
          seed: PRNG seed of the noise, 0 to 2**32 - 1.
          negative: what the video should not show; takes the empty caption's place in
            guidance.

        Raises:
          ValueError: a size off the grid, with the nearest on it, or a bad frame rate.
        """
        rate = self.model.config.reference_fps if fps is None else fps
        empty = tasks.generate(self.grid, size=size, frames=frames, fps=rate)
        return Job(empty, text, negative, seed)

    def canvas(self, job: Job) -> canvases.Canvas:
        """The canvas of a job, its given pixels encoded.

        Raises:
          ValueError: a size off the grid, with the nearest on it.
        """
        canvas = conditioning.encode(
            job.conditioning,
            self.model.autoencoder,
            grid=self.grid,
            reference_fps=self.model.config.reference_fps,
        )
        return dataclasses.replace(
            canvas, text=job.text, negative=job.negative, seed=job.seed
        )

    def check(self, job: Job, config: SamplingConfig | None = None) -> None:
        """Refuse what cannot be made, before any work is done.

        Raises:
          ValueError: a size off the grid, a text too long, or a window or tile of more
            than `grid.MAX_TOKENS` tokens.
        """
        blank = canvases.Canvas.empty(self.grid.latent_shape(*job.conditioning.shape))
        told = {"text": job.text, "negative": job.negative}
        self.schedule([dataclasses.replace(blank, **told)], config or self.sampling)

    def window_count(self, job: Job, config: SamplingConfig | None = None) -> int:
        """How many windows the canvas of a job is made in."""
        windows = (config or self.sampling).windows or self.windows
        frames = self.grid.latent_shape(*job.conditioning.shape)[0]
        return len(windows_lib.spans(frames, windows, patch=self.grid.patch[0]))

    def __call__(
        self,
        jobs: Sequence[Job],
        config: SamplingConfig | None = None,
        *,
        progress: Progress | None = None,
        callback: Callback | None = None,
    ) -> list[Video]:
        """Videos, uint8 `[T, H, W, 3]`; what was given is in them unchanged.

        Args:
          jobs: of any sizes; they share rows.
          config, progress, callback: see `Generator`.

        Raises:
          ValueError: a size off the grid, a text too long, a seed out of range.
        """
        observer = progress_lib.Observer(progress, callback)
        return _in_pieces(self, jobs, config=config, observer=observer)

    def frames(
        self,
        job: Job,
        config: SamplingConfig | None = None,
        *,
        progress: Progress | None = None,
        callback: Callback | None = None,
    ) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """The frames of the video of one job, one by one.

        They are decoded while the next window is made. Memory follows the length of a
        video in its latents alone, unless it takes two passes or several pieces.
        """
        given, canvas = job.conditioning, self.canvas(job)
        several = bool(given.prepend or given.sides)
        if several or _needs_refinement(self, job, canvas=canvas):
            yield from self([job], config, progress=progress, callback=callback)[0]
            return
        yield from given.before if given.before is not None else ()
        stream = self.stream([canvas], config, progress=progress, callback=callback)
        latents = (latent for _, latent in stream)
        at, last = (
            0,
            given.frames if given.result_frames is None else given.result_frames,
        )
        for chunk in decoding.decode_stream(self.model.autoencoder, latents):
            yield from given.paste(chunk, start=at)[: max(0, last - at)]
            at += len(chunk)
        yield from given.after if given.after is not None else ()

    def fill(
        self,
        to_fill: Sequence[canvases.Canvas],
        config: SamplingConfig | None = None,
        *,
        progress: Progress | None = None,
        callback: Callback | None = None,
    ) -> list[np.ndarray]:
        """Filled latents `[t, h, w, z]` of canvases; errors as of `__call__`."""
        config = config or self.sampling
        scheduler = self.schedule(to_fill, config, encode=True)
        observer = progress_lib.Observer(progress, callback)
        for _ in _windows(self.denoiser, scheduler, config=config, observer=observer):
            pass
        self._residence.make_room(self.denoiser)
        return scheduler.latents

    def stream(
        self,
        to_fill: Sequence[canvases.Canvas],
        config: SamplingConfig | None = None,
        *,
        progress: Progress | None = None,
        callback: Callback | None = None,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Latents as windows are finished: number of a canvas, its next frames."""
        config = config or self.sampling
        scheduler = self.schedule(to_fill, config, encode=True)
        observer = progress_lib.Observer(progress, callback)
        for at in _windows(self.denoiser, scheduler, config=config, observer=observer):
            if at + 1 == scheduler.count:
                self._residence.make_room(self.denoiser)
            yield from scheduler.finished(at)

    def decode(self, latents: Sequence[np.ndarray], *, batch: int = 8) -> list[Video]:
        """Videos of latents of any shapes: `autoencoding.decoding.decode`."""
        return decoding.decode(self.model.autoencoder, latents, batch=batch)

    def schedule(
        self,
        to_fill: Sequence[canvases.Canvas],
        config: SamplingConfig,
        *,
        encode: bool = False,
    ) -> windows_lib.WindowScheduler:
        """Canvases in windows and tiles, checked; errors are those of `check`.

        Args:
          to_fill: canvases to be filled.
          config: how to sample.
          encode: whether texts become features where the transformer takes them; else
            they are ids, by which nothing but their length is checked.
        """
        if encode and self._residence.by_turns:
            self.announce("encoding the text")
        return windows_lib.WindowScheduler(
            to_fill,
            config.windows or self.windows,
            grid=self.grid,
            statistics=self.model.config.statistics,
            read=self._residence.reader(to_fill, encode=encode),
        )


def default_size(generator: Generator) -> tuple[int, int]:
    """Width and height of a new video where none are given."""
    defaults = generator.model.config.sampling
    return defaults.size if defaults else DEFAULT_SIZE


def default_frames(generator: Generator) -> int:
    """Frames of a new video where none are given."""
    defaults = generator.model.config.sampling
    return defaults.frames if defaults else DEFAULT_FRAMES


def _in_pieces(
    generator: Generator,
    jobs: Sequence[Job],
    *,
    config: SamplingConfig | None,
    observer: progress_lib.Observer,
) -> list[Video]:
    """Videos of jobs: all jobs, then the further pieces of those that have some.

    Before any, the sides of transitions.
    """
    config = config or generator.sampling
    pieces = 1 + max((len(job.conditioning.prepend) for job in jobs), default=0)
    sides = int(any(job.conditioning.sides for job in jobs))
    if sides:
        part = observer.part(0, pieces + 1, merge=lambda _: _blank(generator, jobs))
        jobs = _begun(generator, jobs, config=config, observer=part)
    # By the number of the job: what is still to be made, and what is made.
    left, videos = dict(enumerate(jobs)), {}
    latents: dict[int, np.ndarray] = {}
    for number in range(pieces):
        merge = functools.partial(_merged, latents, list(left))
        piece_videos, piece_latents = _complete(
            generator,
            list(left.values()),
            config=config,
            observer=observer.part(sides + number, sides + pieces, merge=merge),
        )
        videos |= zip(left, piece_videos, strict=True)
        latents = dict(enumerate(merge(piece_latents)))
        if observer.stopped:
            break
        left = {
            index: _piece_before(generator, job, video=videos[index])
            for index, job in left.items()
            if job.conditioning.prepend
        }
    return list(videos.values())


def _begun(
    generator: Generator,
    jobs: Sequence[Job],
    *,
    config: SamplingConfig,
    observer: progress_lib.Observer,
) -> list[Job]:
    """Jobs, their transitions begun from both sides (`generation.transitions`)."""
    wanted = [index for index, job in enumerate(jobs) if job.conditioning.sides]
    sides = [
        side
        for index in wanted
        for side in transitions.jobs(jobs[index], seed=_next_seed(jobs[index].seed))
    ]
    videos = iter(_complete(generator, sides, config=config, observer=observer)[0])
    begun = list(jobs)
    for index in wanted:
        onward, before = next(videos), next(videos)
        begun[index] = transitions.dissolved(jobs[index], onward=onward, before=before)
    return begun


def _blank(generator: Generator, jobs: Sequence[Job]) -> list[np.ndarray]:
    """Latents of jobs of which nothing is made yet."""
    shapes = [generator.grid.latent_shape(*job.conditioning.shape) for job in jobs]
    return [np.zeros(shape, np.float32) for shape in shapes]


def _next_seed(seed: int) -> int:
    """That of the noise of another piece of the same result."""
    return (seed + _SEED_STEP) % (canvases.MAX_SEED + 1)


def _needs_refinement(
    generator: Generator, job: Job, *, canvas: canvases.Canvas
) -> bool:
    """Whether a job, whose canvas this is, takes a second pass."""
    model = generator.model.autoencoder
    return bool(job.refine_strength) and conditioning.needs_refinement(
        job.conditioning, model, grid=generator.grid, first=canvas
    )


def _complete(
    generator: Generator,
    jobs: Sequence[Job],
    *,
    config: SamplingConfig,
    observer: progress_lib.Observer,
) -> tuple[list[Video], list[np.ndarray]]:
    """Videos and latents of jobs without their further pieces, in one pass or two.

    The second pass (`generation.conditioning`) is over the jobs that need it.
    """
    first = [generator.canvas(job) for job in jobs]
    again = [
        index
        for index, (job, canvas) in enumerate(zip(jobs, first, strict=True))
        if _needs_refinement(generator, job, canvas=canvas)
    ]

    def paste(videos: Sequence[Video], indices: Sequence[int]) -> dict[int, Video]:
        return {
            index: jobs[index].conditioning.paste(video)
            for index, video in zip(indices, videos, strict=True)
        }

    passes = 2 if again else 1
    latents = generator.fill(first, config, callback=observer.part(0, passes))
    decoded = generator.decode(latents, batch=config.decode)
    videos = paste(decoded, range(len(jobs)))
    if again and not observer.stopped:
        second = [
            conditioning.refined(
                jobs[index].conditioning,
                videos[index],
                model=generator.model.autoencoder,
                grid=generator.grid,
                first=first[index],
                strength=jobs[index].refine_strength,
            )
            for index in again
        ]
        merge = functools.partial(_merged, dict(enumerate(latents)), again)
        refined = generator.fill(
            second, config, callback=observer.part(1, passes, merge=merge)
        )
        latents = merge(refined)
        videos |= paste(generator.decode(refined, batch=config.decode), again)
    assembled = [job.conditioning.assemble(videos[i]) for i, job in enumerate(jobs)]
    return assembled, latents


def _merged(
    latents: dict[int, np.ndarray], indices: Sequence[int], latest: list[np.ndarray]
) -> list[np.ndarray]:
    """Latents of all jobs: those of `indices` as they are now."""
    return list((latents | dict(zip(indices, latest, strict=True))).values())


def _piece_before(generator: Generator, job: Job, *, video: Video) -> Job:
    """The job of the piece that comes before what is made, with noise of its own."""
    piece = tasks.piece_before(generator.grid, job.conditioning, video=video)
    return dataclasses.replace(job, conditioning=piece, seed=_next_seed(job.seed))


def _windows(
    denoiser: sampling.Denoiser,
    scheduler: windows_lib.WindowScheduler,
    *,
    config: SamplingConfig,
    observer: progress_lib.Observer,
) -> Iterator[int]:
    """Denoises window by window; yields the number of each that is finished.

    Ends early, with the estimates of its last step, where the observer says so.
    """
    done = 0
    for window in range(scheduler.count):
        batches, shape = batching.plan_rows(
            scheduler.tiles(window),
            denoiser.model.config.row,
            block=denoiser.block,
            max_rows=config.rows,
        )
        # As if all windows to come took as many batches.
        total = done + len(batches) * config.steps * (scheduler.count - window)
        for rows in batches:
            write = functools.partial(
                _write, scheduler, rows, shape=shape, guidance=config.guidance
            )
            context = batching.make_context(rows, shape)
            for state in denoiser.sample(context, config):
                done += 1
                estimate = functools.partial(write, state.clean[0])
                if observer(Step(done, total, estimate)):
                    estimate()
                    yield window
                    return
            write(state.x)
        yield window


def _write(
    scheduler: windows_lib.WindowScheduler,
    rows: Sequence[batching.Row],
    tokens: jax.Array,
    *,
    shape: packing.RowShape,
    guidance: float,
) -> list[np.ndarray]:
    """Hand the tokens of a batch to the scheduler; returns all latents as they are.

    Raises:
      ValueError: a token that is not finite, or so large that there is no picture.
    """
    for tile, part in batching.unpack(np.asarray(tokens), rows, shape=shape):
        largest = float(np.abs(part).max())
        if not largest <= _MAX_DEVIATIONS:
            raise ValueError(
                f"sampling with guidance {guidance:g} ended at latents of {largest:g} "
                f"standard deviations, which is no picture: use less guidance, such as "
                f"{SamplingConfig.guidance:g}, or look at the model's parameters"
            )
        scheduler.write(tile, part)
    return [latent.copy() for latent in scheduler.latents]
