"""The embedded world in few and small shapes: each shape is compiled for."""

import pathlib

import pytest

from data_pipelines import prepare
from data_pipelines.worlds import bodies

# Clips of one size, and images.
WORLD = bodies.WorldConfig(sizes=((48, 32),), frames=(9,), image_share=0.3)


def write(path: pathlib.Path, *, count: int, seed: int = 0) -> pathlib.Path:
    """A dataset of `count` clips; one in ten, at least one, is held out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bodies.VARIANTS, "few shapes", WORLD)
        prepare.prepare_world(
            "bodies", path, variant="few shapes", count=count, seed=seed
        )
    return path
