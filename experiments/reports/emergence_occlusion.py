"""Permanence: is what passes behind a bar still itself when it comes out?

    python -m experiments.reports.emergence_occlusion [--quick] [--output report]

A model is trained on bodies that pass behind a bar (`bodies`, variant `hidden`) and
given the first frames of clips that it never saw, up to where the body is last wholly
seen; it makes the rest. Only clips count in which the truth hides the body and shows it
whole again, and in which the judge reads the body before. After the bar,

    survives   one body is there in the last frame, neither none nor several      (1)
    identity   it has the colour and the shape that were read before              (2)
    position   distance to where the true motion has taken it, in short sides     (3)

Chance of (3) is a body that stays where it was last seen. (1) and (2) have none: a clip
whose last given frame is repeated would score them all, so they are read beside (3).
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from data_pipelines.worlds import bodies, judge
from experiments.plots import strips
from experiments.reports import scoreboard, worlds
from soraflax.generation import generator, tasks

NAME = "emergence_occlusion"
CLAIM = "What is occluded or leaves the frame persists: objects stay what they are."
MOST = 64  # clips that are continued
RECIPE = worlds.WorldRecipe(
    "bodies", variant="hidden", autoencoder_steps=0, prompts=200
)
QUICK = dataclasses.replace(RECIPE.quick(), prompts=60)
_SEEN, _HIDDEN = 0.95, 0.15


@dataclasses.dataclass(frozen=True)
class Occlusion:
    """A clip in which a body is hidden and comes out.

    Attributes:
      clip: the real render.
      given: frames that are given, the last with the body wholly seen.
      before: colour and shape as the judge reads them in those.
    """

    clip: bodies.RenderedClip
    given: int
    before: tuple[str, str]


def occlusion(clip: bodies.RenderedClip, *, step: int, least: int) -> Occlusion | None:
    """The occlusion of a clip; None where there is none, or it cannot be read.

    Args:
      clip: a clip of one body.
      step: frames by which a given part may be longer, after the first.
      least: fewest frames given.
    """
    seen = np.array(clip.truth["objects"][0]["visibility"])
    hidden = np.flatnonzero(seen < _HIDDEN)
    if not len(hidden) or seen[-1] < _SEEN:
        return None
    whole = np.flatnonzero(seen[: hidden[0]] >= _SEEN)
    if not len(whole):
        return None
    given = 1 + (int(whole[-1]) // step) * step
    if given < least or (seen[:given] < _SEEN).any():
        return None
    reading = judge.read(clip.video[:given])
    truth = clip.truth["attributes"]
    if reading["count"] != 1 or reading.get("colour") != truth["colour"]:
        return None
    return Occlusion(clip, given, (reading["colour"], reading["shape"]))


def last_bodies(video: np.ndarray) -> list[judge.Blob]:
    """The bodies in the last frame, as the judge finds them in the whole clip."""
    return [b for b in judge.blobs(video) if b.frame == len(video) - 1]


def outcome(video: np.ndarray, case: Occlusion) -> dict[str, float]:
    """(1) to (3) of a clip; (3) is NaN where there is not one body."""
    found = last_bodies(video)
    after = judge.read(video[-3:])
    alone = len(found) == 1
    same = (after.get("colour"), after.get("shape")) == case.before
    body = case.clip.truth["objects"][0]
    error = float("nan")
    if alone:
        away = np.subtract(found[0].centre, (body["x"][-1], body["y"][-1]))
        error = float(np.hypot(*away) / min(video.shape[1:3]))
    return {
        "survives": float(alone),
        "identity": float(alone and same),
        "position": error,
        "vanished": float(not found),
        "several": float(len(found) > 1),
    }


def frozen(case: Occlusion) -> np.ndarray:
    """The clip with its last given frame repeated to the end."""
    video = case.clip.video.copy()
    video[case.given :] = video[case.given - 1]
    return video


def figures(
    videos: Sequence[np.ndarray],
    cases: Sequence[Occlusion],
    *,
    decoded: Sequence[np.ndarray] = (),
) -> list[scoreboard.Figure]:
    """The figures of (1) to (3); the position decides."""
    rows = [outcome(video, case) for video, case in zip(videos, cases, strict=True)]
    real = [outcome(video, case) for video, case in zip(decoded, cases, strict=False)]
    still = [outcome(frozen(case), case)["position"] for case in cases]

    def ceiling(name: str) -> float | None:
        values = [row[name] for row in real if np.isfinite(row[name])]
        return float(np.mean(values)) if values else None

    position = scoreboard.mean(
        "distance to the true place, short sides",
        [row["position"] for row in rows],
        chance=float(np.nanmean(still)),
        ceiling=ceiling("position"),
        better="low",
    )
    shares = [
        scoreboard.share(name, [bool(row[name]) for row in rows], ceiling=ceiling(name))
        for name in ("survives", "identity", "vanished", "several")
    ]
    return [position, *shares]


def continued(
    model: generator.Generator,
    cases: Sequence[Occlusion],
    *,
    recipe: worlds.WorldRecipe,
) -> list[np.ndarray]:
    """Every clip, its given frames continued by the model."""
    jobs = [
        generator.Job(
            tasks.extend(
                model.grid,
                case.clip.video[: case.given],
                direction="forward",
                frames=len(case.clip.video) - case.given,
                context=case.given,
                fps=case.clip.fps,
            ),
            case.clip.captions["detailed"],
            seed=index,
        )
        for index, case in enumerate(cases)
    ]
    sampling = generator.SamplingConfig(recipe.solver_steps, recipe.guidance)
    return [np.asarray(video) for video in model(jobs, sampling)]


def make(output: pathlib.Path, *, config: worlds.WorldRecipe) -> scoreboard.Claim:
    """The claim, from data to figures.

    Raises:
      ValueError: no held-out clip has an occlusion that can be read.
    """
    recipe, folder = config, output / NAME
    folder.mkdir(parents=True, exist_ok=True)
    workdir = worlds.train(recipe, folder / "bodies")
    model = generator.Generator.load(workdir)
    step, least = model.grid.frame_step, model.grid.min_frames
    found = [
        occlusion(clip, step=step, least=least) for clip in worlds.held_out(recipe)
    ]
    cases = [case for case in found if case is not None][:MOST]
    if not cases:
        raise ValueError(f"none of {len(found)} clips has an occlusion; give more")
    videos = continued(model, cases, recipe=recipe)
    clips = [case.clip for case in cases]
    decoded = worlds.reconstructions(model.model.autoencoder, clips)
    rows = [
        strips.Row(video, np.arange(len(video)) < case.given)
        for video, case in list(zip(videos, cases, strict=True))[:8]
    ]
    strips.sheet(folder / "clips.png", rows, frames=9, scale=1)
    return scoreboard.Claim(
        NAME,
        CLAIM,
        "",
        tuple(figures(videos, cases, decoded=decoded)),
        pictures=(("clips.png", "grey: given frames; blue: generated ones"),),
        notes=(
            f"{len(cases)} of the first {len(found)} clips hide a body that is read "
            "before",
            *worlds.training_notes(recipe),
        ),
        flops=worlds.training_flops(workdir),
    )


def main(argv: Sequence[str] | None = None) -> int:
    return scoreboard.run_claim(
        NAME, make, full=RECIPE, quick=QUICK, doc=__doc__, argv=argv
    )


if __name__ == "__main__":
    sys.exit(main())
