"""3-D consistency: does the camera move as it was asked to, through one solid room?

    python -m experiments.reports.emergence_room [--quick] [--output report]

A model is trained on the world `room` and prompted with held-out combinations. The
camera's motion is recovered from the pixels (`room_judge.flow`) and held against that
of the real render of the same caption: its direction is read by the judge, and

    rigid    what one affine motion of the whole frame leaves of the difference of two
             frames, over that difference; 1 if nothing moves as one               (1)

is put beside real renders through the autoencoder. A camera that was asked to stay
still, or an image, has no (1).
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from data_pipelines.worlds import bodies, room_judge
from experiments.reports import scoreboard, worlds

NAME = "emergence_room"
CLAIM = (
    "With a camera that moves, people and things move consistently through "
    "three-dimensional space."
)


def unexplained(video: np.ndarray) -> float:
    """Equation (1), the mean over pairs of frames; NaN of a clip that stands still."""
    six = room_judge.flow_parameters(video)
    grey = ndimage.gaussian_filter(video.astype(np.float32).mean(-1), (0, 1, 1))
    left, whole = [], []
    for first, second, motion in zip(grey[:-1], grey[1:], six, strict=True):
        warped = room_judge.warp(second, motion)
        left.append(np.abs(first - warped)[3:-3, 3:-3].mean())
        whole.append(np.abs(first - second)[3:-3, 3:-3].mean())
    return float(np.sum(left) / np.sum(whole)) if np.mean(whole) > 0.3 else float("nan")


def figures(
    videos: Sequence[np.ndarray],
    clips: Sequence[bodies.RenderedClip],
    decoded: Sequence[np.ndarray],
) -> list[scoreboard.Figure]:
    """Equation (1) of generated clips, with that of real renders as the ceiling."""
    moving = [
        index
        for index, clip in enumerate(clips)
        if len(clip.video) > 1 and clip.truth["camera"] != "stays still"
    ]
    real = [unexplained(decoded[index]) for index in moving]
    found = scoreboard.mean(
        "difference that no rigid motion explains",
        [unexplained(videos[index]) for index in moving],
        chance=1.0,
        ceiling=float(np.nanmean(real)) if np.isfinite(real).any() else None,
        better="low",
    )
    return [found]


def make(output: pathlib.Path, *, quick: bool = False) -> scoreboard.Claim:
    """The claim, from nothing."""
    recipe = worlds.WorldRecipe("room")
    claim = worlds.make_claim(
        NAME,
        claim=CLAIM,
        recipe=recipe.quick() if quick else recipe,
        folder=output / NAME,
        extra=figures,
        deciding="camera",
    )
    note = "no point cloud is made: the camera's path is recovered up to its kind"
    return dataclasses.replace(claim, quick=quick, notes=(note,))


def main(argv: Sequence[str] | None = None) -> int:
    return scoreboard.run_claim(NAME, make, doc=__doc__, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
