"""SIGTERM while compiling, caching, validating, exporting; checkpoints by time."""

import os
import pathlib
import signal
import threading
import time
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import embed, prepare, recaption, records, text_features
from data_pipelines.builders import world
from experiments.scaling import sweep
from experiments.stages import runtime
from soraflax.cli import parser as cli
from soraflax.pretrained import io as model_io
from soraflax.train import checkpoint, digests, metrics, saved_steps
from tests.experiments import world as small_world
from tests.train import toy


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_in_an_evaluation_the_step_is_saved(tmp_path: pathlib.Path) -> None:
    seen: list[int] = []

    def evaluate(params: Any, *, check: Any) -> dict[str, float]:
        for batch in range(3):
            check()
            seen.append(batch)
            if len(seen) == 2:
                _terminate()
        return {"validation/loss": 1.0}

    job = toy.job(toy.mesh(1), evaluate=evaluate)
    stopped = toy.fit(job, tmp_path / "part", steps=6, evaluate_every=3)
    assert int(stopped.step) == 3
    assert seen == [0, 1]  # the rest of the evaluation is left out
    resumed = toy.fit(job, tmp_path / "part", steps=6, evaluate_every=3)
    whole = toy.fit(toy.job(toy.mesh(1)), tmp_path / "whole", steps=6)
    chex.assert_trees_all_equal(jax.device_get(whole), jax.device_get(resumed))


def test_in_the_last_evaluation_the_last_step_is_saved(tmp_path: pathlib.Path) -> None:
    def evaluate(params: Any, *, check: Any) -> dict[str, float]:
        _terminate()
        check()
        return {}

    with pytest.raises(runtime.Interrupted, match="step 4 is saved"):
        toy.fit(toy.job(toy.mesh(1), evaluate=evaluate), tmp_path, steps=4)
    with checkpoint.Checkpointer(tmp_path / "checkpoints") as keeper:
        assert keeper.saved.latest() == 4


def test_while_the_first_step_compiles_that_step_is_saved(
    tmp_path: pathlib.Path,
) -> None:
    """Compilation goes to its end: there is nothing to save before."""

    def loss(params: Any, batch: Any, key: jax.Array) -> Any:
        _terminate()  # this is traced once, within the compilation
        return toy.loss(params, batch, key)

    stopped = toy.fit(toy.job(toy.mesh(1), loss=loss), tmp_path / "part", steps=4)
    assert int(stopped.step) == 1
    resumed = toy.fit(toy.job(toy.mesh(1)), tmp_path / "part", steps=4)
    whole = toy.fit(toy.job(toy.mesh(1)), tmp_path / "whole", steps=4)
    chex.assert_trees_all_equal(jax.device_get(whole), jax.device_get(resumed))


