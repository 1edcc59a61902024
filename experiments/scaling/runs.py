"""Finished runs of training, read from their work folders, for a scaling law.

A run is a folder with `metrics.jsonl`: the parameters, tokens and FLOPs of its last
line with costs, and the validation loss of its last evaluation. What its checkpoints
and `point.json` (`experiments.scaling.sweep`) say of its configuration must agree with
all others', but for the size of the model, the optimizer and the length.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.scaling import law
from soraflax.train import metrics

METRICS = "metrics.jsonl"
POINT = "point.json"
LOSS = "validation/loss"
LEAST_BUDGETS = 3
LEAST_SIZES = 3
SAME_BUDGET = 0.1  # greatest relative step of FLOPs within a budget
_COUNTS = ("parameters", "training_tokens", "training_flops")
# What runs of one law may differ in, by the beginning of a dotted key.
_FREE = (
    *("model.width", "model.depth", "model.heads", "model.mlp", "model.text"),
    *("model.frequency_width", "model.dtype", "model.remat", "model.attention"),
    *("optimizer", "train", "mesh", "seed", "data.path", "data.also", "data.seed"),
    *(
        "data.read",
        "data.rows",
        "autoencoder",
        "compilation_cache",
        "distributed",
        "evaluation",
    ),
    *("loss.lpips_path",),
)


class RunsError(ValueError):
    """Runs that no law can be fitted to, and what would be enough."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
      name: its folder, relative to that of all runs.
      parameters, tokens, flops: N, D and C.
      loss: validation loss at the end.
      settings: dotted keys of its configuration that all runs must share.
    """

    name: str
    parameters: float
    tokens: float
    flops: float
    loss: float
    settings: Mapping[str, Any]


def read(folder: pathlib.Path, *, finished: bool = False) -> list[Run]:
    """Every run below `folder`, by name.

    Args:
      folder: a folder of work folders; it may be one itself.
      finished: leave out runs without an end and those with a loss that is no number.

    Raises:
      RunsError: no runs, runs that did not end, or runs of other configurations.
    """
    if not folder.is_dir():
        raise RunsError(f"{folder}: no such folder of runs")
    found, problems = [], []
    planned = {path.parent for path in folder.rglob(POINT)}
    started = {path.parent for path in folder.rglob(METRICS)}
    for path in sorted(planned | started):
        name = str(path.relative_to(folder))
        try:
            found.append(read_run(path, name=name))
        except RunsError as error:
            problems.append(str(error))
    if problems and not finished:
        raise RunsError(
            f"{len(problems)} of {len(problems) + len(found)} runs have no result; "
            f"first: {problems[0]}; train them to their end, or leave them out with "
            "--finished"
        )
    if not found:
        raise RunsError(
            f"{folder}: no finished run in it (folders with {METRICS}, each of a run "
            "with held-out clips)"
        )
    check_alike(found)
    return found


def read_run(path: pathlib.Path, *, name: str = "") -> Run:
    """One run from its work folder.

    Raises:
      RunsError: it did not end, or its record lacks what a law needs.
    """
    name = name or path.name
    if not (path / METRICS).is_file():
        raise RunsError(f"{name}: no {METRICS}")
    lines = _metric_lines(path, name=name)
    costs = [line for line in lines if "training_flops" in line]
    losses = [line for line in lines if LOSS in line]
    if not costs or "parameters" not in costs[-1]:
        raise RunsError(f"{name}: {METRICS} has no {', '.join(_COUNTS)}")
    if not losses or losses[-1]["step"] < costs[-1]["step"]:
        raise RunsError(f"{name}: no {LOSS} after its last step")
    point = path / POINT
    planned = _read_object(point, name=name) if point.is_file() else {}
    if costs[-1]["step"] < planned.get("steps", 0):
        raise RunsError(
            f"{name}: step {costs[-1]['step']} of {planned['steps']} is its last"
        )
    values = {key: costs[-1].get(key) for key in _COUNTS} | {LOSS: losses[-1][LOSS]}
    numbers = []
    for key, value in values.items():
        if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
            raise RunsError(f"{name}: {key} {value} is no positive number")
        numbers.append(float(value))
    settings = _settings(path, name=name) | planned.get("settings", {})
    parameters, tokens, flops, loss = numbers
    return Run(name, parameters, tokens, flops, loss, settings)


def _metric_lines(path: pathlib.Path, *, name: str) -> list[dict[str, Any]]:
    """The lines of a run's metrics, each an object with a step."""
    try:
        lines = metrics.read(path)
    except json.JSONDecodeError:
        raise RunsError(
            f"{name}: {METRICS} has half a line, or one that is no JSON"
        ) from None
    for number, line in enumerate(lines, start=1):
        if not isinstance(line, dict) or not isinstance(line.get("step"), int | float):
            raise RunsError(f"{name}: {METRICS} line {number} has no step")
    return lines


