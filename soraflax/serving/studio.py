"""A model, its queue and its results: all that a page needs, without a page.

    with Studio(model, Settings()) as studio:
        ticket = studio.submit(requests.Request("generate", "a circle"))
        ticket.wait()
        ticket.result.video                       # a file that browsers play

Results are files of a temporary folder, which goes with the studio; of many results
the oldest go first. Names are random: only who made a result knows where it is.
"""

import collections
import dataclasses
import json
import math
import pathlib
import secrets
import shutil
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from soraflax import media
from soraflax.autoencoding import previews
from soraflax.generation import familiarity, guardrails, progress, resizing, sounds
from soraflax.generation import generator as generators
from soraflax.generation import model as models
from soraflax.media import guard
from soraflax.serving import job_queue, requests, uploads

PREVIEW_EVERY = 0.7  # seconds between two previews, at least
_PREVIEW_SHARE = 9  # a preview takes a tenth of the time at most
_PREVIEW_RATES = (1.0, 25.0)
_KEPT = 64  # results
# Width to height of the sizes that are suggested.
SHAPES = (("landscape", 3 / 2), ("wide", 16 / 9), ("square", 1.0), ("portrait", 2 / 3))


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a server allows.

    Attributes:
      limits: of uploads and requests.
      queue: jobs that may wait while one runs.
      size: width and height that suit the model, to about whose pixels clips are
        brought; None for those of its training.
      guard: filters of prompts and results; none, unless a server names some.
    """

    limits: uploads.Limits = dataclasses.field(default_factory=uploads.Limits)
    queue: int = 8
    size: tuple[int, int] | None = None
    guard: guardrails.Guardrails = dataclasses.field(
        default_factory=guardrails.Guardrails
    )


@dataclasses.dataclass(frozen=True)
class Result:
    """One video or image that was made.

    Attributes:
      video: `.mp4`, or `.png` of an image; the record is in it.
      lossless: the same without loss, to go on from: `.mkv`, or the `.png`.
      gif: the same as `.gif`; None of an image, or where it would be too large.
      record: a `.json` that says how it was made.
      metadata: the values of the record.
      size: width and height in pixels.
      frames: how many.
      fps: frames per second.
      notes: what was changed about the request, a line each.
      seconds: that it took.
    """

    video: pathlib.Path
    lossless: pathlib.Path
    gif: pathlib.Path | None
    record: pathlib.Path
    metadata: Mapping[str, Any]
    size: tuple[int, int]
    frames: int
    fps: float
    notes: tuple[str, ...]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Preview:
    """What a result looks like so far.

    Attributes:
      gif: an animated picture, as bytes.
      number: of the preview, from 1.
    """

    gif: bytes
    number: int


@dataclasses.dataclass(frozen=True)
class Upload:
    """A clip or image that a visitor chose.

    Attributes:
      thumbnail: a small `.mp4`, or `.png` of an image.
      first: its first frame, a `.png`.
      size: width and height in pixels.
      frames: how many.
      fps: frames per second.
    """

    thumbnail: pathlib.Path
    first: pathlib.Path
    size: tuple[int, int]
    frames: int
    fps: float


class Studio:
    """A model that makes one thing at a time; a context manager.

    Attributes:
      model: that makes it.
      settings: what is allowed.
      size: width and height that suit the model.
      folder: of the results; removed at the end.
      queue: of the jobs.
    """

    def __init__(self, model: models.Model, settings: Settings = Settings()) -> None:
        self.model, self.settings = model, settings
        self.size = settings.size or trained_size(model)
        model.grid.check_frame(self.size)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="soraflax-serve-"))
        self.queue = job_queue.JobQueue(settings.queue)
        self._results: collections.deque[pathlib.Path] = collections.deque()
        self._projection: previews.Projection | None = None

    def __enter__(self) -> "Studio":
        return self

    def __exit__(self, *error: object) -> None:
        self.queue.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def submit(self, request: requests.Request) -> job_queue.Ticket:
        """Check a request and put it in the queue.

        Raises:
          QueueFullError: no room; nothing was read.
          RefusedError: a filter does not let the prompt pass.
          ValueError: what cannot be made, in one line.
        """
        self.queue.check_room()
        self.settings.guard.check(request.prompt)
        prepared = requests.prepare(
            request, self.model.generator, limits=self.settings.limits
        )
        known: Any = {"sampling_config": prepared.config}
        config = self.model.generator.model.config
        notes = familiarity.annotated(prepared.job, config, **known).notes
        return self.queue.submit(
            lambda ticket: self._make(prepared, ticket), notes=notes
        )

    def inspect(self, path: pathlib.Path, *, name: str) -> Upload:
        """Look at an upload, as soon as it is there.

        Args:
          path: of the file.
          name: what errors call it.

        Raises:
          MediaError: what is wrong with it, in one line.
        """
        width, height = self.size
        clip, _ = uploads.read_clip(
            path,
            self.settings.limits,
            target=uploads.Target(4 * width * height, self.model.fps),
            fps=self.model.fps,
            name=name,
        )
        size, frames, fps = uploads.facts(path)
        folder = self._new_folder()
        first = media.Video(clip.frames[:1], 1.0).save(folder / "first.png")
        thumbnail = first if frames == 1 else clip.save(folder / "thumbnail.mp4")
        return Upload(thumbnail, first, size, frames, fps or self.model.fps)

    def sizes(self) -> list[tuple[str, tuple[int, int]]]:
        """Names and sizes of about the pixels that suit the model, its own first."""
        own = self.size
        area, found = own[0] * own[1], {own: _shape(own)}
        seen = self.model.generator.model.config.trained_on
        low, high = seen.aspects if seen else (0.0, math.inf)
        for name, ratio in SHAPES:
            if not low <= ratio <= high:
                continue
            wanted = (round((area * ratio) ** 0.5), round((area / ratio) ** 0.5))
            found.setdefault(resizing.nearest_size(self.model.grid, wanted), name)
        return [(name, size) for size, name in found.items()]

    def suggested_size(
        self, task: str, clip: tuple[int, int] | None
    ) -> tuple[int, int]:
        """A size of the result that a task makes sense with, on the grid.

        Args:
          task: a name in `requests.TASKS`.
          clip: width and height of the clip, if there is one.
        """
        if clip is None or task not in ("outpaint", "upscale"):
            return self.size
        width, height = clip
        wanted = (2 * width, 2 * height)
        if task == "outpaint":
            own = uploads.Target(self.size[0] * self.size[1])
            width, height = own.frame(clip)
            wanted = (width, 2 * height) if height > width else (2 * width, height)
        return resizing.nearest_size(self.model.grid, wanted)

    def _make(self, prepared: requests.Prepared, ticket: job_queue.Ticket) -> Result:
        start = time.monotonic()
        if self._projection is None:
            autoencoder = self.model.generator.model.autoencoder
            self._projection = previews.Projection.fit(autoencoder)
        rate = prepared.job.conditioning.fps / self.model.grid.temporal_ratio
        watch = Watch(ticket, self._projection, fps=rate)
        with (
            warnings.catch_warnings(),
            tempfile.TemporaryDirectory(dir=self.folder) as folder,
        ):
            heard, notes = extracted(prepared, pathlib.Path(folder))
            job = prepared.job
            job = dataclasses.replace(job, notes=(*job.notes, *notes))
            # They are among the notes of the record, which the page shows.
            warnings.simplefilter("ignore", familiarity.UnfamiliarWarning)
            (video,) = self.model.run(
                [job],
                prepared.config,
                inputs=prepared.inputs,
                progress=False,
                callback=watch,
            )
            if ticket.is_cancelled:
                raise job_queue.CancelledError
            self.settings.guard.check(prepared.job.text, video)
            seconds = time.monotonic() - start
            return self._save(video, seconds=seconds, heard=heard)

    def _save(
        self,
        video: media.Video,
        *,
        seconds: float,
        heard: Mapping[str, Sequence[media.PlacedSound]],
    ) -> Result:
        folder = self._new_folder()
        task = video.metadata.get("task", "video")
        stem = f"{task}-seed{video.metadata.get('seed', 0)}"
        gif = None
        if len(video) == 1:
            shown = lossless = video.save(folder / f"{stem}.png")
        else:
            shown, lossless = folder / f"{stem}.mp4", folder / f"{stem}.mkv"
            known: Any = {"fps": video.fps, "metadata": video.metadata}
            for path in (shown, lossless):
                known["sounds"] = heard[path.suffix]
                media.write_frames(path, video.frames, **known)
            try:
                gif = video.save(folder / f"{stem}.gif")
            except media.MediaError:  # too many pixels, or too fast
                gif = None
        record = folder / f"{shown.name}.json"  # as beside a command's results
        text = json.dumps(video.metadata, indent=2, ensure_ascii=False)
        record.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
        return Result(
            video=shown,
            lossless=lossless,
            gif=gif,
            record=record,
            metadata=video.metadata,
            size=video.size,
            frames=len(video),
            fps=video.fps,
            notes=tuple(video.metadata.get("notes", ())),
            seconds=seconds,
        )

    def _new_folder(self) -> pathlib.Path:
        """An empty folder that nobody can guess; the oldest of too many goes."""
        folder = self.folder / secrets.token_urlsafe(18)
        folder.mkdir()
        self._results.append(folder)
        while len(self._results) > _KEPT:
            shutil.rmtree(self._results.popleft(), ignore_errors=True)
        return folder


class Watch:
    """A callback of the model: the ticket's, and previews of what is made."""

    def __init__(
        self, ticket: job_queue.Ticket, show: previews.Projection, *, fps: float
    ) -> None:
        self._ticket, self._show = ticket, show
        self._fps = min(max(fps, _PREVIEW_RATES[0]), _PREVIEW_RATES[1])
        self._due, self._number = 0.0, 0

    def __call__(self, step: progress.Step) -> bool:
        start = time.monotonic()
        if start >= self._due and not self._ticket.is_cancelled:
            self._number += 1
            gif = self._draw(step.latents()[0])
            self._ticket.preview = Preview(gif, self._number)
            took = time.monotonic() - start
            self._due = start + max(PREVIEW_EVERY, _PREVIEW_SHARE * took)
        return self._ticket.step(step)

    def _draw(self, latent: np.ndarray) -> bytes:
        # To the middle of 32 levels: a palette takes time by the colours there are.
        frames = self._show(latent) & 0xF8 | 0x04
        return media.Video(frames, self._fps).encode(".gif")


