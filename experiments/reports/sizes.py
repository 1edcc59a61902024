"""Any size: one model over a sweep of aspect ratios and sizes, judged at each.

    python -m experiments.reports.sizes [--checkpoint VIDEO] [--quick]

The same held-out prompts are made at every size, from the smallest to the largest, with
the same seeds; the judge reads all attributes back. A size is *inside* where the model
was trained on it (its configuration says which) and *outside* where it was not. The
picture has the same prompt small, then large. Chance is every video held against all
other prompts, the ceiling real renders of that size through the autoencoder.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.worlds import bodies, judge
from experiments import demo
from experiments.plots import strips
from experiments.reports import scoreboard
from soraflax.generation import generator
from soraflax.pretrained import training_data

NAME = "sizes"
CLAIM = (
    "One model samples any size and aspect ratio, so that content can be prototyped "
    "small before it is made large."
)
SIZES = (
    *((48, 48), (64, 64), (96, 64), (64, 96)),
    *((112, 64), (64, 112), (128, 64), (64, 128), (96, 96)),
)
FRAMES = 17


@dataclasses.dataclass(frozen=True)
class SizesConfig:
    """Sizes of the report.

    Attributes:
      sizes: (width, height) of each sweep.
      prompts: held-out prompts at every size.
      steps: solver steps.
      guidance: guidance scale.
      frames: length of every clip.
    """

    sizes: tuple[tuple[int, int], ...] = SIZES
    prompts: int = 32
    steps: int = 20
    guidance: float = 2.0
    frames: int = FRAMES


QUICK = SizesConfig(sizes=((64, 64), (96, 64), (48, 48)), prompts=6, steps=6)


def agreements(
    videos: Sequence[np.ndarray], expected: Sequence[dict[str, Any]]
) -> tuple[list[float], list[float]]:
    """The share of attributes that agree, of each video with its prompt and others'.

    A video is one trial, whose attributes are right or wrong together: intervals are
    over videos.
    """
    own, others = [], []
    for index, video in enumerate(videos):
        reading = judge.read(video)
        for other, wanted in enumerate(expected):
            tally = own if other == index else others
            if agrees := list(judge.agreement(reading, wanted).values()):
                tally.append(float(np.mean(agrees)))
    return own, others


def is_inside(size: tuple[int, int], known: training_data.TrainingData | None) -> bool:
    """Whether sides and aspect ratio are within those that a model was trained on."""
    if known is None:
        return False
    width, height = size
    within = known.sides[0] <= min(size) and max(size) <= known.sides[1]
    return within and known.aspects[0] <= width / height <= known.aspects[1]


def measure(
    model: generator.Generator, config: SizesConfig
) -> tuple[list[scoreboard.Figure], dict[tuple[int, int], list[np.ndarray]]]:
    """A figure and the videos of every size."""
    world = dataclasses.replace(bodies.VARIANTS["demo"], holdout="only")
    asked = bodies.prompts(demo.HELD_OUT_SEED, config.prompts, config=world)
    sampling = dataclasses.replace(
        model.sampling, steps=config.steps, guidance=config.guidance
    )
    figures, made = [], {}
    known = model.model.config.trained_on
    for size in config.sizes:
        jobs = [
            model.prompt(text, size=size, frames=config.frames, seed=index)
            for index, (text, _) in enumerate(asked)
        ]
        made[size] = [np.asarray(video) for video in model(jobs, sampling)]
        own, others = agreements(made[size], [wanted for _, wanted in asked])
        renders = demo.real_renders(
            dataclasses.replace(world, sizes=(size,)),
            config.prompts,
            frames=config.frames,
        )
        best, _ = agreements(
            [demo.reconstruct(model.model.autoencoder, c.video) for c in renders],
            [
                {k: v for k, v in c.truth["attributes"].items() if k in asked[0][1]}
                for c in renders
            ],
        )
        where = "inside" if is_inside(size, known) else "outside"
        figures.append(
            scoreboard.mean(
                f"attributes at {size[0]}x{size[1]}, {where}",
                own,
                chance=float(np.mean(others)),
                ceiling=float(np.mean(best)),
            )
        )
    return figures, made


def make(
    output: pathlib.Path, model: generator.Generator, *, config: SizesConfig
) -> scoreboard.Claim:
    """The claim of a trained model; the figure that decides is its worst outside."""
    folder = output / NAME
    folder.mkdir(parents=True, exist_ok=True)
    figures, made = measure(model, config)
    outside = [figure for figure in figures if figure.name.endswith("outside")]
    worst = min(outside or figures, key=lambda figure: figure.value)
    figures.sort(key=lambda figure: figure is not worst)
    rows = [
        strips.Row(made[size][0], np.zeros(config.frames, bool), f"{size[0]}x{size[1]}")
        for size in sorted(config.sizes, key=lambda size: size[0] * size[1])
    ]
    strips.sheet(folder / "sizes.png", rows, frames=6, scale=1)
    return scoreboard.Claim(
        NAME,
        CLAIM,
        "",
        tuple(figures),
        pictures=(("sizes.png", "one prompt and seed, from the smallest size up"),),
        notes=("the largest here is 128 pixels: no model of 1080 lines was trained",),
    )


def main(argv: Sequence[str] | None = None) -> int:
    return scoreboard.run_of_model(
        NAME, make, full=SizesConfig(), quick=QUICK, doc=__doc__, argv=argv
    )


if __name__ == "__main__":
    sys.exit(main())
