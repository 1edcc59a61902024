"""The compute ladder: base, 4x, 16x and 32x, with the same seeds and the same prompts.

    python -m experiments.scaling.ladder --output LADDER --reading longer|larger

Sora's report shows samples at base, 4x and 32x compute. It can be read as one model
trained longer, or as larger models; the flag says which. *longer*: the base model takes
c times the steps. *larger*: a model of sqrt(c) times the parameters takes sqrt(c) times
the tokens. The first two rungs are trained from three seeds, the others from one.

Of every rung: judge accuracy per attribute beside chance and ceiling, the Frechet
distance of `frechet.band_features` to held-out renders, and the validation loss.
`ladder.png` has a row for every prompt and a column for every rung. Rungs are trained
as the points of a sweep are: the same command goes on where it was stopped.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_pipelines.worlds import bodies
from experiments import demo, json_values
from experiments.configs import bodies as bodies_config
from experiments.plots import strips
from experiments.reports import budgets, scoreboard, scoring
from experiments.scaling import grid, sweep
from experiments.scaling import runs as run_records
from soraflax import config as config_lib
from soraflax import flops
from soraflax.cli import parser as cli
from soraflax.evaluation import frechet
from soraflax.generation import generator
from soraflax.nn import dit

FACTORS = (1, 4, 16, 32)
SEVERAL_SEEDS = (1, 4)
READINGS = ("longer", "larger")
CLAIM = "Samples get better with training compute ({reading} reading)."
PICTURE = "ladder.png"
_TEXT = 150


@dataclasses.dataclass(frozen=True)
class LadderConfig:
    """Sizes of the ladder.

    Attributes:
      budget: FLOPs of the base rung.
      factors: compute of each rung over the base.
      seeds: number of training seeds of the small rungs.
      rows: packed rows of a batch.
      clips: clips of the data.
      prompts: prompts that every rung is judged on.
      shown: prompts in the picture.
      steps: solver steps.
      guidance: guidance scale.
      base_tokens_per_parameter: of the base rung, which decides its size.
      size: argument of the configuration; 'tiny' for tests.
    """

    budget: float = 4e12
    factors: tuple[int, ...] = FACTORS
    seeds: int = 3
    rows: int = 16
    clips: int = 12_000
    prompts: int = 48
    shown: int = 6
    steps: int = 20
    guidance: float = 2.0
    base_tokens_per_parameter: float = 20.0
    size: str = "small"


QUICK = LadderConfig(
    budget=2.5e11,
    factors=(1, 4),
    seeds=1,
    rows=8,
    clips=400,
    prompts=12,
    shown=3,
    steps=10,
)


@dataclasses.dataclass(frozen=True)
class Rung:
    """A rung from one training seed.

    Attributes:
      factor: compute over the base.
      seed: of training.
      point: model, steps and folder.
    """

    factor: int
    seed: int
    point: grid.Point


def rungs(
    config: LadderConfig,
    reading: str,
    *,
    base: dit.DiTConfig,
    rows: Sequence[flops.Lengths],
    rate: grid.LearningRate,
) -> list[Rung]:
    """Every rung and seed, small ones first.

    Raises:
      ValueError: an unknown reading, or a base too small for one step.
    """
    if reading not in READINGS:
        raise ValueError(f"reading {reading!r}: use {' or '.join(READINGS)}")
    models = grid.family(base)
    counts = np.array([flops.transformer_parameters(model) for model in models])
    least = np.sqrt(config.budget / (6 * config.base_tokens_per_parameter))
    made = []
    for factor in config.factors:
        wanted = least * (np.sqrt(factor) if reading == "larger" else 1.0)
        model = models[int(np.abs(np.log(counts / wanted)).argmin())]
        budget = factor * config.budget
        cost = config.rows * grid.row_flops(model, rows)
        steps = round(budget / cost)
        if steps < 2:
            raise ValueError(
                f"base of {config.budget:.2g} FLOPs: {steps} steps of {config.rows} "
                f"rows; use {2 * cost / factor:.1g} or more"
            )
        for seed in range(config.seeds if factor in SEVERAL_SEEDS else 1):
            point = grid.Point(
                name=f"{reading}-{factor:02d}x-seed{seed}",
                budget=budget,
                model=model,
                parameters=flops.transformer_parameters(model),
                steps=steps,
                learning_rate=rate.at(model.width),
                rows=config.rows,
            )
            made.append(Rung(factor, seed, point))
    return made


def measure(
    rung: Rung, folder: pathlib.Path, *, config: LadderConfig, renders: Sequence[Any]
) -> dict[str, Any]:
    """Figures of a trained rung, and its videos of the prompts that are shown.

    Args:
      rung: the rung.
      folder: where its work folder is.
      config: prompts, solver, guidance.
      renders: held-out clips as the world renders them.
    """
    path = folder / rung.point.name
    model = generator.Generator.load(path / "model")
    world = dataclasses.replace(bodies.VARIANTS["demo"], sizes=((64, 64),))
    videos = demo.generate(
        model,
        world,
        folder=path / "videos",
        config=demo.DemoConfig(
            videos=config.prompts,
            images=0,
            steps=config.steps,
            guidance=config.guidance,
        ),
    )
    run = run_records.read_run(path)
    made = [sample.video for sample in videos]
    scores = scoring.accuracy(made, [sample.expected for sample in videos])
    return {
        "rung": rung.point.name,
        "factor": rung.factor,
        "seed": rung.seed,
        "parameters": run.parameters,
        "flops": run.flops,
        "validation_loss": run.loss,
        "frechet": frechet_distance(made, [clip.video for clip in renders]),
        "accuracy": scores,
        "prompts": [sample.job.text for sample in videos[: config.shown]],
        "videos": made[: config.shown],
    }


def frechet_distance(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """Between two sets of uint8 videos; NaN of fewer than two on a side."""
    if min(len(ours), len(theirs)) < 2:
        return float("nan")
    features = jax.jit(frechet.band_features)
    sides = [
        frechet.moments(
            features(jnp.asarray(video[None], jnp.float32) / 127.5 - 1.0)
            for video in videos
        )
        for videos in (ours, theirs)
    ]
    return float(frechet.distance(sides[0], sides[1], too_few="allow"))


def draw(path: pathlib.Path, columns: Sequence[dict[str, Any]], *, scale: int) -> None:
    """A row for every prompt, a column of three frames for every rung."""
    prompts = columns[0]["prompts"]
    font = ImageFont.load_default(size=12)
    frames = 3
    height, width = (side * scale for side in columns[0]["videos"][0].shape[1:3])
    cell = frames * (width + 2) + 8
    sheet = Image.new(
        "RGB", (_TEXT + cell * len(columns), 20 + len(prompts) * (height + 6)), "white"
    )
    pen = ImageDraw.Draw(sheet)
    for column, found in enumerate(columns):
        left = _TEXT + column * cell
        pen.text((left, 3), f"{found['factor']}x compute", fill="black", font=font)
        for row, video in enumerate(found["videos"]):
            top = 20 + row * (height + 6)
            for place, index in enumerate(strips.chosen(len(video), frames)):
                frame = Image.fromarray(video[index])
                frame = frame.resize((width, height), Image.Resampling.NEAREST)
                sheet.paste(frame, (left + place * (width + 2), top))
    for row, prompt in enumerate(prompts):
        lines, top = [""], 20 + row * (height + 6)
        for word in prompt.split():
            longer = f"{lines[-1]} {word}".strip()
            if font.getlength(longer) > _TEXT - 8:
                lines.append(word)
            else:
                lines[-1] = longer
        pen.multiline_text((2, top), "\n".join(lines), fill="black", font=font)
    sheet.save(path)


def to_claim(
    reading: str, found: Sequence[dict[str, Any]], *, ceiling: dict[str, Any]
) -> scoreboard.Claim:
    """The figures of the ladder; the first is the last rung less the first."""
    by_factor: dict[int, list[dict[str, Any]]] = {}
    for rung in found:
        by_factor.setdefault(rung["factor"], []).append(rung)
    rows = {factor: _right(rungs) for factor, rungs in by_factor.items()}
    first, last = min(rows), max(rows)
    figures = [
        scoreboard.difference(
            f"accuracy, {last}x less {first}x", rows[last], theirs=rows[first]
        )
    ]
    for factor, rungs_ in by_factor.items():
        for name in rungs_[0]["accuracy"]:
            n = sum(rung["accuracy"][name]["count"] for rung in rungs_)
            scores = [rung["accuracy"][name] for rung in rungs_]
            right = round(sum(s["accuracy"] * s["count"] for s in scores))
            figures.append(
                scoreboard.share(
                    f"{factor}x {name}",
                    [True] * right + [False] * (n - right),
                    chance=float(np.mean([s["chance"] for s in scores])),
                    ceiling=ceiling.get(name, {}).get("accuracy"),
                )
            )
        for name in ("validation_loss", "frechet"):
            values = [rung[name] for rung in rungs_]
            figures.append(
                dataclasses.replace(
                    scoreboard.mean(f"{factor}x {name}, by seed", values), better="low"
                )
            )
    return scoreboard.Claim(
        name=f"ladder_{reading}",
        claim=CLAIM.format(reading=reading),
        command="",
        figures=tuple(figures),
        pictures=((PICTURE, "rows are prompts, columns rungs, same seed and noise"),),
        flops=sum(rung["flops"] for rung in found),
    )


def _right(rungs_: Sequence[dict[str, Any]]) -> list[float]:
    """An attribute read right or wrong, over prompts and seeds."""
    made: list[float] = []
    for rung in rungs_:
        for score in rung["accuracy"].values():
            right = round(score["accuracy"] * score["count"])
            made += [1.0] * right + [0.0] * (score["count"] - right)
    return made


def make(
    output: pathlib.Path,
    reading: str,
    *,
    config: LadderConfig,
    data: pathlib.Path,
    autoencoder: pathlib.Path | None = None,
    run: sweep.Run = sweep.train_here,
) -> scoreboard.Claim:
    """Train every rung, measure and draw; `ladder.json` has it all.

    Raises:
      ValueError: a rung failed; the same command tries it again.
    """
    output.mkdir(parents=True, exist_ok=True)
    autoencoder = autoencoder or budgets.autoencoder()
    values: Any = bodies_config.get_config(config.size)
    planned = rungs(
        config,
        reading,
        base=config_lib.to_dataclass(values.model, dit.DiTConfig),
        rows=sweep.measure_rows(values, data),
        rate=grid.LearningRate(values.optimizer.learning_rate, values.model.width),
    )
    seeds = {rung.point.name: rung.seed for rung in planned}

    def words(point: grid.Point) -> list[str]:
        made = sweep.arguments(
            point, output, data=data, autoencoder=autoencoder, size=config.size
        )
        return [*made, f"--config.seed={seeds[point.name]}"]

    failed = sweep.run_points(
        [rung.point for rung in planned], words, folder=output, run=run
    )
    if failed:
        raise ValueError(f"rung {failed[0]} failed; the same command tries it again")
    world = dataclasses.replace(bodies.VARIANTS["demo"], sizes=((64, 64),))
    renders = demo.real_renders(world, config.prompts, frames=demo.FRAMES)
    found = [measure(r, output, config=config, renders=renders) for r in planned]
    encoder = generator.Generator.load(
        output / planned[0].point.name / "model"
    ).model.autoencoder
    ceiling = scoring.accuracy(
        [demo.reconstruct(encoder, clip.video) for clip in renders],
        [clip.truth["attributes"] for clip in renders],
    )
    draw(output / PICTURE, [rung for rung in found if rung["seed"] == 0], scale=2)
    numbers = [{k: v for k, v in rung.items() if k != "videos"} for rung in found]
    json_values.write(output / "ladder.json", numbers)
    return to_claim(reading, found, ceiling=ceiling)


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(
        prog="python -m experiments.scaling.ladder",
        description=(__doc__ or "").split("\n\n")[0],
    )
    add = parser.add_argument
    add("--output", type=pathlib.Path, default=pathlib.Path("report"), help="folder")
    add("--reading", choices=READINGS, default="longer", help="what compute buys")
    add("--budget", type=cli.positive_float, help="FLOPs of the base rung")
    add("--data", type=pathlib.Path, help="latents of your own")
    add("--autoencoder", type=pathlib.Path, help="of those latents (default: shipped)")
    add("--quick", action="store_true", help="two rungs of seconds each")
    options = parser.parse_args(argv)
    name = f"ladder_{options.reading}"
    command = f"python -m experiments.scaling.ladder --reading {options.reading}"
    return scoreboard.run_report(
        name, lambda: _make(options, name), output=options.output, command=command
    )


def _make(options: argparse.Namespace, name: str) -> scoreboard.Claim:
    config = QUICK if options.quick else LadderConfig()
    if options.budget:
        config = dataclasses.replace(config, budget=options.budget)
    claim = make(
        options.output / name,
        options.reading,
        config=config,
        data=options.data
        or budgets.shared_data(options.output, "both", clips=config.clips),
        autoencoder=options.autoencoder,
    )
    return dataclasses.replace(claim, quick=options.quick)


if __name__ == "__main__":
    sys.exit(main())
