"""Checkpoints: bit for bit, on any mesh, and refused when damaged or foreign."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import chex
import jax
import pytest
from jax.experimental import multihost_utils

from soraflax.train import checkpoint, digests, optimizer, state
from tests.train import toy


def _state(where: Any) -> tuple[Any, Any]:
    job = toy.job(where)
    chain = optimizer.make_optimizer(toy.OPTIMIZER, steps=10)
    return state.create(job.init(), chain, shardings=job.shardings, mesh=where)


def _saved(folder: pathlib.Path, *, count: int = 8) -> Any:
    current, _ = _state(toy.mesh(count))
    with checkpoint.Checkpointer(folder) as keeper:
        data = toy.Data(position=3)
        keeper.save(3, current, iterator=data, config=toy.IDENTITY)
    return current


def _restore(folder: pathlib.Path, *, count: int = 8, **options: Any) -> Any:
    current, places = _state(toy.mesh(count))
    data = toy.Data()
    with checkpoint.Checkpointer(folder) as keeper:
        got = keeper.restore(
            state.abstract(current, places),
            iterator=data,
            **{"config": toy.IDENTITY, **options},
        )
    return got, data


@pytest.mark.parametrize("count", [1, 8])
def test_another_mesh_reads_the_same_bits(tmp_path: pathlib.Path, count: int) -> None:
    saved = _saved(tmp_path)
    got, data = _restore(tmp_path, count=count)
    chex.assert_trees_all_equal(jax.device_get(saved), jax.device_get(got))
    assert data.position == 3
    assert len(got.params["Linear_0"]["kernel"].sharding.device_set) == count


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [_flipped, lambda data: data[:-1], lambda data: None],
    ids=["flipped", "truncated", "removed"],
)
def test_damage_to_any_file_is_found(
    tmp_path: pathlib.Path, damage: Callable[[bytes], bytes | None]
) -> None:
    _saved(tmp_path)
    files = digests.files(tmp_path / "3")
    assert len(files) > 5
    for path in [*files, tmp_path / "3" / digests.DIGESTS]:
        whole = path.read_bytes()
        assert whole
        damaged = damage(whole)
        path.unlink() if damaged is None else path.write_bytes(damaged)
        with pytest.raises(checkpoint.CheckpointError) as caught:
            digests.verify(tmp_path / "3")
        assert "\n" not in str(caught.value)
        path.write_bytes(whole)
    digests.verify(tmp_path / "3")


def test_a_committed_step_has_its_digests(tmp_path: pathlib.Path) -> None:
    _saved(tmp_path)
    expected = digests.read(tmp_path / "3")
    files = {str(p.relative_to(tmp_path / "3")) for p in digests.files(tmp_path / "3")}
    assert set(expected) == files
    assert any(name.startswith("state/ocdbt.process_0/") for name in expected)
    assert all(len(digest) == 2 for digest in expected.values())


def test_saving_leaves_the_preemption_service_to_the_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", asked.append)
    _saved(tmp_path)
    assert asked == []


def test_another_configuration_is_refused(tmp_path: pathlib.Path) -> None:
    _saved(tmp_path)
    other = {**toy.IDENTITY, "model": {"width": 32}}
    with pytest.raises(
        checkpoint.CheckpointError, match=r"trained with model.width=16.*has 32"
    ):
        _restore(tmp_path, config=other)
    got, _ = _restore(tmp_path, config=other, mutable_keys=("model.width",))
    assert int(got.step) == 0


def test_only_the_last_are_kept(tmp_path: pathlib.Path) -> None:
    current, _ = _state(toy.mesh(1))
    with checkpoint.Checkpointer(tmp_path, keep=2) as keeper:
        for step in (1, 2, 3):
            keeper.save(step, current, iterator=toy.Data(), config=toy.IDENTITY)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3"]
    assert json.loads((tmp_path / "3" / checkpoint.DIGESTS).read_text())


def test_nothing_to_restore(tmp_path: pathlib.Path) -> None:
    with pytest.raises(checkpoint.CheckpointError, match="no finished checkpoint"):
        _restore(tmp_path)
