"""What two processes must agree on, under faults."""

import pathlib
import re

from soraflax.train import checkpoint, watchdog
from tests.experiments import processes


def test_a_signal_to_one_stops_all_at_the_same_place(tmp_path: pathlib.Path) -> None:
    first, second = processes.run("stopping", tmp_path)
    assert first == second
    assert first["step"] == first["latest"] == 2
    assert first["asked"] < 600


def test_a_stalled_process_is_named_and_all_leave(tmp_path: pathlib.Path) -> None:
    ended = processes.end("stalling", tmp_path)
    statuses = [status for status, _, _ in ended]
    assert watchdog.STALLED in statuses and 0 not in statuses
    said = "".join(errors for _, _, errors in ended)
    assert re.search(r"process 1 \(.*\) has been in input of step \d for \d+ s", said)
    assert list((tmp_path / "stacks").glob("*.txt"))
    with checkpoint.Checkpointer(tmp_path / "checkpoints") as keeper:
        assert keeper.saved.last_whole() >= 1  # the next launch resumes there


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