def extracted(
    prepared: requests.Prepared, folder: pathlib.Path
) -> tuple[dict[str, Sequence[media.PlacedSound]], list[str]]:
    """The sound that a result keeps, copied out of uploads, which nobody vouches for.

    Args:
      prepared: what is made.
      folder: where the copies go.

    Returns:
      Sounds by the suffix of the result, and notes of what has none.
    """
    clips, notes = [], []
    for number, clip in enumerate(prepared.clips):
        assert clip.path is not None
        target, found = folder / f"{number}.mkv", False
        try:
            found = guard.extract_sound(clip.path, target, name=clip.name)
        except media.MediaError as error:
            notes.append(f"{error}: its sound is left out")
        clips.append(dataclasses.replace(clip, path=target if found else None))
    heard = {s: sounds.of_job(prepared.job, clips, suffix=s) for s in (".mkv", ".mp4")}
    notes = [*notes, *heard[".mp4"].notes]
    return {suffix: one.sounds for suffix, one in heard.items()}, notes


def trained_size(model: models.Model) -> tuple[int, int]:
    """Width and height of wide frames of a model's training, on its grid."""
    seen = model.generator.model.config.trained_on
    if seen is None:
        return resizing.nearest_size(
            model.grid, generators.default_size(model.generator)
        )
    width = seen.sides[1]
    height = max(seen.sides[0], round(width / max(1.0, seen.aspects[1])))
    return resizing.nearest_size(model.grid, (width, height))


def _shape(size: tuple[int, int]) -> str:
    """What a size is called: the nearest of `SHAPES`."""
    ratio = size[0] / size[1]
    return min(SHAPES, key=lambda shape: abs(np.log(ratio / shape[1])))[0]
