"""The loop: resumed equals uninterrupted, and every record it keeps."""

import dataclasses
import json
import os
import pathlib
import signal
from typing import Any

import chex
import jax
import jax.numpy as jnp
import pytest

from soraflax.train import checkpoint, loop, metrics
from tests.train import toy


@dataclasses.dataclass
class Interrupted(toy.Data):
    """Data that sends this process a signal when batch `at` is read."""

    at: int = 4
    stop: signal.Signals = signal.SIGTERM

    def __next__(self) -> Any:
        if self.position + 1 == self.at:
            os.kill(os.getpid(), self.stop)
        return super().__next__()


def _position(workdir: pathlib.Path, step: int) -> int:
    """Where the data stood, in the checkpoint of a step."""
    saved = workdir / f"checkpoints/{step}/iterator/metadata"
    (position,) = json.loads(saved.read_text())["positions"]
    return json.loads(position)["position"]


@pytest.mark.parametrize(("count", "stop"), [(1, signal.SIGINT), (8, signal.SIGTERM)])
def test_resumed_equals_uninterrupted_bit_for_bit(
    tmp_path: pathlib.Path, count: int, stop: signal.Signals
) -> None:
    where = toy.mesh(count)
    whole = toy.fit(toy.job(where), tmp_path / "whole", steps=7)
    data = Interrupted(at=4, stop=stop)
    part = toy.fit(toy.job(where, data), tmp_path / "parts", steps=7)
    assert (int(part.step), data.position) == (3, 4)  # batch 4 was read, not used
    assert _position(tmp_path / "parts", 3) == 3
    resumed = toy.fit(toy.job(where), tmp_path / "parts", steps=7)
    assert _position(tmp_path / "parts", 7) == 7
    chex.assert_trees_all_equal(jax.device_get(whole), jax.device_get(resumed))
    names = ("loss", "gradient_norm", "largest")
    lines, expected = metrics.read(tmp_path / "parts"), metrics.read(tmp_path / "whole")
    last, last_expected = lines[-1], expected[-1]
    assert [last[n] for n in names] == [last_expected[n] for n in names]


def test_where_the_data_end_what_was_done_is_saved(tmp_path: pathlib.Path) -> None:
    where, course = toy.mesh(1), {"steps": 8}
    with pytest.raises(loop.DataEndedError, match="ended after 5 of 8 steps, which"):
        toy.fit(toy.job(where, toy.Data(length=5)), tmp_path / "data", **course)
    assert metrics.read(tmp_path / "data")[-1]["step"] == 5
    assert _position(tmp_path / "data", 5) == 5
    with pytest.raises(loop.DataEndedError, match=r"5 of 8 steps, .*train.steps=5"):
        toy.fit(toy.job(where, toy.Data(length=5)), tmp_path / "data", **course)
    ended = toy.fit(toy.job(where, toy.Data(length=5)), tmp_path / "data", steps=5)
    whole = toy.fit(toy.job(where), tmp_path / "whole", stop_at=5, **course)
    chex.assert_trees_all_equal(jax.device_get(whole), jax.device_get(ended))
    with pytest.raises(loop.DataEndedError, match=r"ended after 0 of 8 steps, more"):
        toy.fit(toy.job(where, toy.Data(length=0)), tmp_path / "none", **course)
    assert not list((tmp_path / "none").glob("checkpoints/[0-9]*"))


def test_checkpoints_in_passing_change_nothing(tmp_path: pathlib.Path) -> None:
    plain = toy.fit(toy.job(toy.mesh(1)), tmp_path / "a")
    saving = toy.fit(toy.job(toy.mesh(1)), tmp_path / "b", checkpoint_every=2)
    chex.assert_trees_all_equal(jax.device_get(plain), jax.device_get(saving))
    assert {p.name for p in (tmp_path / "b/checkpoints").iterdir()} == {"4", "6"}


def test_a_finished_run_is_left_as_it_is(tmp_path: pathlib.Path) -> None:
    first = toy.fit(toy.job(toy.mesh(1)), tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    again = toy.fit(toy.job(toy.mesh(1)), tmp_path)
    chex.assert_trees_all_equal(jax.device_get(first), jax.device_get(again))
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_a_shorter_run_than_is_saved_is_refused(tmp_path: pathlib.Path) -> None:
    """It would export more steps than it was asked for."""
    toy.fit(toy.job(toy.mesh(1)), tmp_path, steps=4)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    said = r"step 4 is saved, beyond train\.steps=3; train\.steps=4 ends there"
    with pytest.raises(ValueError, match=said):
        toy.fit(toy.job(toy.mesh(1)), tmp_path, steps=3)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert int(toy.fit(toy.job(toy.mesh(1)), tmp_path, steps=4).step) == 4


def test_order_and_records(tmp_path: pathlib.Path) -> None:
    seen = []

    def evaluate(params: Any, *, check: Any) -> dict[str, float]:
        check()
        seen.append(params)
        return {"validation_loss": 1.5}

    toy.fit(toy.job(toy.mesh(1), evaluate=evaluate), tmp_path, evaluate_every=4)
    lines = metrics.read(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 4, 6, 6]
    assert [line["step"] for line in lines if "validation_loss" in line] == [4, 6]
    assert lines[1].keys() >= {
        "loss",
        "gradient_norm",
        "parameter_norm",
        "learning_rate",
        "seconds_per_step",
        "useful_tokens_per_second",
        "model_flops_utilisation",
    }
    assert lines[1]["packing_efficiency"] == 0.75
    assert any((tmp_path / "tensorboard").iterdir())
    assert len(seen) == 2


def test_a_resumed_record_has_no_line_twice(tmp_path: pathlib.Path) -> None:
    toy.fit(toy.job(toy.mesh(1)), tmp_path, steps=4)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "loss": 0}\n{"step": 8, "lo')
    job = toy.job(toy.mesh(1))
    toy.fit(job, tmp_path, steps=6)
    assert [line["step"] for line in metrics.read(tmp_path)] == [2, 4, 6]


def test_data_that_ends_is_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="ended after 3 of 6 steps"):
        toy.fit(toy.job(toy.mesh(1), toy.Data(length=3)), tmp_path)


def test_divergence_is_an_error(tmp_path: pathlib.Path) -> None:
    def broken(params: Any, batch: Any, key: jax.Array) -> Any:
        value, extra = toy.loss(params, batch, key)
        return value * jnp.nan, extra

    with pytest.raises(loop.DivergenceError, match="not finite in steps 1 to 2"):
        toy.fit(toy.job(toy.mesh(1), loss=broken), tmp_path)


def test_another_job_in_the_same_workdir_is_refused(tmp_path: pathlib.Path) -> None:
    toy.fit(toy.job(toy.mesh(1)), tmp_path, steps=2)
    other = {**toy.IDENTITY, "model": {"width": 8}}
    with pytest.raises(checkpoint.CheckpointError, match=r"model\.width=16"):
        toy.fit(toy.job(toy.mesh(1), identity=other), tmp_path, steps=2)


def test_a_peak_is_always_found() -> None:
    peak = metrics.device_peak()
    assert peak.flops > 1e8
    assert "measured" in peak.source
