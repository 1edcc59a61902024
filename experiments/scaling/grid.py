"""Which models a sweep trains, for how long, and at which learning rate.

For each budget C the sizes are centred on a predicted optimum: that of a law that was
fitted before (`fit.json`), or, without one, that of r tokens per parameter,

    N_opt = (C / (6 r))^(1/2),                                                    (1)

and spread evenly in log N. A model of about N parameters is one of a family whose
depth, heads, MLP and text encoder follow from its width. It trains for C over the model
FLOPs of its own steps, which are counted from batches of the data (`soraflax.flops`).
Models of one budget share a batch, with which the one at the optimum takes a given
number of steps.

The learning rate is transferred by width,

    rate(D) = rate_0 (D / D_0)^(-p),                                              (2)

rate_0 and D_0 being those of `configs/bodies.py`. p = 1 is muP's rule for the hidden
matrices of Adam (arXiv:2203.03466), whose update size `optimizer` gives Muon's too;
`experiments.scaling.learning_rate` fits p and rate_0 at two widths or more.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from soraflax import flops
from soraflax.nn import dit

_LEAST_WIDTH, _WIDTH_STEP = 8, 8
_MAX_WIDTH = 4096
_HEAD = 64


@dataclasses.dataclass(frozen=True)
class LearningRate:
    """Equation (2).

    Attributes:
      rate: rate_0.
      width: D_0.
      exponent: p.
      source: where they come from.
    """

    rate: float = 3e-3
    width: int = 128
    exponent: float = 1.0
    source: str = "muP's rule about the rate of configs/bodies.py"

    def at(self, width: int) -> float:
        """The rate of a width."""
        return self.rate * (width / self.width) ** -self.exponent

    @classmethod
    def read(cls, path: pathlib.Path) -> "LearningRate":
        """What `experiments.scaling.learning_rate` wrote.

        Raises:
          ValueError: another file.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        values = _read_object(path, names, made_by="learning_rate")
        return cls(*(values[name] for name in names))


@dataclasses.dataclass(frozen=True)
class Preset:
    """A sweep for a machine.

    Attributes:
      budgets: C of each column of the grid.
      sizes: number of models for each budget.
      spread: the largest N of a budget over its optimum.
      rows: least number of packed rows of a batch; every batch has a multiple of it.
      optimum_steps: steps of the model at the optimum of each budget.
      tokens_per_parameter: r of equation (1).
      least_steps: fewest steps that count as training; a size that gets fewer is none.
      clips: clips of the dataset that a sweep makes for itself.
      topology: what a point of a pod is placed on, as a JobSet's node selector.
      resource: what Kubernetes calls its accelerators.
      devices: accelerators of a point.
      flops_per_second: model FLOP/s of all points at a time, for estimates.
    """

    budgets: tuple[float, ...]
    sizes: int = 6
    spread: float = 4.0
    rows: int = 8
    optimum_steps: int = 3000
    tokens_per_parameter: float = 20.0
    least_steps: int = 100
    clips: int = 12_000
    topology: tuple[tuple[str, str], ...] = ()
    resource: str = ""
    devices: int = 1
    flops_per_second: float = 4.6e10

    def __post_init__(self) -> None:
        if self.sizes < 3 or len(self.budgets) < 3:
            raise ValueError(
                f"{len(self.budgets)} budgets of {self.sizes} sizes: a law needs 3 or "
                "more of both"
            )


def _night(low: float, high: float) -> tuple[float, ...]:
    return tuple(float(f"{c:.3g}") for c in np.geomspace(low, high, 5))


