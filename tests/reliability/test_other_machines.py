"""A run goes on with other devices, meshes and processes: equal state, same clips.

The loss is equal up to the order in which devices add up: `BOUND`, relative.
"""

import pathlib
from typing import Any

import chex
import jax
import numpy as np
import pytest

from soraflax import sharding
from soraflax.train import metrics
from tests.experiments import processes
from tests.train import toy

BOUND = 1e-5
MESHES = {
    8: {"data": 2, "fsdp": 2, "tensor": 2},
    4: {"fsdp": 2, "context": 2},
    1: {"fsdp": 1},
}


def _losses(workdir: pathlib.Path) -> list[float]:
    return [line["loss"] for line in metrics.read(workdir) if "loss" in line]


def test_eight_then_four_then_one_then_eight_devices(tmp_path: pathlib.Path) -> None:
    course: Any = {"steps": 8, "log_every": 1}
    last = None
    for stop, count in ((2, 8), (4, 4), (6, 1), (8, 8)):
        mesh = sharding.make_mesh(**MESHES[count], devices=jax.devices()[:count])
        if last is not None:
            data = toy.Data()
            job = toy.job(mesh, data)
            restored = toy.fit(job, tmp_path / "moved", stop_at=stop - 2, **course)
            chex.assert_trees_all_equal(*map(jax.device_get, (restored, last)))
            assert data.position == stop - 2
        last = toy.fit(toy.job(mesh), tmp_path / "moved", stop_at=stop, **course)
        kernel = last.params["Linear_0"]["kernel"]
        assert len(kernel.sharding.device_set) == count
    toy.fit(toy.job(toy.mesh(1)), tmp_path / "still", **course)
    moved, still = _losses(tmp_path / "moved"), _losses(tmp_path / "still")
    assert len(moved) == 8
    np.testing.assert_allclose(moved, still, rtol=BOUND)


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], list[float]]:
    """Clips and losses of one process that was never stopped."""
    folder = tmp_path_factory.mktemp("still")
    (alone,) = processes.run("elastic", folder, count=1)
    assert alone["began"] == 0
    return alone["clips"], _losses(folder)


def test_four_then_two_then_three_processes(
    tmp_path: pathlib.Path, still: tuple[list[Any], list[float]]
) -> None:
    clips, after = [], None
    for number, count in enumerate((4, 2, 3)):
        found = processes.run("elastic", tmp_path, count=count)
        assert {life["began"] for life in found} == {2 * number}
        assert {life["before"] for life in found} == {after}  # bit for bit
        (after,) = {life["after"] for life in found}
        # A batch is the rows of all processes, in their order.
        batches = zip(*(life["clips"] for life in found), strict=True)
        clips += [[clip for part in batch for clip in part] for batch in batches]
    expected, losses = still
    assert len(clips) == 6
    assert clips == expected
    np.testing.assert_allclose(_losses(tmp_path), losses, rtol=BOUND)
