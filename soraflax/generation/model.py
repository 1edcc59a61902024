"""The front door: a trained model, and a method for every way of prompting it.

    model = soraflax.load()  # the one that is shipped, or a folder's
    video = model.generate("a large red circle moves right", size=(96, 64), frames=17)
    video.save("out.mp4")

Every method chooses numbers that suit the model where none are given (`jobs`), makes
one video (`running`) and says in `Video.metadata` how. Several jobs are made at once,
in shared rows, by `Model.run`.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from soraflax import media
from soraflax.generation import adapters, generator, jobs, paths, running, tasks
from soraflax.generation import captioner as captioners
from soraflax.ops import grid as grids
from soraflax.pretrained import shipped

Path = str | os.PathLike[str]
# What is given as a clip: a video, its file, or `[T, H, W, 3]` uint8 at the model's
# reference rate; as an image: `[H, W, 3]` uint8, a file, a video of one frame, PIL's.
Clip = media.Video | np.ndarray | Path
Image = Any
Input = running.Input
SamplingConfig = generator.SamplingConfig
Step = generator.Step
Progress = generator.Progress
Callback = generator.Callback


class Model:
    """A trained video model.

    Arguments that the methods share, all of them keywords:

    - `seed`: PRNG seed of the noise, 0 to 2**32 - 1. One seed gives the same pixels
      whatever else is made beside it.
    - `negative`: text that guidance leads away from.
    - `config`: how to sample (`SamplingConfig`): steps, guidance, sampler, cache.
    - `progress`: True shows a bar over the steps; or called with (steps done, steps in
      all) after each.
    - `callback`: called after every step with a `Step`; where it returns True the model
      stops and gives what it has made so far.
    - `fps`: frames per second; None for the model's reference rate. A clip has its own.
    - `frames`, `seconds`: how much is made, one of them; None for what suits the model.

    A prompt, size or length far from what the model was trained on is a warning
    (`familiarity.UnfamiliarWarning`), and stands among the `notes` of `Video.metadata`.

    All methods return a `Video` (uint8 `[T, H, W, 3]`), and raise ValueError, in one
    line that names the nearest that can be made, for what cannot be.

    Attributes:
      generator: the compiled model.
    """

    def __init__(self, generator: generator.Generator) -> None:
        self.generator = generator

    @classmethod
    def load(cls, folder: Path | None = None, *, lora: Sequence[str] = ()) -> "Model":
        """Read a trained video model; arguments and errors as of `soraflax.load`."""
        model = generator.Generator.load(shipped.or_given(folder))
        return cls(adapters.adapted(model, lora))

    def __repr__(self) -> str:
        digest = self.generator.model.digest[:12]
        return f"Model({digest}, {self.fps:g} fps, {self.grid})"

    @property
    def grid(self) -> grids.Grid:
        """Sizes and numbers of frames that can be made."""
        return self.generator.grid

    @property
    def fps(self) -> float:
        """Reference frame rate."""
        return self.generator.model.config.reference_fps

    def generate(
        self,
        text: str,
        *,
        size: tuple[int, int] | None = None,
        frames: int | None = None,
        seconds: float | None = None,
        fps: float | None = None,
        seed: int = 0,
        negative: str = "",
        config: SamplingConfig | None = None,
        progress: bool | Progress = True,
        callback: Callback | None = None,
    ) -> media.Video:
        """Text to video.

        Args:
          text: what the video shows.
          size: width and height in pixels; None for the model's own.
          frames, seconds, fps, seed, negative, config, progress, callback: see `Model`.
        """
        job = jobs.generate(
            self.generator,
            jobs.Text(text, negative, seed),
            size=size,
            length=jobs.Length(frames, seconds),
            fps=fps,
        )
        return self._one(job, config, progress=progress, callback=callback)

    def image(
        self,
        text: str,
        *,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        negative: str = "",
        config: SamplingConfig | None = None,
        progress: bool | Progress = True,
        callback: Callback | None = None,
    ) -> media.Video:
        """Text to image, a video of one frame; arguments as of `generate`."""
        job = jobs.image(self.generator, jobs.Text(text, negative, seed), size=size)
        return self._one(job, config, progress=progress, callback=callback)

    def animate(
        self,
        image: Image,
        text: str = "",
        *,
        last: Image | None = None,
        path: str | Sequence[paths.Path] = "",
        strength: float = paths.STRENGTH,
        size: tuple[int, int] | None = None,
        frames: int | None = None,
        seconds: float | None = None,
        fps: float | None = None,
        seed: int = 0,
        negative: str = "",
        config: SamplingConfig | None = None,
        progress: bool | Progress = True,
        callback: Callback | None = None,
    ) -> media.Video:
        """An image that begins to move.

        Args:
          image: the first frame.
          text: what the video shows.
          last: the last frame, if there is one.
          path: `x0,y0:x1,y1` in pixels of the video: what lies at its start follows it;
            several with spaces between them, or as points. Not with a last frame.
          strength: of the noise that a clip with paths starts from, 0 to 1.
          size: width and height; None for the nearest that can be made to the image's.
          frames, seconds, fps, seed, negative, config, progress, callback: see `Model`.
        """
        inputs = {"image": _input(image)}
        if last is not None:
            inputs["last_frame"] = _input(last)
        job = jobs.animate(
            self.generator,
            _image(image),
            text=jobs.Text(text, negative, seed),
            last=None if last is None else _image(last),
            size=size,
            length=jobs.Length(frames, seconds),
            fps=fps,
        )
        job = paths.follow(job, path, strength=strength)
        watch: Any = {"progress": progress, "callback": callback}
        return self._one(job, config, inputs=inputs, **watch)

    def extend(
        self,
        clip: Clip,
        text: str = "",
        *,
        direction: tasks.Direction = "forward",
        frames: int | None = None,
        seconds: float | None = None,
        context: int | None = None,
        strength: float = 0.8,
        seed: int = 0,
        negative: str = "",
        config: SamplingConfig | None = None,
        progress: bool | Progress = True,
        callback: Callback | None = None,
    ) -> media.Video:
        """A clip continued ('forward'), or what came before it ('backward').

        Args:
          clip: it is in the result unchanged.
          text: what the video shows.
          direction: of time.
          context: frames of the clip that the model sees; None for what suits it.
          strength: backward, of the noise that what comes before starts from, 0 to 1.
          frames, seconds, seed, negative, config, progress, callback: see `Model`.
        """
        job = jobs.extend(
            self.generator,
            self._clip(clip),
            text=jobs.Text(text, negative, seed),
            direction=direction,
            length=jobs.Length(frames, seconds),
            context=context,
            strength=strength,
            fit="resize",
        )
        watch: Any = {"progress": progress, "callback": callback}
        return self._one(job, config, inputs={"clip": _input(clip)}, **watch)

    def loop(
        self,
        clip: Clip,
        text: str = "",
        *,
        frames: int | None = None,
        seconds: float | None = None,
        context: int | None = None,
        strength: float = 0.5,
        seed: int = 0,
        negative: str = "",
        config: SamplingConfig | None = None,
        progress: bool | Progress = True,
        callback: Callback | None = None,
    ) -> media.Video:
        """A clip and the piece that makes it repeat without a seam; as `extend`."""
        job = jobs.loop(
            self.generator,
            self._clip(clip),
            text=jobs.Text(text, negative, seed),
            length=jobs.Length(frames, seconds),
            context=context,
            strength=strength,
            fit="resize",
        )
        watch: Any = {"progress": progress, "callback": callback}
        return self._one(job, config, inputs={"clip": _input(clip)}, **watch)

    def connect(
        self,
        first: Clip,
        second: Clip,
        *,
        text: str = "",
        frames: int | None = None,
        seconds: float | None = None,
        context: int | None = None,
        strength: float = tasks.TRANSITION_STRENGTH,
        seed: int = 0,
        negative: str = "",
        config: SamplingConfig | None = None,
        progress: bool | Progress = True,
        callback: Callback | None = None,
    ) -> media.Video:
        """Two clips and a transition between them; arguments as of `extend`."""
        job = jobs.connect(
            self.generator,
            self._clip(first),
            second=self._clip(second),
            text=jobs.Text(text, negative, seed),
            length=jobs.Length(frames, seconds),
            context=context,
            strength=strength,
            fit="resize",
        )
        inputs = {"first": _input(first), "second": _input(second)}
        watch: Any = {"progress": progress, "callback": callback}
        return self._one(job, config, inputs=inputs, **watch)

    def edit(
        self,
        clip: Clip,
        text: str,
        *,
        strength: float = 0.7,
        seed: int = 0,
        negative: str = "",
        config: SamplingConfig | None = None,
        progress: bool | Progress = True,
        callback: Callback | None = None,
    ) -> media.Video:
        """A clip after another prompt (SDEdit).

        Args:
          clip: what the result starts from.
          text: what it shows.
          strength: share of the noise levels walked again; 0 keeps all, 1 nothing.
          seed, negative, config, progress, callback: see `Model`.
        """
        job = jobs.edit(
            self.generator,
            self._clip(clip),
            text=jobs.Text(text, negative, seed),
            strength=strength,
            fit="resize",
        )
        watch: Any = {"progress": progress, "callback": callback}
        return self._one(job, config, inputs={"clip": _input(clip)}, **watch)

    def inpaint(
        self,
        clip: Clip,
        mask: Bool[np.ndarray, "T H W"] | Bool[np.ndarray, "H W"],
        *,
        text: str = "",
        seed: int = 0,
        negative: str = "",
        config: SamplingConfig | None = None,
        progress: bool | Progress = True,
        callback: Callback | None = None,
    ) -> media.Video:
        """A clip of which what a mask marks is made anew.

        Args:
          clip: kept where the mask is false.
          mask: true where the clip is made anew; of a frame, which holds for all.
          text: what the video shows.
          seed, negative, config, progress, callback: see `Model`.
        """
        video = self._clip(clip)
        if mask.ndim == 2:
            mask = np.broadcast_to(mask, (len(video), *mask.shape)).copy()
        job = jobs.inpaint(
            self.generator,
            video,
            mask=mask,
            text=jobs.Text(text, negative, seed),
            fit="resize",
        )
        inputs = {"clip": _input(clip), "mask": mask}
        watch: Any = {"progress": progress, "callback": callback}
        return self._one(job, config, inputs=inputs, **watch)

    def outpaint(
        self,
        clip: Clip,
        size: tuple[int, int],
        *,
        text: str = "",
        seed: int = 0,
        negative: str = "",
        config: SamplingConfig | None = None,
        progress: bool | Progress = True,
        callback: Callback | None = None,
    ) -> media.Video:
        """A clip in the middle of a frame of another shape, whose rest is made.

        Args:
          clip: kept where it lies in the new frame.
          size: width and height of the new frame.
          text: what the video shows.
          seed, negative, config, progress, callback: see `Model`.
        """
        job = jobs.outpaint(
            self.generator,
            self._clip(clip),
            size=size,
            text=jobs.Text(text, negative, seed),
        )
        watch: Any = {"progress": progress, "callback": callback}
        return self._one(job, config, inputs={"clip": _input(clip)}, **watch)

    def upscale(
        self,
        clip: Clip,
        size: tuple[int, int],
        *,
        text: str = "",
        strength: float = 0.5,
        seed: int = 0,
        negative: str = "",
        config: SamplingConfig | None = None,
        progress: bool | Progress = True,
        callback: Callback | None = None,
    ) -> media.Video:
        """A clip enlarged, noised and denoised at its new size.

        Args:
          clip: what the result starts from.
          size: its width and height.
          text: what the video shows.
          strength: share of the noise levels walked again; more invents more detail.
          seed, negative, config, progress, callback: see `Model`.
        """
        job = jobs.upscale(
            self.generator,
            self._clip(clip),
            size=size,
            text=jobs.Text(text, negative, seed),
            strength=strength,
        )
        watch: Any = {"progress": progress, "callback": callback}
        return self._one(job, config, inputs={"clip": _input(clip)}, **watch)

    def caption(
        self,
        clip: Clip | Image,
        *,
        captioner: captioners.Captioner | Path | None = None,
        beams: int = 1,
    ) -> str:
        """What a clip or an image shows, in words that make a prompt.

        Args:
          clip: of any size and length; an array has the captioner's reference rate.
          captioner: one that was loaded, or its folder; None for the one shipped with
            the package, which knows the words of the embedded world.
          beams: hypotheses that are kept; 1 takes the most probable word each time.

        Raises:
          ValueError: a clip that cannot be read, or pixels that are no uint8.
          FileNotFoundError, ModelError: no such captioner.
        """
        if not isinstance(captioner, captioners.Captioner):
            captioner = _loaded_captioner(None if captioner is None else str(captioner))
        if not isinstance(clip, media.Video | str | os.PathLike):
            clip = np.asarray(clip)
        return captioner(clip, beams=beams)

    def run(
        self,
        batch: Sequence[generator.Job],
        config: SamplingConfig | None = None,
        *,
        inputs: Mapping[str, Input] | None = None,
        progress: bool | Progress = True,
        callback: Callback | None = None,
    ) -> list[media.Video]:
        """Videos of several jobs, sampled together in shared rows, in their order.

        Args:
          batch: from `jobs`, or a `Job` of a conditioning of `tasks`.
          config: how to sample.
          inputs: what they were made from, by role, for the record.
          progress, callback: see `Model`.
        """
        return running.run(
            self.generator,
            batch,
            config=config,
            inputs=inputs or {},
            progress=progress,
            callback=callback,
        )

    def _one(
        self, job: generator.Job, config: SamplingConfig | None, **watch: Any
    ) -> media.Video:
        return self.run([job], config, **watch)[0]

    def _clip(self, clip: Clip) -> media.Video:
        """A clip as a video; an array, or an image, has the model's reference rate."""
        if isinstance(clip, media.Video):
            return clip
        if isinstance(clip, np.ndarray):
            return media.Video(clip, self.fps)
        video = media.read_video(clip)
        return dataclasses.replace(video, fps=self.fps) if len(video) == 1 else video


@functools.lru_cache(maxsize=2)
def _loaded_captioner(folder: str | None) -> captioners.Captioner:
    return captioners.Captioner.load(folder)


def _image(image: Image) -> np.ndarray | media.Video:
    """Pixels `[H, W, 3]`, or a video, of whatever is given as an image."""
    if isinstance(image, str | os.PathLike):
        return media.read_video(image)
    return image if isinstance(image, media.Video) else np.asarray(image)


def _input(item: Any) -> Input:
    """A clip or an image as a record names it: a file, or pixels."""
    if isinstance(item, str | os.PathLike):
        return pathlib.Path(item)
    return item.frames if isinstance(item, media.Video) else np.asarray(item)