_TPU = "cloud.google.com/gke-tpu-"
PRESETS = {
    # 2.4e15 FLOPs in all: at the rate of `configs/bodies_longer.py`, 15 hours.
    "two_cores": Preset(_night(1e12, 3e14)),
    # 9e18 FLOPs at two fifths of the peak of four chips: under four hours.
    "v5p-8": Preset(
        _night(3e15, 1e18),
        sizes=7,
        rows=64,
        optimum_steps=10_000,
        clips=200_000,
        topology=(
            (f"{_TPU}accelerator", "tpu-v5p-slice"),
            (f"{_TPU}topology", "2x2x1"),
        ),
        resource="google.com/tpu",
        devices=4,
        flops_per_second=0.4 * 4 * 459e12,
    ),
    "h200": Preset(
        _night(1e15, 6e17),
        sizes=7,
        rows=32,
        optimum_steps=10_000,
        clips=200_000,
        topology=(("cloud.google.com/gke-accelerator", "nvidia-h200-141gb"),),
        resource="nvidia.com/gpu",
        flops_per_second=0.4 * 989e12,
    ),
}


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
      name: of its folder.
      budget: FLOPs that it is meant to take.
      model: its transformer.
      parameters: of the transformer and its text encoder.
      steps: number of updates.
      learning_rate: peak.
      rows: packed rows of a batch.
    """

    name: str
    budget: float
    model: dit.DiTConfig
    parameters: int
    steps: int
    learning_rate: float
    rows: int


def family(base: dit.DiTConfig) -> list[dit.DiTConfig]:
    """Models by size: widths in steps of 8, a layer for every 32 features or so."""
    models = []
    for width in range(_LEAST_WIDTH, _MAX_WIDTH + 1, _WIDTH_STEP):
        heads = max(1, round(width / _HEAD))
        while width % (2 * heads):
            heads -= 1
        text = base.text
        if text is not None:
            head = max(2, 2 * round(width * text.head_size / (2 * base.width)))
            text_width = max(8, round(width * text.width / base.width / 8) * 8)
            mlp = max(8, round(width * text.mlp / base.width / 8) * 8)
            text = dataclasses.replace(text, width=text_width, head_size=head, mlp=mlp)
        models.append(
            dataclasses.replace(
                base,
                width=width,
                depth=max(2, round(2 + width / 32)),
                heads=heads,
                mlp=4 * width,
                text=text,
                text_width=text.width if text is not None else base.text_width,
            )
        )
    return models


def read_fit(path: pathlib.Path) -> dict[str, Any]:
    """A `fit.json` of `experiments.scaling.fit`.

    Raises:
      ValueError: another file.
    """
    return _read_object(path, ("law", "optimum", "runs", "parabolas"), made_by="fit")


def _read_object(
    path: pathlib.Path, keys: Sequence[str], *, made_by: str
) -> dict[str, Any]:
    """A JSON object that has `keys`."""
    try:
        values = json.loads(path.read_text())
    except ValueError:
        values = None
    if not isinstance(values, dict) or not set(keys) <= set(values):
        raise ValueError(
            f"{path}: is not of python -m experiments.scaling.{made_by}; run that first"
        )
    return values


def predicted_optimum(
    budget: float, preset: Preset, *, fit: dict[str, Any] | None = None
) -> float:
    """N_opt of a budget: by a fit's law, or by equation (1).

    Raises:
      ValueError: a fit whose runs determine no optimum.
    """
    if fit is None:
        return math.sqrt(budget / (6 * preset.tokens_per_parameter))
    rows = [row for row in fit["optimum"] if row["parameters"]["value"] is not None]
    if not rows:
        raise ValueError("the fit has no optimum; leave --fit out")
    middle = min(rows, key=lambda row: abs(math.log(row["flops"] / budget)))
    exponent = fit["law"]["size_exponent"]["value"]
    optimum = middle["parameters"]["value"]
    return float(optimum * (budget / middle["flops"]) ** exponent)


def plan(
    preset: Preset,
    batches: Sequence[flops.Lengths],
    *,
    base: dit.DiTConfig,
    rate: LearningRate,
    fit: dict[str, Any] | None = None,
) -> list[Point]:
    """The points of a sweep, budget by budget, small models first.

    Args:
      preset: budgets and sizes.
      batches: lengths of the segments of a few rows of the data, one row each.
      base: the transformer whose family is trained.
      rate: learning rates.
      fit: an earlier fit, on whose optimum the sizes are centred.

    Raises:
      ValueError: a budget that too few sizes fit, and the least one that they do.
    """
    models = family(base)
    counts = np.array([flops.transformer_parameters(model) for model in models])
    points = []
    for budget in preset.budgets:
        optimum = predicted_optimum(budget, preset, fit=fit)
        wanted = optimum * np.geomspace(1 / preset.spread, preset.spread, preset.sizes)
        distance = np.abs(np.log(counts)[None] - np.log(wanted)[:, None])
        sizes = [models[i] for i in dict.fromkeys(distance.argmin(1).tolist())]
        middle = models[int(np.abs(np.log(counts) - np.log(optimum)).argmin())]
        rows = preset.rows * max(
            1,
            round(
                budget / preset.optimum_steps / row_flops(middle, batches) / preset.rows
            ),
        )
        chosen = [
            _point(budget, model, batches=batches, rows=rows, rate=rate)
            for model in sizes
        ]
        fitting = [point for point in chosen if point.steps >= preset.least_steps]
        if len(fitting) < 3:
            raise ValueError(_unfit(budget, chosen, preset=preset))
        points += fitting
    return points


def row_flops(model: dit.DiTConfig, batches: Sequence[flops.Lengths]) -> float:
    """Model FLOPs of training on a row, the mean over batches of one row each."""
    costs = [flops.training(flops.transformer_flops(model, row)) for row in batches]
    return float(np.mean(costs))


def _point(
    budget: float,
    model: dit.DiTConfig,
    *,
    batches: Sequence[flops.Lengths],
    rows: int,
    rate: LearningRate,
) -> Point:
    return Point(
        name=f"c{budget:.2e}-w{model.width:04d}".replace("+", ""),
        budget=budget,
        model=model,
        parameters=flops.transformer_parameters(model),
        steps=round(budget / (rows * row_flops(model, batches))),
        learning_rate=float(f"{rate.at(model.width):.4g}"),
        rows=rows,
    )


def _unfit(budget: float, chosen: Sequence[Point], *, preset: Preset) -> str:
    """What would be enough for a budget that fewer than three sizes fit."""
    if len(chosen) < 3:
        return (
            f"budget {budget:.2g} has {len(chosen)} different size(s), the least of "
            f"{chosen[0].parameters} parameters; use a larger budget"
        )
    third = chosen[2]
    factor = preset.least_steps / max(third.steps, 0.5)
    return (
        f"budget {budget:.2g}: {third.parameters} parameters get {third.steps} steps "
        f"of {third.rows} rows, fewer than {preset.least_steps}; use "
        f"{budget * factor:.1g} FLOPs or more, or fewer rows"
    )
