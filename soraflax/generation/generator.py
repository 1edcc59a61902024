"""Prompts and given pixels in, videos out.

Requests of any sizes and durations become segments of packed rows and are denoised
together (`generation.sampling`), long ones in windows and large ones in tiles
(`generation.windows`). Every way of prompting is a canvas: `generation.tasks` says what
is kept, `generation.conditioning` what that means for the latent.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from soraflax.autoencoding import streaming
from soraflax.generation import batching as rows_lib
from soraflax.generation import canvas as canvases
from soraflax.generation import conditioning as givens
from soraflax.generation import filling, sampling, windows
from soraflax.pretrained import models

Progress = Callable[[int, int], None]
Preview = Callable[[Callable[[], list[np.ndarray]]], None]
Request = filling.Request
SamplingConfig = sampling.SamplingConfig
# Pixels of a frame above which the decoder takes it in tiles of this many pixels.
MAX_DECODED, DECODED_TILE = 2**20, (512, 512)
# Latent frames above which a video is decoded in chunks.
MAX_CHUNK = 16


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A video to be made from text.

    Attributes:
      text: what it shows.
      size: width and height in pixels.
      frames: 1 for an image.
      fps: frames per second; None for the model's reference rate.
      seed: 0 to 2**32 - 1.
      negative: what it should not show; takes the empty caption's place in guidance.
    """

    text: str
    size: tuple[int, int] = (64, 64)
    frames: int = 17
    fps: float | None = None
    seed: int = 0
    negative: str = ""


@dataclasses.dataclass(frozen=True)
class Job:
    """A task: given pixels, and what the rest shows.

    Attributes:
      given: from `generation.tasks`.
      text, negative, seed: as in `Prompt`.
      settle: strength of the second pass, where there is one
        (`generation.conditioning`); 0 goes without.
      task: its name, such as 'extend'; for the record.
      notes: what was changed about the input, a line each.
      options: of the task, JSON values, such as a strength; for the record.
    """

    given: givens.Conditioning
    text: str = ""
    negative: str = ""
    seed: int = 0
    settle: float = 0.5
    task: str = ""
    notes: Sequence[str] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        canvases.check_strength(self.settle)

    def request(self, canvas: canvases.Canvas) -> Request:
        """With this canvas."""
        return Request(canvas, self.text, self.negative, self.seed)


