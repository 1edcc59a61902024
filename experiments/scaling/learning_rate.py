"""The learning rate by width: `python -m experiments.scaling.learning_rate`.

    python -m experiments.scaling.learning_rate --output RATES --data SWEEP/latents

Trains models of two widths or more, each at several rates, for the same number of
tokens. A parabola of the validation loss in log rate gives each width's best rate, and
a line through their logarithms the law that `grid.LearningRate` states. Writes
`learning_rate.json`, which `sweep --learning-rate` takes, and is taken up like a sweep.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.configs import bodies as bodies_config
from experiments.scaling import grid, sweep
from experiments.scaling import runs as run_records
from soraflax import config as config_lib
from soraflax import flops
from soraflax.cli import parser as cli
from soraflax.nn import dit
from soraflax.pretrained import shipped

RESULT = "learning_rate.json"


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
    widths: Sequence[int],
    rates: Sequence[float],
    *,
    base: dit.DiTConfig,
    steps: int,
    rows: int,
) -> list[grid.Point]:
    """Every width at every rate, all for the same steps of the same rows."""
    models = {model.width: model for model in grid.family(base)}
    made = []
    for width in widths:
        if width not in models:
            nearest = min(models, key=lambda known: abs(known - width))
            raise ValueError(f"width {width}: use {nearest}")
        for rate in rates:
            count = flops.transformer_parameters(models[width])
            name = f"w{width:04d}-r{rate:.2e}"
            made.append(grid.Point(name, 0.0, models[width], count, steps, rate, rows))
    return made


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: use numbers, as 1,2,3") from None


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(
        prog="python -m experiments.scaling.learning_rate",
        description=(__doc__ or "").split("\n\n")[0],
    )
    add = parser.add_argument
    add("--output", type=pathlib.Path, required=True, help="folder of the runs")
    add("--data", type=pathlib.Path, required=True, help="latents")
    add("--autoencoder", type=pathlib.Path, help="of those latents (default: shipped)")
    add("--widths", type=_numbers, default=[64, 128], help="(default: 64,128)")
    add(
        "--rates",
        type=_numbers,
        default=[7.5e-4, 1.5e-3, 3e-3, 6e-3, 1.2e-2],
        help="(default: 7.5e-4,1.5e-3,3e-3,6e-3,1.2e-2)",
    )
    add("--steps", type=cli.positive_int, default=800, help="(default: 800)")
    add("--rows", type=cli.positive_int, default=16, help="(default: 16)")
    options = parser.parse_args(argv)
    return cli.run_command(
        "learning_rate",
        lambda: _run(options),
        extra="train",
        interrupted="the same command goes on",
    )


def _run(
    options: argparse.Namespace,
    *,
    size: str = "small",
    run: sweep.Run = sweep.train_here,
) -> None:
    values: Any = bodies_config.get_config(size)
    planned = points(
        [int(width) for width in options.widths],
        options.rates,
        base=config_lib.to_dataclass(values.model, dit.DiTConfig),
        steps=options.steps,
        rows=options.rows,
    )
    autoencoder = options.autoencoder or shipped.folder() / "autoencoder"
    failed = sweep.run_points(
        planned,
        lambda point: sweep.arguments(
            point, options.output, data=options.data, autoencoder=autoencoder, size=size
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