def _read_object(path: pathlib.Path, *, name: str) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except json.JSONDecodeError:
        values = None
    if not isinstance(values, dict):
        raise RunsError(f"{name}: {path.name} is no JSON object; write it again")
    return values


def _settings(path: pathlib.Path, *, name: str) -> dict[str, Any]:
    """The configuration of a run's last checkpoint, without what may differ."""
    steps = [p for p in (path / "checkpoints").glob("*") if p.name.isdigit()]
    for step in sorted(steps, key=lambda p: -int(p.name)):
        file = step / "config" / "metadata"
        if file.is_file():
            flat = _flatten(_read_object(file, name=name))
            return {k: v for k, v in flat.items() if not k.startswith(_FREE)}
    return {}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def check_alike(found: Sequence[Run]) -> None:
    """Refuse runs of configurations that no law has in common.

    Raises:
      RunsError: naming two runs and the first key in which they differ.
    """
    first = found[0]
    for run in found[1:]:
        for key in sorted(first.settings.keys() & run.settings.keys()):
            ours, theirs = first.settings[key], run.settings[key]
            if ours != theirs:
                raise RunsError(
                    f"{first.name} and {run.name} differ in {key}: {ours!r} and "
                    f"{theirs!r}; fit runs of one configuration at a time"
                )


def to_law(found: Sequence[Run]) -> law.Runs:
    """The runs as arrays, in groups of about equal FLOPs.

    Raises:
      RunsError: fewer than three budgets, or a budget of fewer than three sizes.
    """
    ordered = sorted(found, key=lambda run: (run.flops, run.parameters))
    flops = np.array([run.flops for run in ordered])
    steps = np.diff(np.log(flops)) > math.log(1 + SAME_BUDGET)
    budget = np.concatenate([[0], np.cumsum(steps)])
    if budget[-1] + 1 < LEAST_BUDGETS:
        names = ", ".join(f"{flops[budget == b].mean():.2g}" for b in np.unique(budget))
        raise RunsError(
            f"{budget[-1] + 1} budget(s) of FLOPs ({names}); a law needs "
            f"{LEAST_BUDGETS} or more, five for an interval worth its name"
        )
    for group in np.unique(budget):
        members = [r for r, b in zip(ordered, budget, strict=True) if b == group]
        sizes = len({run.parameters for run in members})
        if sizes < LEAST_SIZES:
            raise RunsError(
                f"budget {members[0].flops:.2g} has {sizes} size(s), as "
                f"{members[0].name}; give it {LEAST_SIZES} or more, on both sides of "
                "its lowest loss"
            )
    return law.Runs(
        parameters=np.array([run.parameters for run in ordered]),
        tokens=np.array([run.tokens for run in ordered]),
        flops=flops,
        loss=np.array([run.loss for run in ordered]),
        budget=budget,
    )


def unbracketed(runs: law.Runs) -> list[str]:
    """A line for every budget whose lowest loss is at its smallest or largest size."""
    lines = []
    for group in np.unique(runs.budget):
        members = runs.chosen(runs.budget == group)
        best = members.parameters[members.loss.argmin()]
        for edge, side in (
            (members.parameters.min(), "below"),
            (members.parameters.max(), "above"),
        ):
            if best == edge:
                lines.append(
                    f"budget {members.flops.mean():.2g}: its lowest loss is at "
                    f"{best:.3g} parameters, the last of its sizes; add some {side}"
                )
    return lines