class Generator:
    """A trained model, ready to fill canvases.

    Attributes:
      model: the transformer, its autoencoder and its vocabulary.
      grid: which sizes it can make.
      denoiser: its transformer, compiled for rows.
    """

    def __init__(self, model: models.VideoModel) -> None:
        config = model.config
        self.model = model
        self.grid = canvases.Grid(
            model.autoencoder.config.temporal_ratio,
            model.autoencoder.config.spatial_ratio,
            config.transformer.latent_channels,
            config.transformer.patch,
        )
        params = jax.tree.map(jnp.asarray, model.params)
        self.denoiser = sampling.Denoiser(model, params)
        self._form = filling.Form(
            config.transformer.patch,
            config.statistics,
            functools.partial(model.tokenizer.encode, max_length=config.text_length),
            self.denoiser.block,
        )

    @classmethod
    def load(cls, directory: Any) -> "Generator":
        """Read a trained video model: a VIDEO directory, or its `model/`.

        Raises:
          FileNotFoundError: no model there.
          ValueError: a damaged model, or one of another kind.
        """
        return cls(models.load_video_model(directory))

    @property
    def windows(self) -> windows.WindowConfig:
        """Windows as long as the longest clips of training, half of each known.

        None where that is not known, or where a model has met images only.
        """
        length = self.model.config.window
        if length // self.grid.patch[0] < 2:
            return windows.WindowConfig()
        return windows.WindowConfig(length, length // 2)

    def frame_rate(self, prompt: Prompt) -> float:
        """Frames per second of a prompt's video."""
        return prompt.fps or self.model.config.reference_fps

    def canvas(self, prompt: Prompt) -> canvases.Canvas:
        """The empty canvas of a prompt.

        Raises:
          ValueError: a size off the grid, with the nearest on it, or a bad frame rate.
        """
        if prompt.fps is not None and not 0 < prompt.fps < float("inf"):
            raise ValueError(f"{prompt.fps} frames per second: use a rate above 0")
        width, height = prompt.size
        shape = self.grid.latent_shape(prompt.frames, height, width)
        step = self.model.config.reference_fps / self.frame_rate(prompt)
        return canvases.Canvas.empty(
            shape, time_step=1.0 if prompt.frames == 1 else step
        )

    def request(self, prompt: Prompt) -> Request:
        """A prompt as an empty canvas to be filled; errors as in `canvas`."""
        return Request(self.canvas(prompt), prompt.text, prompt.negative, prompt.seed)

    def check(self, request: Request, config: SamplingConfig | None = None) -> None:
        """Refuse what cannot be filled, before any work is done.

        Raises:
          ValueError: a text too long, or a window or tile of more than
            `canvas.MAX_TOKENS` tokens.
        """
        self._begin([request], config or SamplingConfig())

    def check_job(self, job: Job, config: SamplingConfig | None = None) -> None:
        """`check` for a job, without encoding what it was given."""
        self.check(job.request(self._blank(job)), config)

    def window_count(self, job: Job, config: SamplingConfig | None = None) -> int:
        """How many windows a job is made in."""
        how = (config or SamplingConfig()).windows or self.windows
        frames = len(self._blank(job).latent)
        return len(windows.spans(frames, how, patch=self.grid.patch[0]))

    def _blank(self, job: Job) -> canvases.Canvas:
        return canvases.Canvas.empty(self.grid.latent_shape(*job.given.shape))

    def __call__(
        self,
        prompts: Sequence[Prompt],
        config: SamplingConfig | None = None,
        *,
        progress: Progress | None = None,
        preview: Preview | None = None,
    ) -> list[np.ndarray]:
        """Videos, uint8 `[T, H, W, 3]`, in the order of their prompts.

        Args:
          prompts: of any sizes; they share rows.
          config: how to sample.
          progress: called with (steps done, steps in all) after every step.
          preview: called after every step with a function that gives what is made so
            far, the noise taken off: latents, in the order of the prompts.

        Raises:
          ValueError: a size off the grid, a text too long, a seed out of range.
        """
        requests = [self.request(prompt) for prompt in prompts]
        config = config or SamplingConfig()
        latents = self.fill(requests, config, progress=progress, preview=preview)
        return self.decode(latents, batch=config.decode)

    def complete(
        self,
        jobs: Sequence[Job],
        config: SamplingConfig | None = None,
        *,
        progress: Progress | None = None,
        preview: Preview | None = None,
    ) -> list[np.ndarray]:
        """Videos of tasks, uint8 `[T, H, W, 3]`; what was given is in them unchanged.

        Args and errors are those of `__call__`.
        """
        config = config or SamplingConfig()
        first = [self.encode(job.given) for job in jobs]
        pairs = enumerate(zip(jobs, first, strict=True))
        again = [index for index, pair in pairs if self._settles(*pair)]
        passes = 2 if again else 1
        latest: dict[int, np.ndarray] = {}

        def made(chosen: Sequence[int], canvas: Any, number: int) -> dict[int, Any]:
            latents = self.fill(
                [jobs[i].request(canvas[i]) for i in chosen],
                config,
                progress=_part_of(progress, number, passes=passes),
                preview=_among(preview, latest, chosen=chosen),
            )
            latest.update(zip(chosen, latents, strict=True))
            videos = self.decode(latents, batch=config.decode)
            return {
                i: jobs[i].given.paste(video)
                for i, video in zip(chosen, videos, strict=True)
            }

        videos = made(range(len(jobs)), first, 0)
        if again:
            second = {
                i: givens.refined(
                    jobs[i].given,
                    videos[i],
                    model=self.model.autoencoder,
                    grid=self.grid,
                    first=first[i],
                    strength=jobs[i].settle,
                )
                for i in again
            }
            videos |= made(again, second, 1)
        return [job.given.assemble(videos[i]) for i, job in enumerate(jobs)]

    def frames(
        self,
        job: Job,
        config: SamplingConfig | None = None,
        *,
        progress: Progress | None = None,
        preview: Preview | None = None,
    ) -> Iterator[np.ndarray]:
        """The frames that `complete` gives of one job, uint8 `[H, W, 3]`, one by one.

        They are decoded while the next window is made. Memory follows the length of a
        video in its latents alone, unless it takes two passes.
        """
        watch: Any = {"progress": progress, "preview": preview}
        given, canvas = job.given, self.encode(job.given)
        if self._settles(job, canvas):
            yield from self.complete([job], config, **watch)[0]
            return
        yield from given.before if given.before is not None else ()
        latents = self.stream([job.request(canvas)], config, **watch)
        at = 0
        for chunk in self.decode_stream(part for _, part in latents):
            last = given.frames if given.used is None else given.used
            yield from given.paste(chunk, start=at)[: max(0, last - at)]
            at += len(chunk)
        yield from given.after if given.after is not None else ()

    def _settles(self, job: Job, canvas: canvases.Canvas) -> bool:
        """Whether a job takes a second pass."""
        model = self.model.autoencoder
        return bool(job.settle) and givens.needs_refinement(
            job.given, model, grid=self.grid, first=canvas
        )

    def encode(self, given: givens.Conditioning) -> canvases.Canvas:
        """The canvas of given pixels.

        Raises:
          ValueError: a size off the grid, with the nearest on it.
        """
        return givens.encode(
            given,
            self.model.autoencoder,
            grid=self.grid,
            reference_fps=self.model.config.reference_fps,
        )

    def fill(
        self,
        requests: Sequence[Request],
        config: SamplingConfig | None = None,
        *,
        progress: Progress | None = None,
        preview: Preview | None = None,
    ) -> list[np.ndarray]:
        """Filled latents `[t, h, w, z]`, in the order of the requests.

        Args and errors are those of `__call__`.
        """
        parts: list[list[np.ndarray]] = [[] for _ in requests]
        for index, part in self.stream(
            requests, config, progress=progress, preview=preview
        ):
            parts[index].append(part)
        return [np.concatenate(part) for part in parts]

    def stream(
        self,
        requests: Sequence[Request],
        config: SamplingConfig | None = None,
        *,
        progress: Progress | None = None,
        preview: Preview | None = None,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Latents as windows are finished: number of the request, its next frames.

        Args and errors are those of `__call__`.
        """
        config = config or SamplingConfig()
        work = self._begin(requests, config)
        rounds = max((len(one.spans) for one in work), default=0)
        done = 0
        for number in range(rounds):
            now = filling.Round.of(
                work,
                number,
                form=self._form,
                trained=self.model.config.row,
                rows=config.rows,
            )
            total = done + len(now.batches) * config.steps * (rounds - number)
            for batch in now.batches:
                watch = _Watch(now, batch, done, total, progress, preview)
                tokens = self.denoiser.run(now.rows(batch), config, watch)
                now.put(batch, tokens)
                done += config.steps
            for one in now.work:
                yield one.owner, one.part(number)

    def decode(self, latents: Sequence[np.ndarray], *, batch: int = 8) -> list[Any]:
        """Videos, uint8, of latents of any shapes; those of one shape go together."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, latent in enumerate(latents):
            groups.setdefault(latent.shape, []).append(index)
        videos: list[Any] = [None] * len(latents)
        for shape, members in groups.items():
            if shape[0] > MAX_CHUNK or self._tile(shape):
                for index in members:
                    frames = self.decode_stream([latents[index]])
                    videos[index] = np.concatenate(list(frames))
                continue
            for start in range(0, len(members), batch):
                part = members[start : start + batch]
                full = part + part[-1:] * (rows_lib.power_of_two(len(part)) - len(part))
                decoded = self.model.autoencoder.decode(
                    np.stack([latents[i] for i in full])
                )
                for index, video in zip(part, np.asarray(decoded), strict=False):
                    videos[index] = video
        return videos

    def decode_stream(
        self, latents: Sequence[np.ndarray] | Iterator[np.ndarray]
    ) -> Iterator[np.ndarray]:
        """uint8 `[T, H, W, 3]`, chunk by chunk, of latents that come in parts."""
        stream = iter(latents)
        first = next(stream)

        def parts() -> Iterator[np.ndarray]:
            yield first
            yield from stream

        config = streaming.StreamConfig(tile=self._tile(first.shape))
        for chunk in streaming.decode(self.model.autoencoder, parts(), config=config):
            yield np.round(np.clip((chunk + 1.0) * 127.5, 0, 255)).astype(np.uint8)

    def _tile(self, shape: Sequence[int]) -> tuple[int, int] | None:
        pixels = shape[1] * shape[2] * self.grid.spatial_ratio**2
        return DECODED_TILE if pixels > MAX_DECODED else None

    def _begin(
        self, requests: Sequence[Request], config: SamplingConfig
    ) -> list[filling.Filling]:
        """All requests, checked."""
        how = config.windows or self.windows
        work = []
        for owner, request in enumerate(requests):
            one = filling.Filling(request, owner=owner, grid=self.grid, config=how)
            for text in (request.text, request.negative):
                self._form.encode(text)
            start, stop = one.spans[0]
            part = windows.crop(
                request.canvas.cut(start, stop), one.tiles[0], patch=self.grid.patch
            )
            self.grid.check_tokens(part.latent.shape)
            work.append(one)
        return work


@dataclasses.dataclass(frozen=True)
class _Watch:
    """Passes on what the denoiser reports of a batch: `denoiser.Report`."""

    now: filling.Round
    batch: filling.Batch
    done: int
    total: int
    progress: Progress | None
    preview: Preview | None

    def __call__(self, step: int, estimate: Callable[[], np.ndarray]) -> None:
        if self.progress is not None:
            self.progress(self.done + step, self.total)
        if self.preview is not None:
            self.preview(lambda: self.now.put(self.batch, estimate()))


def _part_of(progress: Progress | None, number: int, *, passes: int) -> Progress | None:
    """`progress` of one of several passes, as if all took as many steps."""
    if progress is None or passes == 1:
        return progress
    return lambda done, total: progress(number * total + done, passes * total)


def _among(
    preview: Preview | None, latest: dict[int, np.ndarray], *, chosen: Sequence[int]
) -> Preview | None:
    """`preview` of a pass over some of all jobs, the others as they were made."""
    if preview is None:
        return None

    def show(latents: Callable[[], list[np.ndarray]]) -> None:
        def everyone() -> list[np.ndarray]:
            found = latest | dict(zip(chosen, latents(), strict=True))
            return [found[index] for index in sorted(found)]

        preview(everyone)

    return show
