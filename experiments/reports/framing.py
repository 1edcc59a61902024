"""Native sizes against square crops: is the subject whole?

    python -m experiments.reports.framing [--quick] [--output report]

Two models of one size are trained for the same FLOPs on the same clips of three aspect
ratios, with the same captions: one on the clips as they are, the other on the middle
square of each, which cuts bodies that move near the ends of a wide or a high frame.
Both are prompted for every aspect ratio with the same held-out prompts and seeds. The
judge reads

    whole        a body is seen, and in no frame does an edge cut one             (1)
    attributes   the share of attributes that agree with the prompt               (2)

Chance of (1) is the other side, the model of squares; of (2) it is every video held
against all other prompts. The ceiling is real renders of that size through the
autoencoder.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data_pipelines.worlds import bodies, judge
from experiments import demo
from experiments.plots import strips
from experiments.reports import budgets, scoreboard, sizes, worlds
from experiments.scaling import sweep
from soraflax.generation import generator

NAME = "framing"
CLAIM = "Training at native sizes frames better than training on square crops."
POLICIES = ("native", "square")
WORLD = bodies.VARIANTS["videos"]


@dataclasses.dataclass(frozen=True)
class FramingConfig:
    """Sizes of the report.

    Attributes:
      budget: FLOPs of each model.
      clips: clips of the data, which both models see.
      held_out: clips of its validation split.
      rows: packed rows of a batch.
      prompts: at every size.
      steps: solver steps.
      guidance: guidance scale.
      size: argument of the configuration; 'tiny' for tests.
    """

    budget: float = 4e13
    clips: int = 12_000
    held_out: int = 64
    rows: int = 16
    prompts: int = 32
    steps: int = 20
    guidance: float = 2.0
    size: str = "small"


QUICK = FramingConfig(budget=4e12, clips=400, held_out=16, rows=8, prompts=8, steps=10)


def square(clip: bodies.RenderedClip) -> bodies.RenderedClip:
    """The middle square of a clip; its captions stay."""
    height, width = clip.video.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    video = clip.video[:, top : top + side, left : left + side]
    return dataclasses.replace(clip, video=video)


def is_cut(clip: bodies.RenderedClip) -> bool:
    """Whether the middle square of a clip cuts a body in any frame, by its truth."""
    side = min(clip.truth["width"], clip.truth["height"])
    for place, extent, length in (("x", "width", "width"), ("y", "height", "height")):
        low = (clip.truth[length] - side) / 2
        for body in clip.truth["objects"]:
            middle, half = np.array(body[place]), np.array(body[extent]) / 2
            if (middle - half < low).any() or (middle + half > low + side).any():
                return True
    return False


def data(folder: pathlib.Path, policy: str, *, config: FramingConfig) -> pathlib.Path:
    """Latents of a policy in `folder`, made where they are not there yet."""

    def clips(
        stream: int, count: int, *, holdout: str
    ) -> Iterator[bodies.RenderedClip]:
        world = dataclasses.replace(WORLD, holdout=holdout)
        for index in range(count):
            clip = bodies.render_clip(stream, index, config=world)
            yield square(clip) if policy == "square" else clip

    return budgets.rendered_data(
        folder,
        f"framing-{policy}",
        clips={
            "train": clips(0, config.clips, holdout="exclude"),
            "validation": clips(1, config.held_out, holdout="only"),
        },
        about={"world": dataclasses.asdict(WORLD), "policy": policy},
        size=config.size,
    )


def is_whole(video: np.ndarray) -> bool:
    """Equation (1)."""
    reading = judge.read(video)
    return reading["count"] > 0 and reading.get("framing") == "inside"


def generate(
    model: generator.Generator, *, config: FramingConfig
) -> dict[tuple[int, int], list[np.ndarray]]:
    """Videos of the held-out prompts at every size."""
    sampling = generator.SamplingConfig(config.steps, config.guidance)
    made = {}
    for size in WORLD.sizes:
        jobs = [
            model.prompt(text, size=size, frames=sizes.FRAMES, seed=index)
            for index, (text, _) in enumerate(asked(config))
        ]
        made[size] = [np.asarray(video) for video in model(jobs, sampling)]
    return made


def asked(config: FramingConfig) -> list[tuple[str, dict[str, Any]]]:
    """Held-out prompts and their attributes."""
    world = dataclasses.replace(WORLD, holdout="only")
    return bodies.prompts(demo.HELD_OUT_SEED, config.prompts, config=world)


def figures(
    made: dict[str, dict[tuple[int, int], list[np.ndarray]]],
    *,
    real: dict[tuple[int, int], list[np.ndarray]],
    expected: Sequence[dict[str, Any]],
) -> list[scoreboard.Figure]:
    """(1) and (2) of both policies at every size.

    Args:
      made: policy to size to videos.
      real: renders of every size through the autoencoder.
      expected: attributes of the prompts.
    """
    whole = {
        policy: {
            size: [is_whole(video) for video in videos] for size, videos in of.items()
        }
        for policy, of in made.items()
    }

    def wide(policy: str) -> list[float]:
        """Of all sizes but the square one."""
        return [
            float(x)
            for size, found in whole[policy].items()
            if size[0] != size[1]
            for x in found
        ]

    found = [
        scoreboard.difference(
            "subject whole, wide and high frames: native less square",
            wide("native"),
            theirs=wide("square"),
        )
    ]
    for size in real:
        best = float(np.mean([is_whole(video) for video in real[size]]))
        chance = float(np.mean(whole["square"][size]))
        for policy in POLICIES:
            found.append(
                scoreboard.share(
                    f"{size[0]}x{size[1]} {policy}: subject whole",
                    whole[policy][size],
                    chance=chance if policy == "native" else None,
                    ceiling=best,
                )
            )
            own, others = sizes.agreements(made[policy][size], expected)
            found.append(
                scoreboard.mean(
                    f"{size[0]}x{size[1]} {policy}: attributes",
                    own,
                    chance=float(np.mean(others)) if others else None,
                )
            )
    return found


def make(
    output: pathlib.Path,
    *,
    config: FramingConfig,
    run: sweep.Run = sweep.train_here,
) -> scoreboard.Claim:
    """The claim, from nothing; what was trained before is left alone."""
    folder = output / NAME
    made, spent, encoder = {}, 0.0, None
    for policy in POLICIES:
        where = folder / policy
        where.mkdir(parents=True, exist_ok=True)
        workdir = budgets.train(
            where / "video",
            data(where, policy, config=config),
            budget=config.budget,
            rows=config.rows,
            size=config.size,
            run=run,
        )
        spent += worlds.training_flops(workdir)
        model = generator.Generator.load(workdir)
        encoder = model.model.autoencoder
        made[policy] = generate(model, config=config)
    assert encoder is not None
    real = {}
    for size in WORLD.sizes:
        renders = demo.real_renders(
            dataclasses.replace(WORLD, sizes=(size,)),
            config.prompts,
            frames=sizes.FRAMES,
        )
        real[size] = [demo.reconstruct(encoder, clip.video) for clip in renders]
    draw(folder / "framing.png", made, texts=[text for text, _ in asked(config)])
    expected = [wanted for _, wanted in asked(config)]
    return scoreboard.Claim(
        NAME,
        CLAIM,
        "",
        tuple(figures(made, real=real, expected=expected)),
        pictures=(
            (
                "framing.png",
                "same prompt and seed: the model of native sizes above that of squares",
            ),
        ),
        notes=(
            _cut_note(config),
            "one training seed of each",
            "bodies of so little training are blurred and come apart: the figures "
            "compare two models, neither is good",
        ),
        flops=spent,
    )


def _cut_note(config: FramingConfig) -> str:
    world = dataclasses.replace(WORLD, holdout="exclude")
    count = min(200, config.clips)
    cut = [is_cut(bodies.render_clip(0, index, config=world)) for index in range(count)]
    return f"square crops cut the body in {np.mean(cut):.0%} of {count} training clips"


def draw(
    path: pathlib.Path,
    made: dict[str, dict[tuple[int, int], list[np.ndarray]]],
    *,
    texts: Sequence[str],
) -> None:
    """Two prompts at every size, one policy above the other."""
    rows = []
    for index, text in list(enumerate(texts))[:2]:
        for size in WORLD.sizes:
            for policy in POLICIES:
                video = made[policy][size][index]
                label = f"{policy}, {size[0]}x{size[1]}: {text}"
                rows.append(strips.Row(video, np.zeros(len(video), bool), label))
    strips.sheet(path, rows, frames=6, scale=1)


def main(argv: Sequence[str] | None = None) -> int:
    return scoreboard.run_claim(
        NAME, make, full=FramingConfig(), quick=QUICK, doc=__doc__, argv=argv
    )


if __name__ == "__main__":
    sys.exit(main())
