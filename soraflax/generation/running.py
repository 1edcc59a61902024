"""Jobs made under a bar, with notes of what is unlike training, and their records."""

import dataclasses
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from soraflax import media
from soraflax.generation import familiarity, generator, provenance

Input = pathlib.Path | np.ndarray


def run(
    made_by: generator.Generator,
    batch: Sequence[generator.Job],
    *,
    config: generator.SamplingConfig | None,
    inputs: Mapping[str, Input],
    progress: bool | generator.Progress,
    callback: generator.Callback | None,
) -> list[media.Video]:
    """`Model.run`: videos of several jobs, with what was done in their metadata.

    Args:
      made_by: the model.
      batch: the jobs.
      config: how to sample; None for the model's own way.
      inputs: what they are made from, by role.
      progress: a bar, or the user's own count.
      callback: where it returns True sampling stops, which the records then say.
    """
    config = config or made_by.sampling
    windows = config.windows or made_by.windows
    config = dataclasses.replace(config, windows=windows)
    seen: Any = {"sampling_config": config}
    for job in batch:
        for note in familiarity.notes(job, made_by.model.config, **seen):
            warnings.warn(note, familiarity.UnfamiliarWarning, stacklevel=2)
    batch = [familiarity.annotated(job, made_by.model.config, **seen) for job in batch]
    watch = _Watch(callback)
    with _Bar(progress) as bar:
        videos = made_by(batch, config, progress=bar.step, callback=watch)
    notes = watch.notes
    return [
        _video(
            dataclasses.replace(job, notes=(*job.notes, *notes)),
            frames,
            record_of=made_by,
            config=config,
            inputs=inputs,
        )
        for job, frames in zip(batch, videos, strict=True)
    ]


def _video(
    job: generator.Job,
    frames: np.ndarray,
    *,
    record_of: generator.Generator,
    config: generator.SamplingConfig,
    inputs: Mapping[str, Input],
) -> media.Video:
    """Frames with the record of how they were made."""
    made = provenance.of_job(job, config, inputs=inputs)
    # Sampling that was stopped early may have made fewer pieces.
    made = dataclasses.replace(made, frames=len(frames))
    record = provenance.record(made, record_of.model)
    return media.Video(frames, job.conditioning.fps, record)


class _Watch:
    """The user's callback, and where it stopped sampling.

    Attributes:
      notes: that it did, for the record; none otherwise.
    """

    def __init__(self, callback: generator.Callback | None) -> None:
        self._callback = callback
        self.notes: tuple[str, ...] = ()

    def __call__(self, step: generator.Step) -> bool:
        stops = self._callback is not None and bool(self._callback(step))
        if stops and step.done < step.total:
            self.notes = (f"stopped after step {step.done} of {step.total}",)
        return stops


class _Bar:
    """A bar over the steps of the sampler, or the user's own count of them."""

    def __init__(self, progress: bool | generator.Progress) -> None:
        self._bar: Any = None
        self._progress = progress if callable(progress) else None
        if progress is True:
            from tqdm import auto

            # Elsewhere than on a terminal or in a notebook nobody looks on.
            notebook = auto.tqdm.__name__ == "tqdm_notebook"
            self._bar = auto.tqdm(
                desc="sampling",
                unit="step",
                leave=False,
                disable=False if notebook else None,
            )

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self, done: int, total: int) -> None:
        """`progress` of a generator."""
        if self._progress is not None:
            self._progress(done, total)
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)
