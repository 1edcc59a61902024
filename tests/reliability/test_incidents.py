"""A batch that is not finite and a spike: recorded with their clips, and repeated."""

import dataclasses
import json
import pathlib
import sys
import types
from typing import Any

import chex
import jax
import numpy as np
import pytest

from experiments import replay
from experiments.stages import runtime
from soraflax.train import checkpoint, incidents, loop, metrics, replicas
from tests.train import test_replicas, toy

NAN, SPIKE, STEPS = 13, 17, 20
COURSE = {"log_every": 4, "checkpoint_every": 5, "keep": 10}
SETTINGS = {"stage": "toy", "distributed": False, "train": {"steps": STEPS, **COURSE}}


class Bad(toy.Data):
    """Batch `NAN` is not finite, and batch `SPIKE` a hundred times too large."""

    def __next__(self) -> dict[str, np.ndarray]:
        batch = super().__next__()
        factor = {NAN: np.float32(np.nan), SPIKE: np.float32(100)}
        return {"x": batch["x"] * factor.get(self.position - 1, np.float32(1))}


def job() -> Any:
    return toy.job(
        toy.mesh(1),
        Bad(),
        settings=SETTINGS,
        clips=lambda place: [f"clip-{place['position']}"],
    )


def run(values: Any, workdir: pathlib.Path) -> None:
    """The stage `toy`, as far as it is told."""
    course = {key: values["train"][key] for key in (*COURSE, "stop_at", "steps")}
    stopped = toy.fit(job(), workdir, **course)
    runtime.require_end(int(stopped.step), STEPS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("run")
    toy.fit(job(), folder, steps=STEPS, **COURSE)
    return folder


def test_they_are_caught_counted_and_explained(trained: pathlib.Path) -> None:
    names = {path.name for path in (trained / "incidents").iterdir()}
    assert names == {f"{NAN}-0.json", f"{SPIKE}-0.json"}
    spike = incidents.Incident.read(trained / "incidents" / f"{SPIKE}-0.json")
    assert spike.clips == [f"clip-{SPIKE}"]
    assert "times the usual" in spike.reason
    bad = incidents.Incident.read(trained / "incidents" / f"{NAN}-0.json")
    assert bad.reason == "loss or gradient not finite" and bad.clips == ["clip-13"]
    lines = {line["step"]: line for line in metrics.read(trained)}
    assert lines[16]["skipped"] == 0.25 and lines[20]["spikes"] == 1
    assert lines[12]["skipped"] == lines[12]["spikes"] == 0


@pytest.mark.parametrize("step", [NAN, SPIKE])
def test_a_step_is_repeated_bit_for_bit(
    step: int,
    trained: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module: Any = types.ModuleType("stage")
    module.run = run
    monkeypatch.setitem(sys.modules, "experiments.stages.toy", types.ModuleType("toy"))
    monkeypatch.setitem(sys.modules, "experiments.stages.toy.stage", module)
    record = trained / "incidents" / f"{step}-0.json"
    assert replay.main([str(record)]) == 0
    said = capsys.readouterr().out
    assert f"clip: clip-{step}" in said and said.endswith("repeated bit for bit\n")
    values = json.loads(record.read_text())
    values["metrics"]["learning_rate"] += 1e-6
    changed = record.with_name(f"{step}-1.json")
    changed.write_text(json.dumps(values))
    assert replay.main([str(changed)]) == 2
    assert f"step {step} came out otherwise: learning_rate" in capsys.readouterr().err
    changed.unlink()


def test_what_is_no_record_is_one_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.json").write_text("{}")
    assert replay.main([str(tmp_path / "x.json")]) == 2
    assert "no record of an incident" in capsys.readouterr().err


def test_a_flipped_bit_in_one_replica_is_not_saved(tmp_path: pathlib.Path) -> None:
    """It is found before the next checkpoint, and the one before stays."""
    where = toy.mesh(8)
    toy.fit(toy.job(where), tmp_path, steps=2)

    def damaged(params: Any, *, check: Any = None) -> dict[str, float]:
        scale = params["RMSNorm_0"]["scale"]
        params["RMSNorm_0"]["scale"] = test_replicas.flipped(scale, device=3)
        return {}

    job = toy.job(where, evaluate=damaged)
    with pytest.raises(
        replicas.ReplicaError, match=r"^ema/RMSNorm_0/scale: .* device 3"
    ):
        toy.fit(job, tmp_path, steps=6, evaluate_every=3)
    with checkpoint.Checkpointer(tmp_path / "checkpoints") as keeper:
        assert keeper.saved.last_whole() == 2


def test_a_state_that_is_not_finite_is_not_saved(tmp_path: pathlib.Path) -> None:
    """As of a device that failed; the step before stays, and is resumed exactly."""

    def spoil(params: Any, *, check: Any = None) -> dict[str, float]:
        scale = params["RMSNorm_0"]["scale"]
        params["RMSNorm_0"]["scale"] = scale.at[3].set(np.nan)
        return {}

    course = {"steps": 6, "checkpoint_every": 2}
    job = toy.job(toy.mesh(1), evaluate=spoil)
    with pytest.raises(
        loop.DivergenceError, match=r"^ema/RMSNorm_0/scale is not finite after step 4"
    ):
        toy.fit(job, tmp_path / "run", evaluate_every=3, **course)
    with checkpoint.Checkpointer(tmp_path / "run/checkpoints") as keeper:
        assert keeper.saved.last_whole() == 2
    resumed = toy.fit(toy.job(toy.mesh(1)), tmp_path / "run", **course)
    whole = toy.fit(toy.job(toy.mesh(1)), tmp_path / "whole", **course)
    chex.assert_trees_all_equal(jax.device_get(whole), jax.device_get(resumed))


def test_parameters_that_are_not_finite_are_named(tmp_path: pathlib.Path) -> None:
    """Every step is skipped then, and a lower learning rate is no help."""
    job = toy.job(toy.mesh(1))

    def spoiled() -> Any:
        params = job.init()
        params["Linear_1"]["kernel"] = params["Linear_1"]["kernel"].at[0, 0].set(np.inf)
        return params

    with pytest.raises(
        loop.DivergenceError, match=r"^params/Linear_1/kernel \(and 1 others\) is not"
    ):
        toy.fit(dataclasses.replace(job, init=spoiled), tmp_path)
    assert {p.name for p in (tmp_path / "incidents").iterdir()} == {
        "0-0.json",
        "1-0.json",
    }
