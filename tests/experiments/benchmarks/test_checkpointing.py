"""The benchmark of checkpoints and of the loop, on a small state."""

import pathlib

from experiments.benchmarks import checkpointing


def test_a_state_is_saved_verified_and_restored(tmp_path: pathlib.Path) -> None:
    found = checkpointing.measure_checkpoints(tmp_path, megabytes=1, repeats=1)
    assert 0 < found["blocking_seconds_per_gb"] <= found["save_seconds_per_gb"]
    assert found["verify_seconds_per_gb"] > 0 < found["restore_seconds_per_gb"]
    assert found["gigabytes"] == 0.001


def test_a_loop_takes_no_less_than_its_steps(tmp_path: pathlib.Path) -> None:
    line = checkpointing.measure_loop(tmp_path, steps=40)
    assert line["seconds_per_step"] >= checkpointing.STEP_SECONDS
    assert line["ok"] == (line["overhead"] < checkpointing.OVERHEAD)


def test_a_process_that_fails_is_one_line(
    monkeypatch, capsys, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setattr(checkpointing, "MODULE", "experiments.benchmarks.none")
    words = ["--processes", "1", "--folder", str(tmp_path)]
    assert checkpointing.main(words) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "checkpointing: 1 processes: one of them failed"
