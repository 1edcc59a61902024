"""The learning rate by width: `python -m experiments.scaling.learning_rate`.

    python -m experiments.scaling.learning_rate --output RATES [--preset two_cores]

Trains models of two widths or more, each at several rates about muP's, for the same
number of tokens. The data is made as a sweep makes it; `--data SWEEP/latents` takes
that of one. A parabola of the validation loss in log rate gives each width's best rate,
and a line through their logarithms the law that `grid.LearningRate` states. Writes
`learning_rate.json`, which `sweep --learning-rate` takes, and is taken up like a sweep.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines import records
from experiments.configs import bodies as bodies_config
from experiments.scaling import grid, sweep
from experiments.scaling import runs as run_records
from soraflax import config as config_lib
from soraflax import flops
from soraflax.cli import parser as cli
from soraflax.nn import dit
from soraflax.pretrained import shipped

RESULT = "learning_rate.json"


@dataclasses.dataclass(frozen=True)
class RatePreset:
    """Widths and rates for a machine.

    Attributes:
      widths: of the models.
      factors: rates of each width, over that of muP's rule (`grid.LearningRate`).
      steps: updates of every run.
      rows: packed rows of a batch.
      clips: clips of the data that is made.
    """

    widths: tuple[int, ...] = (64, 128)
    factors: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    steps: int = 800
    rows: int = 16
    clips: int = 4000


PRESETS = {
    # At the rates of `grid.PRESETS`, 9e13 FLOPs in all: half an hour.
    "two_cores": RatePreset(),
    # 3e18: an hour.
    "v5p-8": RatePreset((512, 1024), steps=5000, rows=256, clips=200_000),
    # 6e17: half an hour.
    "h200": RatePreset((384, 768), steps=5000, rows=128, clips=200_000),
}


def fit(losses: Mapping[int, Mapping[float, float]]) -> grid.LearningRate:
    """The law of the best rates.

    Args:
      losses: width to learning rate to validation loss.

    Raises:
      ValueError: fewer than two widths, or a width whose best rate is not bracketed;
        the message has the rates that would be enough.
    """
    if len(losses) < 2:
        raise ValueError(f"{len(losses)} width(s): a law of the rate needs 2 or more")
    best = {width: _best_rate(width, row) for width, row in sorted(losses.items())}
    widths, rates = np.array(list(best)), np.array(list(best.values()))
    slope, _ = np.polyfit(np.log(widths), np.log(rates), 1)
    middle = int(widths[len(widths) // 2])
    shown = ", ".join(f"{w}: {r:.3g}" for w, r in best.items())
    return grid.LearningRate(
        rate=float(best[middle]),
        width=middle,
        exponent=float(-slope),
        source=f"fitted to the best rates of widths ({shown})",
    )


def _best_rate(width: int, row: Mapping[float, float]) -> float:
    rates = np.array(sorted(row))
    values = np.array([row[rate] for rate in rates])
    if len(rates) < 3:
        raise ValueError(f"width {width} has {len(rates)} rate(s); give it 3 or more")
    least = int(values.argmin())
    if least in (0, len(rates) - 1):
        beyond = rates[least] * (0.5 if least == 0 else 2.0)
        raise ValueError(
            f"width {width} is best at {rates[least]:.3g}, the last of its rates; add "
            f"{beyond:.3g}"
        )
    near = slice(least - 1, least + 2)
    x = np.log(rates[near])
    a, b, _ = np.polyfit(x, values[near], 2)
    return float(np.exp(np.clip(-b / (2 * a), x[0], x[-1])))


def points(
    rates: Mapping[int, Sequence[float]],
    *,
    base: dit.DiTConfig,
    steps: int,
    rows: int,
) -> list[grid.Point]:
    """Every width at each of its rates, all for the same steps of the same rows.

    Raises:
      ValueError: a width that no model has, or too little for a law (`fit`).
    """
    if len(rates) < 2 or min(map(len, rates.values())) < 3:
        raise ValueError(
            f"{len(rates)} width(s) with {min(map(len, rates.values()))} rate(s): a "
            "law of the rate needs 2 widths or more, with 3 rates or more"
        )
    models = {model.width: model for model in grid.family(base)}
    made = []
    for width, own in rates.items():
        if width not in models:
            nearest = min(models, key=lambda known: abs(known - width))
            raise ValueError(f"width {width}: use {nearest}")
        for rate in own:
            count = flops.transformer_parameters(models[width])
            name = f"w{width:04d}-r{rate:.2e}"
            made.append(grid.Point(name, 0.0, models[width], count, steps, rate, rows))
    return made


def _rates(text: str) -> list[float]:
    try:
        values = sorted({float(word) for word in text.split(",")})
    except ValueError:
        values = []
    if not values or not all(0 < value < math.inf for value in values):
        raise argparse.ArgumentTypeError(f"{text!r}: use rates above 0, as 1e-3,2e-3")
    return values


def _widths(text: str) -> list[int]:
    try:
        return sorted({int(word) for word in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: use widths, as 64,128") from None


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(
        prog="python -m experiments.scaling.learning_rate",
        description=(__doc__ or "").split("\n\n")[0],
    )
    add = parser.add_argument
    add("--output", type=pathlib.Path, required=True, help="folder of the runs")
    add("--preset", choices=list(PRESETS), default="two_cores")
    add("--data", type=pathlib.Path, help="latents of your own")
    add("--autoencoder", type=pathlib.Path, help="of those latents (default: shipped)")
    add("--modality", choices=list(sweep.MODALITIES), default="both")
    add("--widths", type=_widths, help="(default: the preset's)")
    add("--rates", type=_rates, help="of every width (default: about muP's rule)")
    add("--steps", type=cli.positive_int, help="(default: the preset's)")
    add("--rows", type=cli.positive_int, help="(default: the preset's)")
    add("--clips", type=cli.positive_int, help="of the data that is made")
    add("--plan", action="store_true", help="print the points and train none")
    options = parser.parse_args(argv)
    return cli.run_command(
        "learning_rate",
        lambda: _run(options),
        extra="train",
        interrupted="the same command goes on",
    )


def chosen(options: argparse.Namespace) -> RatePreset:
    """The preset with what the command line says otherwise."""
    names = ("widths", "steps", "rows", "clips")
    given = {name: getattr(options, name) for name in names}
    return dataclasses.replace(
        PRESETS[options.preset], **{k: v for k, v in given.items() if v}
    )


def _run(
    options: argparse.Namespace,
    *,
    size: str = "small",
    run: sweep.Run = sweep.train_here,
) -> None:
    values: Any = bodies_config.get_config(size)
    preset = chosen(options)
    rule = grid.LearningRate(values.optimizer.learning_rate, values.model.width)
    planned = points(
        {
            width: options.rates
            or [factor * rule.at(width) for factor in preset.factors]
            for width in preset.widths
        },
        base=config_lib.to_dataclass(values.model, dit.DiTConfig),
        steps=preset.steps,
        rows=preset.rows,
    )
    if options.plan:
        for point in planned:
            print(
                f"{point.name}  {point.parameters:>12,} parameters {point.steps} steps"
            )
        return
    autoencoder = options.autoencoder or shipped.folder() / "autoencoder"
    data = options.data or sweep.make_data(
        options.output,
        options.modality,
        clips=preset.clips,
        autoencoder=autoencoder,
        values=values,
    )
    records.dataset_digest(data)  # refuses what is no dataset, before any run
    failed = sweep.run_points(
        planned,
        lambda point: sweep.arguments(
            point, options.output, data=data, autoencoder=autoencoder, size=size
        ),
        folder=options.output,
        run=run,
    )
    losses: dict[int, dict[float, float]] = {}
    for point in planned:
        if point.name not in failed:  # a rate too high ends without a loss
            found = run_records.read_run(options.output / point.name)
            losses.setdefault(point.model.width, {})[point.learning_rate] = found.loss
    law = fit(losses)
    path = options.output / RESULT
    made = dataclasses.asdict(law) | {"losses": losses}
    path.write_text(json.dumps(made, indent=2) + "\n")
    print(f"rate {law.rate:.3g} (width / {law.width})^-{law.exponent:.3g}: {path}")


if __name__ == "__main__":
    sys.exit(main())
