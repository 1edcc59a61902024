"""Models of one size for one budget of FLOPs, on data of different kinds.

What reports share that compare data at the same compute: the transformer and the rates
of `configs/bodies.py`, the shipped autoencoder, and steps that follow from the FLOPs of
the batches that the data makes. What is finished is left alone, what was stopped goes
on.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from experiments.configs import bodies as bodies_config
from experiments.scaling import grid, sweep
from soraflax import config as config_lib
from soraflax import flops
from soraflax.nn import dit


def train(
    workdir: pathlib.Path,
    data: pathlib.Path,
    *,
    budget: float,
    rows: int,
    autoencoder: pathlib.Path,
    flags: Sequence[str] = (),
    size: str = "small",
    run: sweep.Run = sweep.train_here,
) -> pathlib.Path:
    """A model of a budget, in its work folder, which is returned.

    Args:
      workdir: the work folder, in one that is there.
      data: latents.
      budget: model FLOPs of training.
      rows: packed rows of a batch.
      autoencoder: of the latents.
      flags: further words after `soraflax train`.
      size: argument of the configuration; 'tiny' for tests.
      run: trains a model.

    Raises:
      ValueError: its training failed.
    """
    values: Any = bodies_config.get_config(size)
    model = config_lib.to_dataclass(values.model, dit.DiTConfig)
    cost = rows * grid.row_flops(model, sweep.measure_rows(values, data))
    point = grid.Point(
        name=workdir.name,
        budget=budget,
        model=model,
        parameters=flops.transformer_parameters(model),
        steps=max(2, round(budget / cost)),
        learning_rate=values.optimizer.learning_rate,
        rows=rows,
    )

    def words(point: grid.Point) -> list[str]:
        made = sweep.arguments(
            point, workdir.parent, data=data, autoencoder=autoencoder, size=size
        )
        return [*made, *flags]

    if sweep.run_points([point], words, folder=workdir.parent, run=run):
        raise ValueError(f"{workdir} failed; the same command tries it again")
    return workdir
