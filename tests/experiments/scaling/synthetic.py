"""Runs of a known law, as arrays and as work folders."""

import json
import pathlib
from typing import Any

import numpy as np

from experiments.scaling import law

E, A, B, ALPHA, BETA, COST = 0.35, 60.0, 900.0, 0.38, 0.31, 6.0
TRUTH = {"floor": E, "a": ALPHA, "b": BETA, "size_exponent": BETA / (ALPHA + BETA)}


def loss(parameters: Any, tokens: Any) -> Any:
    return E + A * parameters**-ALPHA + B * tokens**-BETA


def runs(
    seed: int = 0, *, budgets: int = 5, sizes: int = 6, noise: float = 0.005
) -> law.Runs:
    """Sizes about the optimum of budgets of two cores, with noise in the loss."""
    flops = np.repeat(np.geomspace(1e12, 3e14, budgets), sizes)
    ratio = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    best = ratio * (flops / COST) ** TRUTH["size_exponent"]
    parameters = best * np.tile(np.geomspace(1 / 4, 4, sizes), budgets)
    tokens = flops / (COST * parameters)
    random = np.random.default_rng(seed)
    noisy = np.exp(noise * random.standard_normal(len(flops)))
    return law.Runs(
        parameters=parameters,
        tokens=tokens,
        flops=flops,
        loss=loss(parameters, tokens) * noisy,
        budget=np.repeat(np.arange(budgets), sizes),
    )


def write(
    folder: pathlib.Path,
    name: str,
    *,
    parameters: float,
    tokens: float,
    value: float,
    prediction: str = "x0",
) -> pathlib.Path:
    """A work folder as a run leaves it."""
    path = folder / name
    config = path / "checkpoints" / "20" / "config"
    config.mkdir(parents=True)
    costs = {
        "training_tokens": tokens,
        "training_flops": COST * parameters * tokens,
        "parameters": parameters,
    }
    records = [
        {"step": 20, "loss": 1.0, **costs},
        {"step": 20, "validation/loss": value},
    ]
    (path / "metrics.jsonl").write_text(
        "".join(json.dumps(record) + "\n" for record in records)
    )
    values = {"loss": {"prediction": prediction}, "model": {"width": parameters}}
    (config / "metadata").write_text(json.dumps(values))
    return path


def write_all(folder: pathlib.Path, made: law.Runs) -> None:
    for index in range(len(made)):
        write(
            folder,
            f"run{index:02d}",
            parameters=float(made.parameters[index]),
            tokens=float(made.tokens[index]),
            value=float(made.loss[index]),
        )
