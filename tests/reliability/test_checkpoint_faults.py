"""Damaged, unfinished, missing checkpoints: the newest whole step, and it is said."""

import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from soraflax.train import checkpoint, digests, optimizer, state
from tests.train import toy


def _current() -> Any:
    job = toy.job(toy.mesh(1))
    chain = optimizer.make_optimizer(toy.OPTIMIZER, steps=10)
    return state.create(job.init(), chain, shardings=job.shardings, mesh=job.mesh)


class Run:
    """A run that saves at given steps; its data stands where the step is."""

    def __init__(self, folder: pathlib.Path | str, *, keep: int = 2) -> None:
        self.current, self.places = _current()
        self.said: list[str] = []
        self.keeper = checkpoint.Checkpointer(folder, keep=keep, say=self.said.append)

    def save(self, step: int) -> None:
        data = toy.Data(position=step)
        self.keeper.save(step, self.current, iterator=data, config=toy.IDENTITY)
        self.keeper.wait()

    def resume(self) -> int:
        """The step that was restored, as the data has it."""
        data = toy.Data()
        target = state.abstract(self.current, self.places)
        self.keeper.restore(target, iterator=data, config=toy.IDENTITY)
        return data.position


def _largest(step: pathlib.Path) -> pathlib.Path:
    return max(digests.files(step), key=lambda path: path.stat().st_size)


def _flip(step: pathlib.Path) -> None:
    data = bytearray(_largest(step).read_bytes())
    data[100] ^= 64
    _largest(step).write_bytes(data)


def _truncate(step: pathlib.Path) -> None:
    _largest(step).write_bytes(_largest(step).read_bytes()[:-1])


def _remove(step: pathlib.Path) -> None:
    _largest(step).unlink()


def _unseal(step: pathlib.Path) -> None:
    (step / digests.DIGESTS).unlink()


def _flip_digests(step: pathlib.Path) -> None:
    text = (step / digests.DIGESTS).read_text()
    (step / digests.DIGESTS).write_text(text.replace('"files"', '"fifes"'))


@pytest.mark.parametrize("damage", [_flip, _truncate, _remove, _unseal, _flip_digests])
def test_the_newest_whole_step_is_used_and_said(
    tmp_path: pathlib.Path, damage: Callable[[pathlib.Path], None]
) -> None:
    run = Run(tmp_path)
    run.save(10)
    run.save(20)
    damage(tmp_path / "20")
    again = Run(tmp_path)
    assert again.resume() == 10
    assert "resuming at step 10, not 20" in again.said
    # The damaged step is written anew, and the run goes on from there.
    again.save(20)
    assert Run(tmp_path).resume() == 20


def test_all_damaged_is_an_error_not_a_new_start(tmp_path: pathlib.Path) -> None:
    toy.fit(toy.job(toy.mesh(1)), tmp_path, steps=4, checkpoint_every=2)
    for step in (tmp_path / "checkpoints").iterdir():
        _flip(step)
    with pytest.raises(checkpoint.CheckpointError, match="steps 2, 4 are damaged"):
        toy.fit(toy.job(toy.mesh(1)), tmp_path, steps=6)


def test_steps_without_digests_never_push_out_a_whole_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Run(tmp_path).save(1000)
    # From here on every save is killed before its digests are complete.
    monkeypatch.setattr(digests, "seal", lambda folder: None)
    first = Run(tmp_path)
    assert first.resume() == 1000
    first.save(1500)
    second = Run(tmp_path)
    assert second.resume() == 1000
    second.save(1300)
    second.save(1400)
    assert Run(tmp_path).resume() == 1000


def test_steps_without_digests_alone_are_resumed(tmp_path: pathlib.Path) -> None:
    run = Run(tmp_path)
    run.save(10)
    run.save(20)
    for step in (10, 20):
        _unseal(tmp_path / str(step))
    again = Run(tmp_path)
    assert again.resume() == 20
    assert "unverified" in again.said[0]


def test_an_uncommitted_step_is_no_step(tmp_path: pathlib.Path) -> None:
    run = Run(tmp_path)
    run.save(10)
    shutil.copytree(tmp_path / "10", tmp_path / "20.orbax-checkpoint-tmp")
    again = Run(tmp_path)
    assert again.keeper.saved.steps() == [10]
    assert again.resume() == 10


def test_damaged_steps_do_not_count_among_the_kept(tmp_path: pathlib.Path) -> None:
    run = Run(tmp_path)
    for step in (10, 20, 30):
        run.save(step)
    _flip(tmp_path / "30")
    again = Run(tmp_path)
    assert again.resume() == 20
    again.save(25)
    assert again.keeper.saved.steps() == [20, 25]


def test_a_step_is_verified_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Run(tmp_path).save(10)
    read: list[str] = []
    problems = digests.problems

    def counted(folder: pathlib.Path, expected: Any) -> list[str]:
        read.extend(expected)
        return problems(folder, expected)

    monkeypatch.setattr(digests, "problems", counted)
    run = Run(tmp_path)
    assert run.resume() == run.resume() == 10
    assert sorted(read) == sorted(digests.read(tmp_path / "10"))


def test_checkpoints_sealed_by_earlier_versions_are_resumed(
    tmp_path: pathlib.Path,
) -> None:
    run = Run(tmp_path)
    run.save(10)
    step = tmp_path / "10"
    # As they were: SHA-256 of every file, added after the commit.
    sums = {
        str(path.relative_to(step)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(step.rglob("*"))
        if path.is_file() and path.name != digests.DIGESTS
    }
    (step / digests.DIGESTS).write_text(json.dumps(sums))
    metadata = step / digests.METADATA
    values = json.loads(metadata.read_text())
    handler = "orbax.checkpoint._src.handlers.standard_checkpoint_handler"
    values["item_handlers"]["state"] = f"{handler}.StandardCheckpointHandler"
    metadata.write_text(json.dumps(values))
    sums[digests.METADATA] = hashlib.sha256(metadata.read_bytes()).hexdigest()
    (step / digests.DIGESTS).write_text(json.dumps(sums))
    again = Run(tmp_path)
    assert again.resume() == 10
    assert again.said == []
    _flip(step)
    with pytest.raises(checkpoint.CheckpointError, match="damaged"):
        Run(tmp_path).resume()


def test_a_resumed_run_is_bit_for_bit_after_damage(tmp_path: pathlib.Path) -> None:
    whole = toy.fit(toy.job(toy.mesh(1)), tmp_path / "whole")
    toy.fit(toy.job(toy.mesh(1)), tmp_path / "part", steps=4, checkpoint_every=2)
    _flip(tmp_path / "part/checkpoints/4")
    resumed = toy.fit(toy.job(toy.mesh(1)), tmp_path / "part")
    for ours, theirs in zip(
        jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
