"""A model of one world, and its clips of combinations it never saw.

What the reports of emergence share: the data, both stages of training as `soraflax
train` runs them (finished ones are left alone, stopped ones resumed), clips of held-out
prompts, and each attribute's share beside chance and ceiling as `scoring` defines them.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data_pipelines import prepare
from data_pipelines.worlds import bodies, measure
from experiments import demo
from experiments.plots import strips
from experiments.reports import scoreboard
from experiments.scaling import sweep
from soraflax.cli import parser as cli
from soraflax.generation import generator
from soraflax.pretrained import models, shipped
from soraflax.train import metrics

HELD_OUT_STREAM = 1_000_003


@dataclasses.dataclass(frozen=True)
class WorldRecipe:
    """Sizes of a report on a world.

    Attributes:
      world: a key of `measure.JUDGES`.
      variant: of the world.
      clips: clips of the training data.
      autoencoder_steps: of the world's own autoencoder; 0 for the shipped one.
      steps: of the transformer.
      continued: whether it is the shipped one that is trained on, not one from nothing.
      prompts: held-out prompts, and real renders for the ceiling.
      solver_steps: of sampling.
      guidance: guidance scale.
      size: argument of the configurations; 'tiny' for tests.
      flags: further words of the transformer's training.
    """

    world: str
    variant: str = "demo"
    clips: int = 8000
    autoencoder_steps: int = 2000
    steps: int = 6000
    continued: bool = False
    prompts: int = 64
    solver_steps: int = 20
    guidance: float = 2.0
    size: str = "small"
    flags: tuple[str, ...] = ()

    def quick(self) -> "WorldRecipe":
        """The quick form: the shipped model, trained on for a minute."""
        return dataclasses.replace(
            self,
            clips=320,
            autoencoder_steps=0,
            steps=120,
            continued=True,
            prompts=12,
            solver_steps=10,
        )


def train(
    recipe: WorldRecipe, folder: pathlib.Path, *, run: sweep.Run = sweep.train_here
) -> pathlib.Path:
    """Data, autoencoder and transformer in `folder`; the transformer's work folder.

    Raises:
      ValueError: a stage failed.
      KeyboardInterrupt: a stage was interrupted.
    """
    dataset = folder / "dataset"
    if not dataset.exists():
        prepare.prepare_world(
            recipe.world,
            dataset,
            variant=recipe.variant,
            count=recipe.clips,
            validation=prepare.ValidationSplit(
                count=max(2, min(64, recipe.clips // 10))
            ),
        )
    for name, words in stages(recipe, folder).items():
        workdir = folder / name
        if (workdir / "result.json").is_file():
            continue
        status = run([*words, f"--workdir={workdir}"])
        if status == cli.EXIT_INTERRUPTED:
            raise KeyboardInterrupt("the same command goes on")
        if status:
            raise ValueError(
                f"{name} of {recipe.world} failed; the same command resumes"
            )
    return folder / "video"


def stages(recipe: WorldRecipe, folder: pathlib.Path) -> dict[str, list[str]]:
    """The words after `soraflax train` of each stage, on the data in `folder`."""
    argument = "" if recipe.size == "small" else f":{recipe.size}"
    data = f"--config.data.path={folder / 'dataset'}"
    made, encoder = {}, shipped.folder() / "autoencoder"
    if recipe.autoencoder_steps:
        encoder = folder / "autoencoder"
        made["autoencoder"] = [
            f"--config=autoencoder_small{argument}",
            data,
            f"--config.train.steps={recipe.autoencoder_steps}",
        ]
    start = [f"--config=bodies{argument}", f"--config.autoencoder={encoder}"]
    if recipe.continued:
        start = [
            f"--config=bodies_longer{argument}",
            f"--config.base={shipped.folder()}",
        ]
    # Captions of these worlds are longer than those of `bodies`.
    fields = sweep.schedule(recipe.steps) | {
        "data.row.text": 256,
        "data.captions.max_length": 96,
        "evaluation.words": "()",
    }
    words = [f"--config.{name}={value}" for name, value in fields.items()]
    made["video"] = [*start, data, *words, *recipe.flags]
    return made


def training_notes(recipe: WorldRecipe) -> list[str]:
    """What the model of a recipe is, where it is not one from nothing."""
    if not recipe.continued:
        return []
    return [f"the shipped model, trained on for {recipe.steps} steps on this world"]


def training_flops(workdir: pathlib.Path) -> float:
    """Model FLOPs of a finished stage."""
    lines = [line for line in metrics.read(workdir) if "training_flops" in line]
    return lines[-1]["training_flops"]


def held_out(recipe: WorldRecipe, **fields: Any) -> list[bodies.RenderedClip]:
    """Clips of combinations never trained on; their captions are the prompts.

    Args:
      recipe: the world and how many.
      **fields: of the world's configuration, in place of its own.
    """
    world, _ = measure.JUDGES[recipe.world]
    variant = world.VARIANTS[recipe.variant]
    config = dataclasses.replace(variant, holdout="only", **fields)
    return [
        world.render_clip(HELD_OUT_STREAM, index, config=config)
        for index in range(recipe.prompts)
    ]


def generate(
    model: generator.Generator,
    clips: Sequence[bodies.RenderedClip],
    *,
    recipe: WorldRecipe,
) -> list[np.ndarray]:
    """A video for the caption of each clip, of its size, length and rate."""
    jobs = [
        model.prompt(
            clip.captions["detailed"],
            size=(clip.video.shape[2], clip.video.shape[1]),
            frames=len(clip.video),
            fps=clip.fps,
            seed=index,
        )
        for index, clip in enumerate(clips)
    ]
    sampling = generator.SamplingConfig(recipe.solver_steps, recipe.guidance)
    return [np.asarray(video) for video in model(jobs, sampling)]


def reconstructions(
    encoder: models.AutoencoderModel, clips: Sequence[bodies.RenderedClip]
) -> list[np.ndarray]:
    """Real renders through the autoencoder: what the ceiling is measured on."""
    return [demo.reconstruct(encoder, clip.video) for clip in clips]


def shares(
    videos: Sequence[np.ndarray],
    clips: Sequence[bodies.RenderedClip],
    *,
    world: str,
    decoded: Sequence[np.ndarray] = (),
) -> list[scoreboard.Figure]:
    """Of each attribute, the share of videos that show what their prompt says.

    Only attributes that the clip's own pixels hold count, so that the ceiling is of
    the same ones. Chance is every video held against all other prompts.
    """
    _, judge = measure.JUDGES[world]
    expected = [
        {k: v for k, v in clip.truth["attributes"].items() if clip.truth["visible"][k]}
        for clip in clips
    ]
    readings = [judge.read(video) for video in videos]
    own = [judge.agreement(r, e) for r, e in zip(readings, expected, strict=True)]
    others: dict[str, list[bool]] = {}
    for index, reading in enumerate(readings):
        for other, wanted in enumerate(expected):
            if other != index:
                for name, agrees in judge.agreement(reading, wanted).items():
                    others.setdefault(name, []).append(agrees)
    best = [
        judge.agreement(judge.read(video), wanted)
        for video, wanted in zip(decoded, expected, strict=False)
    ]
    names = sorted({name for row in own for name in row})
    return [
        scoreboard.share(
            name,
            [row[name] for row in own if name in row],
            chance=float(np.mean(others.get(name, [np.nan]))),
            ceiling=_mean([row[name] for row in best if name in row]),
        )
        for name in names
    ]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def draw(
    path: pathlib.Path,
    videos: Sequence[np.ndarray],
    *,
    clips: Sequence[bodies.RenderedClip],
    shown: int = 6,
) -> None:
    """Generated clips, each above the real render of its caption."""
    rows = []
    for video, clip in list(zip(videos, clips, strict=True))[:shown]:
        generated = np.zeros(len(video), bool)
        rows.append(strips.Row(video, generated, label=clip.captions["detailed"]))
        rows.append(strips.Row(clip.video, ~np.zeros(len(clip.video), bool)))
    strips.sheet(path, rows, frames=8, scale=1)


Extra = Callable[
    [Sequence[np.ndarray], Sequence[bodies.RenderedClip], Sequence[np.ndarray]],
    list[scoreboard.Figure],
]


def make_claim(
    name: str,
    *,
    claim: str,
    recipe: WorldRecipe,
    folder: pathlib.Path,
    extra: Extra,
    deciding: str,
    run: sweep.Run = sweep.train_here,
) -> scoreboard.Claim:
    """Train, generate, read: the claim of a world.

    Args:
      name: of the report.
      claim: its sentence.
      recipe: sizes.
      folder: the report's folder; `WORLD/` in it holds data and runs.
      extra: figures beside the attributes', of videos, clips and reconstructions.
      deciding: name of the figure that decides; it comes first.
      run: trains a stage.
    """
    folder.mkdir(parents=True, exist_ok=True)
    workdir = train(recipe, folder / recipe.world, run=run)
    model = generator.Generator.load(workdir)
    clips = held_out(recipe)
    videos = generate(model, clips, recipe=recipe)
    decoded = reconstructions(model.model.autoencoder, clips)
    figures = shares(videos, clips, world=recipe.world, decoded=decoded)
    figures += extra(videos, clips, decoded)
    figures.sort(key=lambda figure: figure.name != deciding)
    draw(folder / "clips.png", videos, clips=clips)
    return scoreboard.Claim(
        name=name,
        claim=claim,
        command="",
        figures=tuple(figures),
        pictures=(
            (
                "clips.png",
                "blue: generated; grey below: the real render of the caption",
            ),
        ),
        notes=tuple(training_notes(recipe)),
        flops=training_flops(workdir),
    )
