"""What the parts of the task benchmark share: the model, clips of the world, jobs.

Clips are of the demo's world and of combinations that its models never trained on. They
move: one whose frames differ by less than `STILL` levels says nothing about a join.
"""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data_pipelines.worlds import bodies
from experiments.benchmarks.tasks import measures
from soraflax.diffusion import samplers
from soraflax.generation import conditioning as givens
from soraflax.generation import generator, lengths

WORLD = bodies.VARIANTS["demo"]
SEED = 2_000_000  # of clips; added to the seed asked for
FRAMES = 17
STILL = 1.0
STEPS, GUIDANCE = 20, 2.0  # of models that do not say how they are sampled
DIGITS = 4


@dataclasses.dataclass(frozen=True)
class Bench:
    """What all parts are given.

    Attributes:
      model: whose tasks are measured.
      sampling: how it samples.
      count: clips of a part; None for the part's own number.
      seed: of clips and noise.
      refine_strengths: of the second pass, that joins are measured at.
      pictures: folder of the parts' pictures; None for none.
    """

    model: generator.Generator
    sampling: generator.SamplingConfig
    count: int | None = None
    seed: int = 0
    refine_strengths: tuple[float, ...] = (generator.Job.refine_strength,)
    pictures: pathlib.Path | None = None

    @property
    def fps(self) -> float:
        """Of the model's reference rate."""
        return self.model.model.config.reference_fps

    def contexts(self) -> dict[str, tuple[int, int]]:
        """As `lengths.contexts`, for windows of the model's length."""
        return lengths.contexts(self.model.grid, self.model.model.config.window)

    def clips(self, count: int, *, frames: int = FRAMES) -> list[bodies.RenderedClip]:
        """Clips of combinations never trained on, of all of the world's sizes in turn.

        Args:
          count: of them, unless the bench has a count of its own.
          frames: of each.
        """
        world = dataclasses.replace(
            WORLD, holdout="only", frames=(frames,), image_share=0.0, fps=(self.fps,)
        )
        sizes = world.sizes
        return [
            bodies.render_clip(
                SEED + self.seed,
                index,
                config=dataclasses.replace(world, sizes=(sizes[index % len(sizes)],)),
            )
            for index in range(self.count or count)
        ]

    def job(
        self, given: givens.Conditioning, text: str, index: int, **changes: Any
    ) -> Any:
        """A job of this bench, its noise its own."""
        job = generator.Job(given, text, seed=self.seed + index)
        return dataclasses.replace(job, **changes)

    def complete(
        self, jobs: Sequence[generator.Job], label: str
    ) -> tuple[list[np.ndarray], float]:
        """Their videos and the seconds it took; progress on standard error."""
        start = time.perf_counter()
        videos = self.model(jobs, self.sampling, progress=progress(label))
        return videos, time.perf_counter() - start

    def reconstruct(self, video: np.ndarray) -> np.ndarray:
        """A video through the autoencoder and back."""
        encoder = self.model.model.autoencoder
        latent = encoder.encode(video[None].astype(np.float32) / 127.5 - 1.0)
        return self.model.decode(list(np.asarray(latent)))[0].copy()


def sampling(
    model: generator.Generator,
    *,
    sampler: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
) -> generator.SamplingConfig:
    """As the model's authors sample; where it does not say, 20 Euler steps, guidance 2.

    Args:
      model: the model.
      sampler: a name in `diffusion.samplers.SAMPLERS`; None for the model's own.
      steps, guidance: the same of these.
    """
    own = model.model.config.sampling is not None
    return generator.SamplingConfig.of_model(
        model.model.config,
        sampler=samplers.SAMPLERS[sampler] if sampler else None,
        steps=STEPS if steps is None and not own else steps,
        guidance=GUIDANCE if guidance is None and not own else guidance,
    )


def caption(clip: bodies.RenderedClip) -> str:
    """What the clip shows, as training says it."""
    return clip.captions["detailed"]


def moving(clips: Sequence[bodies.RenderedClip]) -> list[bodies.RenderedClip]:
    """Those whose frames differ by `STILL` levels or more."""
    return [clip for clip in clips if measures.pace(clip.video) >= STILL]


def progress(label: str) -> Callable[[int, int], None]:
    """A counter on standard error, where that is a terminal."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\r{label}: {done}/{total} steps", end=end, file=sys.stderr)

    return show


def note(text: str) -> None:
    """A line on standard error: which measurement begins."""
    print(f"== {text}", file=sys.stderr, flush=True)


def rounded(values: Any) -> Any:
    """Floats within lists and dictionaries, to a few digits."""
    if isinstance(values, dict):
        return {key: rounded(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [rounded(value) for value in values]
    if isinstance(values, (float, np.floating)):
        return round(float(values), DIGITS)
    return values
