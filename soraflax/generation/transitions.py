"""Transitions: two clips that go on by themselves, dissolved into each other.

No clip of training shows one scene becoming another, so that a model that is given the
end of one clip and the beginning of another, and all of the frames between to make at
once, cuts from one to the other where it likes: at the first new frame, if a text names
what the second shows. But it has learnt how a clip goes on, and what came before one.
Of n new frames, frame k is

    (1 - w) after(k) + w before(k),  w = 3 u^2 - 2 u^3,  u = k / (n + 1),        (1)

after(k) that of the first clip going on, without a text, and before(k) that of what
leads to the second, as the text has it. These stand where frames are to be made, and
are then denoised as one, from the strength of the task (SDEdit).
"""

import dataclasses

import numpy as np
from jaxtyping import UInt8

from soraflax.generation import conditioning


def jobs(job: conditioning.Job, *, seed: int) -> list[conditioning.Job]:
    """What is made before a job: both sides of its transition.

    Args:
      job: whose conditioning has `sides`.
      seed: of the second side's noise; the first has the job's own.
    """
    assert job.conditioning.sides is not None
    onward, before = job.conditioning.sides
    return [
        dataclasses.replace(job, conditioning=onward, text=""),
        dataclasses.replace(job, conditioning=before, seed=seed),
    ]


def dissolved(
    job: conditioning.Job,
    *,
    onward: UInt8[np.ndarray, "T0 H W 3"],
    before: UInt8[np.ndarray, "T1 H W 3"],
) -> conditioning.Job:
    """The job, equation (1) in the place of the frames that are to be made.

    Args:
      job: whose conditioning has `sides`.
      onward, before: videos of `jobs`; their last frames are after(k) and before(k).
    """
    given = job.conditioning
    new = np.flatnonzero(~given.keep_mask.any(axis=(1, 2)))
    u = np.arange(1, len(new) + 1) / (len(new) + 1)
    weight = (3 * u**2 - 2 * u**3)[:, None, None, None]
    mixed = (1 - weight) * onward[-len(new) :] + weight * before[-len(new) :]
    video = given.video.copy()
    video[new] = np.round(mixed).astype(np.uint8)
    begun = dataclasses.replace(given, video=video, sides=None)
    return dataclasses.replace(job, conditioning=begun)
