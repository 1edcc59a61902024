"""Models of one size for one budget of FLOPs, on data of different kinds.

What reports share that compare data at the same compute: the transformer and the rates
of `configs/bodies.py`, the shipped autoencoder, and steps that follow from the FLOPs of
the batches that the data makes. What is finished is left alone, what was stopped goes
on.
"""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_pipelines import prepare
from data_pipelines.worlds import bodies
from experiments.configs import bodies as bodies_config
from experiments.scaling import grid, sweep
from soraflax import config as config_lib
from soraflax import flops
from soraflax.nn import dit
from soraflax.pretrained import shipped


def autoencoder() -> pathlib.Path:
    """Of all latents: the shipped one."""
    return shipped.folder() / "autoencoder"


def shared_data(
    output: pathlib.Path, modality: str, *, clips: int, size: str = "small"
) -> pathlib.Path:
    """Latents of a modality (`sweep.MODALITIES`) that the reports in `output` share."""
    values: Any = bodies_config.get_config(size)
    folder = output / "data" / f"{modality}-{clips}"
    folder.mkdir(parents=True, exist_ok=True)
    return sweep.make_data(
        folder,
        modality,
        clips=clips,
        autoencoder=autoencoder(),
        values=values,
    )


def rendered_data(
    folder: pathlib.Path,
    name: str,
    *,
    clips: Mapping[str, Iterable[bodies.RenderedClip]],
    about: Mapping[str, Any],
    size: str = "small",
) -> pathlib.Path:
    """Latents of clips of one's own in `folder`, made where they are not there yet.

    Args:
      folder: where dataset and latents are.
      name: of the dataset.
      clips: split to its clips, rendered as they are read.
      about: for the dataset's description.
      size: argument of the configuration; 'tiny' for tests.
    """
    target, dataset = folder / "latents", folder / "dataset"
    if target.exists():
        return target
    if not dataset.exists():
        prepare.prepare_rendered(name, dataset, clips=clips, about=about)
    values: Any = bodies_config.get_config(size)
    sweep.encode_data(dataset, target, autoencoder=autoencoder(), values=values)
    return target


def train(
    workdir: pathlib.Path,
    data: pathlib.Path,
    *,
    budget: float,
    rows: int,
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
            point, workdir.parent, data=data, autoencoder=autoencoder(), size=size
        )
        return [*made, *flags]

    if sweep.run_points([point], words, folder=workdir.parent, run=run):
        raise ValueError(f"{workdir} failed; the same command tries it again")
    return workdir
