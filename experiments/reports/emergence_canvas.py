"""Interaction leaves a trace: strokes stay on a canvas, bites in what was bitten.

    python -m experiments.reports.emergence_canvas [--quick] [--output report]

A model is trained on the world `canvas` and prompted with held-out combinations. The
judge reads what was done, and

    stays    of the pixels that changed once the tool had left, the part that is
             changed in the last frame (`canvas_judge.trace`)                      (1)
    overlap  trace pixels in the last frame over those of the real render of the same
             caption, as the smaller over the larger area                          (2)

stand beside real renders through the autoencoder. Chance of (1) is a trace that is as
likely to be gone as to be there.
"""

import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from data_pipelines.worlds import bodies, canvas_judge
from experiments.reports import scoreboard, worlds

NAME = "emergence_canvas"
CLAIM = "Actions change the state of the world: strokes persist, bites leave marks."
RECIPE = worlds.WorldRecipe("canvas")


def trace_area(video: np.ndarray) -> float:
    """Pixels of the trace in the last frame, in squared short sides."""
    _, masks = canvas_judge.paint(video)
    changed = masks[-1] ^ masks[0]
    return float(changed.sum() / min(video.shape[1:3]) ** 2)


def figures(
    videos: Sequence[np.ndarray],
    clips: Sequence[bodies.RenderedClip],
    decoded: Sequence[np.ndarray],
) -> list[scoreboard.Figure]:
    """Equations (1) and (2)."""
    real = [canvas_judge.trace(video) for video in decoded]
    areas = [
        (trace_area(v), trace_area(c.video)) for v, c in zip(videos, clips, strict=True)
    ]
    same = [trace_area(v) for v in decoded]
    ceiling = [
        min(a, b) / max(a, b, 1e-9) for a, (_, b) in zip(same, areas, strict=True)
    ]
    return [
        scoreboard.mean(
            "trace that stays",
            [canvas_judge.trace(video) for video in videos],
            chance=0.5,
            ceiling=float(np.nanmean(real)) if np.isfinite(real).any() else None,
        ),
        scoreboard.mean(
            "area of the trace, smaller over larger",
            [min(a, b) / max(a, b, 1e-9) for a, b in areas],
            ceiling=float(np.mean(ceiling)),
        ),
    ]


def make(
    output: pathlib.Path, *, config: worlds.WorldRecipe = RECIPE
) -> scoreboard.Claim:
    """The claim, from data to figures."""
    return worlds.make_claim(
        NAME,
        claim=CLAIM,
        recipe=config,
        folder=output / NAME,
        extra=figures,
        deciding="trace that stays",
    )


def main(argv: Sequence[str] | None = None) -> int:
    return scoreboard.run_claim(
        NAME, make, full=RECIPE, quick=RECIPE.quick(), doc=__doc__, argv=argv
    )


if __name__ == "__main__":
    sys.exit(main())
