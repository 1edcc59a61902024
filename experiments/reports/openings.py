"""Three openings that lead to one ending, and one opening with three endings.

    python -m experiments.reports.openings --checkpoint VIDEO [--output openings.png]

Sora's report extends a clip backwards three times, from different beginnings to the
same end. Here a clip of the world is extended backwards, and another forwards, each
with three prompts or seeds. The picture has a row for every result, given frames
underlined in grey and generated ones in blue; a JSON line for each has

    shared       fraction of given pixels that are equal in all three             (1)
    different    least RMS difference of two generated parts, in 8-bit levels     (2)
"""

import dataclasses
import itertools
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from data_pipelines.worlds import bodies
from experiments.plots import strips
from soraflax.cli import parser as cli
from soraflax.generation import generator, tasks

FRAMES, SHOWN, SCALE = 17, 9, 1
SIZE = (64, 64)
WORLD = dataclasses.replace(
    bodies.VARIANTS["demo"],
    sizes=(SIZE,),
    frames=(FRAMES,),
    image_share=0.0,
    colours=("red",),
    shapes=("circle",),
    backgrounds=("white",),
    object_sizes=("large",),
)


@dataclasses.dataclass(frozen=True)
class Family:
    """Three results that extend the same clip.

    Attributes:
      name: title of the figure.
      direction: direction in which the clip is extended.
      videos: uint8 `[T, H, W, 3]`.
      given: `[T]` bool, the frames of the clip.
      labels: prompts of the three.
    """

    name: str
    direction: Literal["forward", "backward"]
    videos: Sequence[np.ndarray]
    given: np.ndarray
    labels: Sequence[str]

    def figures(self) -> dict[str, Any]:
        """Equations (1) and (2)."""
        pairs = list(itertools.combinations(self.videos, 2))
        same = [(a[self.given] == b[self.given]).all(axis=-1).mean() for a, b in pairs]
        differences = [a[~self.given].astype(float) - b[~self.given] for a, b in pairs]
        return {
            "figure": self.name,
            "shared": round(float(min(same)), 4),
            "different": round(
                float(min(np.sqrt(np.mean(d**2)) for d in differences)), 2
            ),
        }


def clip(direction: str, seed: int) -> bodies.RenderedClip:
    """A clip of a red circle that moves in a direction, or stays 'still'."""
    world = dataclasses.replace(WORLD, directions=(direction,))
    return bodies.render_clip(seed, 0, config=world)


def families(
    model: generator.Generator, sampling: generator.SamplingConfig, *, seed: int
) -> list[Family]:
    """Both families, sampled in one call."""
    grid, fps = model.grid, model.model.config.reference_fps
    still = clip("still", seed)
    step = grid.frame_step
    first, last = grid.min_frames, step
    more = FRAMES - first
    before = FRAMES - last
    heads = tasks.extend(
        grid,
        still.video[:first],
        direction="forward",
        frames=more,
        context=first,
        fps=fps,
    )
    tails = tasks.extend(
        grid,
        still.video[-last:],
        direction="backward",
        frames=before,
        context=last,
        fps=fps,
    )
    texts = [
        f"a large red circle moves {direction} on a white background"
        for direction in ("left", "right", "up")
    ]
    jobs = [
        generator.Job(given, text, seed=seed + index)
        for given in (tails, heads)
        for index, text in enumerate(texts)
    ]
    videos = model(jobs, sampling)
    return [
        Family(
            "three openings, one ending",
            "backward",
            videos[:3],
            np.arange(FRAMES) >= before,
            texts,
        ),
        Family(
            "one opening, three endings",
            "forward",
            videos[3:],
            np.arange(FRAMES) < first,
            texts,
        ),
    ]


def draw(path: pathlib.Path, results: Sequence[Family]) -> None:
    """A row for every result."""
    rows = [
        strips.Row(video, family.given, label=f"{family.name}\n{label}")
        for family in results
        for video, label in zip(family.videos, family.labels, strict=True)
    ]
    strips.sheet(path, rows, frames=SHOWN, scale=SCALE)


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(
        prog="python -m experiments.reports.openings", description=__doc__
    )
    add = parser.add_argument
    add("--checkpoint", type=pathlib.Path, required=True, help="a trained VIDEO folder")
    add("--output", type=pathlib.Path, default=pathlib.Path("openings.png"))
    add("--seed", type=int, default=0)
    add("--steps", type=cli.positive_int, default=30)
    add("--guidance", type=float, default=2.0)
    options = parser.parse_args(argv)

    def run() -> None:
        sampling = generator.SamplingConfig(options.steps, options.guidance)
        model = generator.Generator.load(options.checkpoint)
        results = families(model, sampling, seed=options.seed)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        draw(options.output, results)
        for family in results:
            print(json.dumps(family.figures()))
        print(f"picture: {options.output}", file=sys.stderr)

    return cli.run_command("openings", run)


if __name__ == "__main__":
    sys.exit(main())
