"""What of a job lies far from what the model was trained on, a note for each.

A model makes something of every prompt, size and length, and says nothing where it has
never seen the like. `pretrained.training_data` holds what it has seen; models without
that record give no notes.
"""

import dataclasses
import difflib
from collections.abc import Sequence

from soraflax.generation import conditioning, sampling
from soraflax.pretrained import models, training_data

FAR = 1.5  # times a side, an aspect ratio or a frame rate of training
LONG = 4  # times the longest clip of training
NAMED = 5  # words that a note names
CLOSE = 0.6  # similarity (`difflib`) of a word that is named as the nearest


class UnfamiliarWarning(UserWarning):
    """A prompt, size or length far from what a model was trained on."""


def notes(
    job: conditioning.Job,
    config: models.VideoModelConfig,
    *,
    sampling_config: sampling.SamplingConfig,
) -> tuple[str, ...]:
    """What of a job is unlike training; none where the model does not say.

    Args:
      job: to be made.
      config: of the model that makes it.
      sampling_config: whose tiles, if there are some, are what the model sees.
    """
    seen = config.trained_on
    if seen is None:
        return ()
    size = job.conditioning.size
    windows = sampling_config.windows
    if windows is not None and windows.tile is not None:
        height, width = windows.tile
        size = min(size[0], width), min(size[1], height)
    frames, fps = job.conditioning.frames, job.conditioning.fps
    found = [
        *_of_words(job.text, seen.words),
        *_of_size(size, seen),
        *_of_frames(frames, seen),
    ]
    if frames > 1 and _is_far(fps, seen.fps):
        found.append(
            f"{fps:g} frames per second are far from training, which had "
            f"{_between(seen.fps)}"
        )
    return tuple(found)


def annotated(
    job: conditioning.Job,
    config: models.VideoModelConfig,
    *,
    sampling_config: sampling.SamplingConfig,
) -> conditioning.Job:
    """The job with `notes` among its own."""
    more = notes(job, config, sampling_config=sampling_config)
    return dataclasses.replace(job, notes=(*job.notes, *more))


def _of_words(text: str, known: Sequence[str]) -> list[str]:
    """A note of the words that no caption had."""
    unknown = [w for w in training_data.words_of(text) if known and w not in set(known)]
    if not unknown:
        return []
    unknown = list(dict.fromkeys(unknown))
    named = ", ".join(map(repr, unknown[:NAMED]))
    more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
    near = [difflib.get_close_matches(w, known, 1, CLOSE) for w in unknown[:NAMED]]
    nearest = list(dict.fromkeys(word for match in near for word in match))
    if nearest:
        hint = f"nearest known: {', '.join(map(repr, nearest))}"
    else:
        some = ", ".join(map(repr, sorted(known, key=len)[-NAMED:]))
        hint = f"known are {len(known):,} words, such as {some}"
    plural = "s" * (len(unknown) > 1)
    was = "were" if plural else "was"
    return [f"the word{plural} {named}{more} {was} never seen in training; {hint}"]


def _of_size(size: tuple[int, int], seen: training_data.TrainingData) -> list[str]:
    """A note of sides, else of the aspect ratio."""
    if any(_is_far(side, seen.sides) for side in size):
        return [
            f"{size[0]}x{size[1]} pixels are far from training, whose sides had "
            f"{_between(seen.sides)}"
        ]
    if _is_far(size[0] / size[1], seen.aspects):
        return [
            f"an aspect ratio of {size[0] / size[1]:.3g} is far from training, which "
            f"had {_between(seen.aspects)}"
        ]
    return []


def _of_frames(frames: int, seen: training_data.TrainingData) -> list[str]:
    if frames == 1 < seen.frames[0]:
        return ["training had no images, which are clips of one frame"]
    if frames > LONG * seen.frames[1]:
        return [
            f"{frames:,} frames are {frames / seen.frames[1]:.0f} times the longest "
            f"clip of training, {seen.frames[1]}: made window by window, it may drift"
        ]
    return []


def _is_far(value: float, extremes: tuple[float, float]) -> bool:
    return not extremes[0] / FAR <= value <= extremes[1] * FAR


def _between(extremes: tuple[float, float]) -> str:
    low, high = extremes
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
