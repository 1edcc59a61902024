"""Joint training on images and video: video only, images only, both, same compute.

    python -m experiments.reports.joint [--quick] [--output report]

Three models of one size are trained for the same FLOPs on clips, on images, and on both
mixed, and prompted for clips and for images of combinations that none has seen. The
judge reads both. The claim holds where the mixed model's clips obey no less, and its
images show no less, than those of the models that saw nothing else; the figures are
shares of attributes, the first the mixed model's less the video model's on clips.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.worlds import bodies
from experiments import demo
from experiments.configs import bodies as bodies_config
from experiments.reports import budgets, scoreboard, sizes, worlds
from experiments.scaling import sweep
from soraflax.generation import generator
from soraflax.pretrained import shipped

NAME = "joint"
CLAIM = "Training on images and videos together serves both."
ALLOWED_LOSS = 0.05  # of the share of attributes on clips, that "no less" allows


@dataclasses.dataclass(frozen=True)
class JointConfig:
    """Sizes of the report.

    Attributes:
      budget: FLOPs of each model.
      clips: clips of each data set.
      rows: packed rows of a batch.
      prompts: of clips, and of images.
      steps: solver steps.
      guidance: guidance scale.
    """

    budget: float = 4e13
    clips: int = 12_000
    rows: int = 16
    prompts: int = 48
    steps: int = 20
    guidance: float = 2.0


QUICK = JointConfig(budget=3e11, clips=200, prompts=6, steps=6)


def train(
    folder: pathlib.Path,
    modality: str,
    *,
    config: JointConfig,
    autoencoder: pathlib.Path,
    run: sweep.Run = sweep.train_here,
) -> pathlib.Path:
    """The model of a modality; its work folder.

    Raises:
      ValueError: its training failed.
    """
    where = folder / modality
    values: Any = bodies_config.get_config()
    data = sweep.make_data(
        where, modality, clips=config.clips, autoencoder=autoencoder, values=values
    )
    return budgets.train(
        where,
        data,
        budget=config.budget,
        rows=config.rows,
        autoencoder=autoencoder,
        run=run,
    )


def read(
    model: generator.Generator, *, config: JointConfig, images: bool
) -> tuple[list[bool], list[bool]]:
    """Attributes that clips or images show, of their own prompts and of others'."""
    world = dataclasses.replace(bodies.VARIANTS["demo"], holdout="only")
    asked = bodies.prompts(
        demo.HELD_OUT_SEED + images, config.prompts, config=world, images=images
    )
    jobs = [
        model.prompt(text, size=(64, 64), frames=1 if images else 17, seed=index)
        for index, (text, _) in enumerate(asked)
    ]
    videos = model(jobs, generator.SamplingConfig(config.steps, config.guidance))
    return sizes.agreements(
        [np.asarray(video) for video in videos], [wanted for _, wanted in asked]
    )


def to_claim(
    rows: dict[tuple[str, str], tuple[list[bool], list[bool]]], *, training_flops: float
) -> scoreboard.Claim:
    """Figures of what each modality's model shows of clips and of images.

    Args:
      rows: (modality, 'clips' or 'images') to agreements, own and others'.
      training_flops: of all models.
    """
    both, video = (
        [float(x) for x in rows[name, "clips"][0]] for name in ("both", "video")
    )
    first = scoreboard.difference(
        f"clips: both less video only (no less: above -{ALLOWED_LOSS})",
        both,
        theirs=video,
    )
    figures = [dataclasses.replace(first, chance=-ALLOWED_LOSS)]
    both, image = (
        [float(x) for x in rows[name, "images"][0]] for name in ("both", "images")
    )
    second = scoreboard.difference("images: both less images only", both, theirs=image)
    figures.append(dataclasses.replace(second, chance=-ALLOWED_LOSS))
    for (modality, kind), (own, others) in rows.items():
        chance = float(np.mean(others))
        figures.append(
            scoreboard.share(f"{kind} of a model of {modality}", own, chance=chance)
        )
    return scoreboard.Claim(NAME, CLAIM, "", tuple(figures), flops=training_flops)


def make(output: pathlib.Path, *, config: JointConfig) -> scoreboard.Claim:
    """The claim, from nothing; what was trained before is left alone."""
    folder = output / NAME
    rows, spent = {}, 0.0
    for modality in sweep.MODALITIES:
        (folder / modality).mkdir(parents=True, exist_ok=True)
        workdir = train(
            folder,
            modality,
            config=config,
            autoencoder=shipped.folder() / "autoencoder",
        )
        spent += worlds.training_flops(workdir)
        model = generator.Generator.load(workdir)
        for images in (False, True):
            kind = "images" if images else "clips"
            rows[modality, kind] = read(model, config=config, images=images)
    return to_claim(rows, training_flops=spent)


def main(argv: Sequence[str] | None = None) -> int:
    options = scoreboard.make_parser(NAME, __doc__).parse_args(argv)
    config = QUICK if options.quick else JointConfig()
    return scoreboard.run_report(
        NAME,
        lambda: dataclasses.replace(
            make(options.output, config=config), quick=options.quick
        ),
        output=options.output,
        command=f"python -m experiments.reports.{NAME}",
    )


if __name__ == "__main__":
    sys.exit(main())
