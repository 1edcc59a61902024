"""Joint training on images and video: video only, images only, both, same compute.

    python -m experiments.reports.joint [--quick] [--output report]

Three models of one size are trained for the same FLOPs on clips, on images, and on both
mixed, and prompted for clips and for images of combinations that none has seen. The
judge reads both. The claim holds where the mixed model's clips obey no less, and its
images show no less, than those of the models that saw nothing else: of these two
differences of shares of attributes the worse decides.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.worlds import bodies
from experiments import demo
from experiments.plots import strips
from experiments.reports import budgets, scoreboard, sizes, worlds
from experiments.scaling import sweep
from soraflax.generation import generator

NAME = "joint"
CLAIM = "Training on images and videos together serves both."
PICTURE, SHOWN = "joint.png", 3
ALLOWED_LOSS = 0.05  # of the share of attributes on clips, that "no less" allows


@dataclasses.dataclass(frozen=True)
class JointConfig:
    """Sizes of the report.

    Attributes:
      budget: FLOPs of each model.
      clips: clips of each data set.
      rows: packed rows of a batch.
      prompts: of clips.
      image_prompts: of images; the world holds 18 that no model has seen.
      image_samples: images of each of these.
      steps: solver steps.
      guidance: guidance scale.
    """

    budget: float = 4e13
    clips: int = 12_000
    rows: int = 16
    prompts: int = 48
    image_prompts: int = 18
    image_samples: int = 3
    steps: int = 20
    guidance: float = 2.0


QUICK = JointConfig(
    budget=3e12, clips=400, rows=8, prompts=12, image_samples=1, steps=10
)


@dataclasses.dataclass(frozen=True)
class Reading:
    """What the judge reads of a model's clips or images.

    Attributes:
      own: of every prompt, the share of attributes that is right.
      others: the same, of all other prompts.
      shown: the first of the videos.
    """

    own: Sequence[float]
    others: Sequence[float]
    shown: Sequence[np.ndarray] = ()


def world() -> bodies.WorldConfig:
    """Held-out combinations of what all models were trained on."""
    return dataclasses.replace(bodies.VARIANTS["demo"], holdout="only")


def asked(config: JointConfig, *, images: bool) -> list[tuple[str, dict[str, Any]]]:
    """Prompts of clips or of images, and their attributes.

    Raises:
      ValueError: more than the world holds.
    """
    count = config.image_prompts if images else config.prompts
    seed = demo.HELD_OUT_SEED + images
    return bodies.prompts(seed, count, config=world(), images=images)


def read(
    model: generator.Generator, *, config: JointConfig, images: bool
) -> tuple[Reading, float]:
    """Attributes that clips or images show, and the share that real renders show."""
    prompts, samples = asked(config, images=images), 1
    if images:
        samples = config.image_samples
    frames = 1 if images else sizes.FRAMES
    jobs = [
        model.prompt(text, size=(64, 64), frames=frames, seed=index)
        for index, (text, _) in enumerate(prompts * samples)
    ]
    made = model(jobs, generator.SamplingConfig(config.steps, config.guidance))
    videos = [np.asarray(video) for video in made]
    wanted = [attributes for _, attributes in prompts]
    rounds = [videos[i :: len(prompts)] for i in range(len(prompts))]
    readings = [sizes.agreements(each, wanted) for each in zip(*rounds, strict=True)]
    own = np.mean([right for right, _ in readings], axis=0)  # of each prompt
    others = [right for _, rest in readings for right in rest]
    renders = demo.real_renders(
        dataclasses.replace(world(), sizes=((64, 64),)), len(prompts), frames=frames
    )
    names = wanted[0]
    best, _ = sizes.agreements(
        worlds.reconstructions(model.model.autoencoder, renders),
        [
            {k: v for k, v in clip.truth["attributes"].items() if k in names}
            for clip in renders
        ],
    )
    shown = videos[: len(prompts)][:SHOWN]
    return Reading(own.tolist(), others, shown), float(np.mean(best))


def to_claim(
    rows: dict[tuple[str, str], Reading],
    *,
    ceilings: dict[str, float],
    training_flops: float,
) -> scoreboard.Claim:
    """Figures of what each modality's model shows of clips and of images.

    Args:
      rows: (modality, 'clips' or 'images') to what was read.
      ceilings: of clips and of images.
      training_flops: of all models.
    """
    figures = []
    for kind, alone in (("clips", "video"), ("images", "images")):
        found = scoreboard.difference(
            f"{kind}: both less {alone} only (no less: above -{ALLOWED_LOSS})",
            rows["both", kind].own,
            theirs=rows[alone, kind].own,
        )
        figures.append(dataclasses.replace(found, chance=-ALLOWED_LOSS))
    figures.sort(key=lambda figure: figure.low)  # both must hold: the worse decides
    for (modality, kind), reading in rows.items():
        figures.append(
            scoreboard.mean(
                f"{kind} of a model of {modality}",
                reading.own,
                chance=float(np.mean(reading.others)),
                ceiling=ceilings.get(kind),
            )
        )
    return scoreboard.Claim(
        NAME,
        CLAIM,
        "",
        tuple(figures),
        pictures=((PICTURE, "same prompts and seeds: models of each kind of data"),),
        notes=("one training seed of each",),
        flops=training_flops,
    )


def draw(path: pathlib.Path, rows: dict[tuple[str, str], Reading]) -> None:
    """The first clips, and the first images side by side, of every model."""
    strips_ = []
    for (modality, kind), reading in rows.items():
        videos = list(reading.shown)
        if kind == "images":
            videos = [np.concatenate(videos)]
        for video in videos:
            label = f"{kind} of a model of {modality}"
            strips_.append(strips.Row(video, np.zeros(len(video), bool), label))
    strips.sheet(path, strips_, frames=7, scale=1)


def make(output: pathlib.Path, *, config: JointConfig) -> scoreboard.Claim:
    """The claim, from nothing; what was trained before is left alone."""
    for images in (False, True):
        asked(config, images=images)  # before hours of training
    folder = output / NAME
    rows, ceilings, spent = {}, {}, 0.0
    for modality in sweep.MODALITIES:
        (folder / modality).mkdir(parents=True, exist_ok=True)
        workdir = budgets.train(
            folder / modality / "video",
            budgets.shared_data(output, modality, clips=config.clips),
            budget=config.budget,
            rows=config.rows,
        )
        spent += worlds.training_flops(workdir)
        model = generator.Generator.load(workdir)
        for images in (False, True):
            kind = "images" if images else "clips"
            found, best = read(model, config=config, images=images)
            rows[modality, kind], ceilings[kind] = found, best
    draw(folder / PICTURE, rows)
    return to_claim(rows, ceilings=ceilings, training_flops=spent)


def main(argv: Sequence[str] | None = None) -> int:
    return scoreboard.run_claim(
        NAME, make, full=JointConfig(), quick=QUICK, doc=__doc__, argv=argv
    )


if __name__ == "__main__":
    sys.exit(main())