@pytest.mark.parametrize("place", ["verify", "read"])
def test_in_a_restore_the_step_stays(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    toy.fit(toy.job(toy.mesh(1)), tmp_path / "run", stop_at=2)

    def interrupted(*_: Any, **__: Any) -> Any:
        _terminate()
        time.sleep(60)

    with monkeypatch.context() as patch:
        if place == "verify":
            patch.setattr(digests, "problems", interrupted)
        else:
            patch.setattr(checkpoint._StateHandler, "restore", interrupted)
        began = time.monotonic()
        with (
            pytest.raises(runtime.Interrupted),
            runtime.run_directory(tmp_path / "run") as path,
        ):
            toy.fit(toy.job(toy.mesh(1)), path)
    assert time.monotonic() - began < 50
    assert int(toy.fit(toy.job(toy.mesh(1)), tmp_path / "run").step) == 6


def test_caching_leaves_no_draft(tmp_path: pathlib.Path) -> None:
    with (
        pytest.raises(runtime.Interrupted),
        runtime.run_directory(tmp_path / "run") as path,
        records.publish(path / "latents") as draft,
    ):
        (draft / "shard").write_bytes(b"half")
        _terminate()
    assert list((tmp_path / "run").iterdir()) == []


def test_making_a_dataset_leaves_no_draft(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write = world.WorldClips.write

    def interrupted(self: Any) -> Any:
        written = write(self)
        assert list(tmp_path.rglob("*.array_record*"))
        _terminate()
        return written

    monkeypatch.setattr(world.WorldClips, "write", interrupted)
    words = ["--world", "bodies", "--count", "4", "--workers", "1"]
    assert prepare.main([*words, "--output", str(tmp_path / "data")]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        "prepare: stopped; nothing was written"
    )
    assert list(tmp_path.iterdir()) == []


def test_embedding_leaves_no_draft(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = small_world.write_text_encoder(tmp_path / "text")
    clips = small_world.write(tmp_path / "clips", count=2)
    monkeypatch.setattr(text_features, "_check_finite", lambda *_: _terminate())
    words = ["--dataset", str(clips), "--text-encoder", str(encoder)]
    assert embed.main([*words, "--output", str(tmp_path / "features")]) == 130
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clips", "text"]


def test_recaptioning_keeps_the_chunks_that_are_done(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, asked = small_world.write(tmp_path / "clips", count=4), []

    def caption(name: str, clip: Any) -> str:
        asked.append(clip.id)
        if len(asked) == 3:
            _terminate()
        return "a red circle"

    (tmp_path / "mine.py").write_text("def own(video): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(recaption, "_call", caption)
    words = [str(clips), "--function", "mine:own", "--name", "mine", "--chunk", "2"]
    assert recaption.main(words) == 130
    assert recaption.main(words) == 0
    assert len(asked) == 3 + 2 and len({*asked}) == 4


def test_a_sweep_stops_the_point_that_it_trains(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits until that has saved."""
    (tmp_path / "point.py").write_text(
        "import pathlib, signal, sys, time\n"
        "def stop(*_):\n"
        "    time.sleep(0.5)\n"
        "    pathlib.Path('saved').touch()\n"
        "    sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "pathlib.Path('began').touch()\n"
        "time.sleep(60)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "TRAIN", "point")

    def terminate() -> None:
        while not (tmp_path / "began").exists():
            time.sleep(0.02)
        _terminate()

    threading.Thread(target=terminate, daemon=True).start()
    assert cli.run_command("sweep", lambda: sweep.train_here([])) == 130
    assert (tmp_path / "saved").exists()


def test_exporting_leaves_the_model_before(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = {"kernel": np.ones(3, np.float32)}
    with runtime.run_directory(tmp_path / "run") as path:
        before = model_io.save_model(path / "model", params, config={})
    monkeypatch.setattr(model_io, "_add", lambda *_: _terminate())
    with (
        pytest.raises(runtime.Interrupted),
        runtime.run_directory(tmp_path / "run") as path,
    ):
        params = {"kernel": np.zeros(3, np.float32)}
        model_io.save_model(path / "model", params, config={}, files={"card": b""})
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["model"]
    assert model_io.model_digest(tmp_path / "run") == before


def test_a_checkpoint_is_due_by_time_too(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    save = checkpoint.Checkpointer.save

    def recorded(self: Any, step: int, *rest: Any, **keywords: Any) -> None:
        saved.append(step)
        save(self, step, *rest, **keywords)

    monkeypatch.setattr(checkpoint.Checkpointer, "save", recorded)
    course = {"steps": 12, "checkpoint_every": 0, "checkpoint_minutes": 1.0}
    monkeypatch.setattr(checkpoint.Checkpointer, "age", lambda self: 59.0)
    toy.fit(toy.job(toy.mesh(1)), tmp_path / "soon", **course)
    monkeypatch.setattr(checkpoint.Checkpointer, "age", lambda self: 60.0)
    timed = toy.fit(toy.job(toy.mesh(1)), tmp_path / "late", log_every=4, **course)
    assert saved == [12, 4, 8, 12]
    plain = toy.fit(toy.job(toy.mesh(1)), tmp_path / "plain", steps=12)
    chex.assert_trees_all_equal(jax.device_get(plain), jax.device_get(timed))


def test_steps_of_a_period_are_kept(tmp_path: pathlib.Path) -> None:
    course = {"checkpoint_every": 1, "keep": 2, "keep_period": 3}
    toy.fit(toy.job(toy.mesh(1)), tmp_path, steps=8, **course)
    found = saved_steps.SavedSteps(tmp_path / "checkpoints", keep=2)
    assert found.steps() == [3, 6, 7, 8]


def test_a_skipped_step_does_not_hide_the_others(tmp_path: pathlib.Path) -> None:
    def loss(params: Any, batch: Any, key: jax.Array) -> Any:
        value, extra = toy.loss(params, batch, key)
        bad = batch["x"][0, 0] > 1e6
        return jnp.where(bad, jnp.nan, value), extra

    class Spoiled(toy.Data):
        def __next__(self) -> Any:
            batch = super().__next__()
            if self.position == 2:
                batch["x"][0, 0] = 1e9
            return batch

    toy.fit(toy.job(toy.mesh(1), Spoiled(), loss=loss), tmp_path, steps=4, log_every=4)
    (line,) = metrics.read(tmp_path)
    assert line["skipped"] == 0.25
    assert np.isfinite([line["loss"], line["gradient_norm"], line["largest"]]).all()
