"""The shipped configs, shrunk, on a mesh of eight devices."""

import pathlib
from typing import Any

from experiments import configs

MESH = {"data": 2, "fsdp": 2, "context": 1, "tensor": 2}
CONFIGS = pathlib.Path(configs.DIRECTORY)


def config(name: str, dataset: pathlib.Path) -> Any:
    """One by its name, on the clips of a dataset."""
    values = configs.load(f"{CONFIGS / name}.py:tiny")
    if values.stage != "expander":
        values.data.path = str(dataset)
    values.mesh.update(MESH)
    if values.stage in ("autoencoder", "adversarial"):
        values.evaluation.update(clips=1, statistics=1)
    return values


def autoencoder(dataset: pathlib.Path) -> Any:
    """That of the autoencoder."""
    return config("autoencoder_small", dataset)


def video(dataset: pathlib.Path, trained: pathlib.Path) -> Any:
    """That of the transformer, on an autoencoder."""
    values = config("video_small", dataset)
    values.autoencoder = str(trained)
    return values


def adversarial(dataset: pathlib.Path, trained: pathlib.Path) -> Any:
    """That of the adversarial stage, on an autoencoder."""
    values = config("autoencoder_adversarial", dataset)
    values.autoencoder = str(trained)
    return values
