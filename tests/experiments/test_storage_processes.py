"""What two processes do together in a bucket, and in caching latents."""

import pathlib

from data_pipelines import verify
from tests import emulated_bucket
from tests.data_pipelines import clip_data
from tests.experiments import processes, storage_processes

MODULE = storage_processes.MODULE


def test_two_processes_train_and_resume_in_a_bucket(tmp_path: pathlib.Path) -> None:
    on_disk = processes.run("run_of_two", tmp_path, module=MODULE)
    with emulated_bucket.running() as bucket:
        folder = pathlib.Path("gs://bucket/run")
        in_bucket = processes.run("run_of_two", folder, module=MODULE)
        held = bucket.below("bucket/run/")
    assert in_bucket == on_disk
    assert in_bucket[0] == in_bucket[1] and in_bucket[0]["step"] == 4
    for name in ("checkpoints/4/commit_success.txt", "metrics.jsonl"):
        assert name in held
    for rank in (0, 1):  # each wrote its shards, and says that it lives
        assert any(f"checkpoints/4/state/ocdbt.process_{rank}/" in n for n in held)
        assert f"heartbeats/{rank}.json" in held


def test_two_processes_share_the_caching(tmp_path: pathlib.Path) -> None:
    clip_data.write_clips(tmp_path / "clips")
    first, second = processes.run("caching", tmp_path, module=MODULE)
    assert first["own"] == ["train-00000", "train-00002"]
    assert second["own"] == ["train-00001", "validation-00000"]
    assert first["ids"] == second["ids"] == [f"clip-{i}" for i in range(12)]
    assert verify.verify(tmp_path / "latents") == {"train": 12, "validation": 3}


def test_where_one_has_no_room_all_say_so(tmp_path: pathlib.Path) -> None:
    clip_data.write_clips(tmp_path / "clips")
    first, second = processes.run("failing", tmp_path, module=MODULE)
    assert first["error"] == "process 1: no space left on device"
    assert second["error"] == "no space left on device"
    assert not first["there"] and not second["there"]
