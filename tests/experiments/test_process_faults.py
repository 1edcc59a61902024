"""What several processes must agree on, and how they end, under faults."""

import pathlib
import re
import signal
import time

import pytest

from soraflax.train import checkpoint, watchdog
from tests.experiments import processes, signal_processes

SIGNALS = signal_processes.MODULE


def test_a_signal_to_one_stops_all_at_the_same_place(tmp_path: pathlib.Path) -> None:
    first, second = processes.run("stopping", tmp_path)
    assert first == second
    assert first["step"] == first["latest"] == 2
    assert first["asked"] < 600


def test_a_signal_to_one_stops_the_export_of_all(tmp_path: pathlib.Path) -> None:
    first, second = processes.run("exporting", tmp_path, module=SIGNALS)
    assert first == second
    assert first["said"] == "the run was asked to stop"
    assert 2 <= len(first["written"]) < 400
    assert first["same"] and first["names"] == ["model"]


def test_a_signal_to_one_stops_the_restore_of_all(tmp_path: pathlib.Path) -> None:
    first, second = processes.run("restoring", tmp_path, module=SIGNALS)
    assert first == second
    assert first["said"] == "the run was asked to stop"
    assert 1 <= first["rounds"] < first["files"]
    assert first["read"] == 0


def test_a_signal_to_one_stops_the_first_that_looks_at_clips(
    tmp_path: pathlib.Path,
) -> None:
    for found in processes.run("describing", tmp_path, module=SIGNALS):
        assert found["said"] == "asked to stop; the same command goes on"
        assert found["soon"]


def test_what_the_first_cannot_read_is_said_by_all(tmp_path: pathlib.Path) -> None:
    first, second = processes.run("describing_fails", tmp_path, module=SIGNALS)
    assert first["said"] == "too many are damaged"
    assert second["said"] == "process 0: too many are damaged"


@pytest.mark.parametrize("where", ["evaluating", "exporting"])
def test_a_signal_to_one_stops_the_expander_of_all(
    tmp_path: pathlib.Path, where: str
) -> None:
    first, second = processes.run(f"expander_{where}", tmp_path, module=SIGNALS)
    assert first == second
    assert first["said"] == "the run was asked to stop"
    assert 2 <= first["asked"] < 600
    assert first["found"] == []


@pytest.mark.parametrize("count", [2, 4])
def test_a_stalled_process_is_named_and_all_leave(
    tmp_path: pathlib.Path, count: int
) -> None:
    ended = processes.end("stalling", tmp_path, count=count)
    assert [status for status, _, _ in ended] == [watchdog.STALLED] * count
    for rank, (_, _, errors) in enumerate(ended):
        named = r"process 1 \(.*\) has been in input of step \d for \d+ s"
        assert re.search(named, errors), errors[-3000:]
        stacks = (tmp_path / "stacks" / f"{rank}.txt").read_text()
        assert "Current thread" in stacks and ", line " in stacks
    _next_launch_resumes(tmp_path, count=count)


@pytest.mark.parametrize("count", [2, 4])
def test_a_killed_process_ends_all_in_time(tmp_path: pathlib.Path, count: int) -> None:
    began = time.monotonic()
    ended = processes.end("killed", tmp_path, count=count)
    statuses = [status for status, _, _ in ended]
    assert statuses[1] == -signal.SIGKILL
    assert 0 not in statuses
    assert time.monotonic() - began < 120  # not the hour of a stall
    _next_launch_resumes(tmp_path, count=count)


def _next_launch_resumes(folder: pathlib.Path, *, count: int) -> None:
    """It goes on from a step before the fault, to the end."""
    with checkpoint.Checkpointer(folder / "checkpoints") as keeper:
        assert 1 <= keeper.saved.last_whole() <= 3
    for found in processes.run("sound", folder, count=count):
        assert found["step"] == 6


def test_models_are_read_by_shards_and_written_in_pieces(
    tmp_path: pathlib.Path,
) -> None:
    for found in processes.run("models", tmp_path):
        assert found["same"]
        assert len(set(found["digests"])) == 1
        assert found["gathered"] == [found["whole"] // 3] * 3
        assert found["drafts"] == []


def test_one_process_lists_steps_and_each_verifies_a_share(
    tmp_path: pathlib.Path,
) -> None:
    first, second = processes.run("checkpoints", tmp_path)
    for rank in (0, 1):  # each took the digests of what it wrote
        assert any(f"ocdbt.process_{rank}/" in name for name in first["files"]["20"])
    assert first["latest"] == second["latest"] == 20
    assert (first["position"], second["position"]) == (10, 11)
    assert first["said"] == second["said"]
    assert first["said"][-1] == "resuming at step 10, not 20"
    for step in ("10", "20"):
        shares = first["verified"][step], second["verified"][step]
        assert all(shares)
        assert sorted(shares[0] + shares[1]) == first["files"][step]
