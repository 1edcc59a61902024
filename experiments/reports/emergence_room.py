"""3-D consistency: does the camera move as it was asked to, through one solid room?

    python -m experiments.reports.emergence_room [--quick] [--output report]

A model is trained on the world `room` and prompted with held-out combinations. The
camera's motion is recovered from the pixels (`room_judge.flow`) and held against that
of the real render of the same caption: its direction is read by the judge, and

    rigid    what one affine motion of the whole frame leaves of the difference of two
             frames, over that difference; 1 if nothing moves as one               (1)

is put beside real renders through the autoencoder. A camera that was asked to stay
still, or an image, has no (1). Of clips that were asked to orbit the camera's path
itself is recovered (`point_cloud`): how fast it turns in the direction that was asked
for, and how much of the change of the floor it leaves. `cloud.ply` is a point cloud of
the clip that it explains best, `cloud.png` shows it.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from data_pipelines.worlds import bodies, room_judge
from experiments.reports import point_cloud, scoreboard, worlds
from soraflax.generation import generator

NAME = "emergence_room"
CLAIM = (
    "With a camera that moves, people and things move consistently through "
    "three-dimensional space."
)
RECIPE = worlds.WorldRecipe("room")


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


def orbits(
    videos: Sequence[np.ndarray],
    clips: Sequence[bodies.RenderedClip],
    *,
    decoded: Sequence[np.ndarray],
) -> tuple[list[scoreboard.Figure], list[point_cloud.Orbit]]:
    """Figures of the recovered cameras of clips that were asked to orbit, and these."""
    sign = [1 if c.truth["camera"] == "orbits right" else -1 for c in clips]
    found, real = (
        [
            point_cloud.find_orbit(video, fps=clip.fps)
            for video, clip in zip(some, clips, strict=True)
        ]
        for some in (videos, decoded)
    )
    turn, best = (
        [o.turn * s for o, s in zip(some, sign, strict=True)] for some in (found, real)
    )
    return [
        scoreboard.mean(
            "orbit: turn in the direction asked for, degrees per second",
            turn,
            chance=0.0,
            ceiling=float(np.mean(best)),
        ),
        scoreboard.mean(
            "orbit: change of the floor that the recovered camera leaves",
            [orbit.left for orbit in found],
            chance=1.0,
            ceiling=float(np.mean([orbit.left for orbit in real])),
            better="low",
        ),
    ], found


def orbit_clips(recipe: worlds.WorldRecipe) -> list[bodies.RenderedClip]:
    """Held-out clips whose camera orbits, a quarter as many as prompts."""
    return worlds.held_out(
        dataclasses.replace(recipe, prompts=max(2, recipe.prompts // 4)),
        image_share=0.0,
        frames=(17,),
        cameras=("orbits left", "orbits right"),
    )


def with_cloud(
    claim: scoreboard.Claim, folder: pathlib.Path, *, recipe: worlds.WorldRecipe
) -> scoreboard.Claim:
    """The claim with figures, point cloud and pictures of generated orbits."""
    model = generator.Generator.load(folder / recipe.world / "video")
    clips = orbit_clips(recipe)
    videos = worlds.generate(model, clips, recipe=recipe)
    decoded = worlds.reconstructions(model.model.autoencoder, clips)
    figures_, found = orbits(videos, clips, decoded=decoded)
    best = min(range(len(found)), key=lambda index: found[index].left)
    sizes = []
    for name, video in (("cloud", videos[best]), ("cloud_real", decoded[best])):
        orbit = point_cloud.find_orbit(video, fps=clips[best].fps)
        cloud = point_cloud.reconstruct(video, orbit.path)
        sizes.append(len(cloud.points))
        point_cloud.write_ply(folder / f"{name}.ply", cloud)
        point_cloud.draw(
            folder / f"{name}.png", cloud, frame=video[len(video) // 2], orbit=orbit
        )
    views = "its middle frame, then its points from there, from both sides, from above"
    pictures = (
        (
            "cloud.png",
            f"a generated orbit, {clips[best].captions['detailed']}: {views}",
        ),
        ("cloud_real.png", f"the real render after the autoencoder: {views}"),
    )
    note = (
        f"cloud.ply has {sizes[0]} points of the generated orbit that its camera "
        f"explains best of {len(found)}, cloud_real.ply {sizes[1]}; faces of solids "
        "have no texture, so that their depth is decided at their edges alone"
    )
    return dataclasses.replace(
        claim,
        figures=(*claim.figures, *figures_),
        pictures=(*claim.pictures, *pictures),
        notes=(*claim.notes, note),
    )


def make(
    output: pathlib.Path, *, config: worlds.WorldRecipe = RECIPE
) -> scoreboard.Claim:
    """The claim, from data to figures."""
    claim = worlds.make_claim(
        NAME,
        claim=CLAIM,
        recipe=config,
        folder=output / NAME,
        extra=figures,
        deciding="camera",
    )
    return with_cloud(claim, output / NAME, recipe=config)


def main(argv: Sequence[str] | None = None) -> int:
    return scoreboard.run_claim(
        NAME, make, full=RECIPE, quick=RECIPE.quick(), doc=__doc__, argv=argv
    )


if __name__ == "__main__":
    sys.exit(main())
