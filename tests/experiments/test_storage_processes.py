"""What two processes do together in a bucket, and in caching latents."""

import pathlib

from data_pipelines import verify
from soraflax.pretrained import io as model_io
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


def test_a_signal_to_one_stops_the_caching_of_all(tmp_path: pathlib.Path) -> None:
    clip_data.write_clips(tmp_path / "clips")
    ended = processes.run("stopped", tmp_path, module=MODULE)
    for rank, found in enumerate(ended):
        assert found["said"] == "asked to stop; the same command goes on"
        assert found["own"] == [f"train-0000{rank}"]
        assert found["files"] == [".json", ".json", ".shard", ".shard"]
        assert 0 < found["asked"] < 1000
    first, second = processes.run("caching", tmp_path, module=MODULE)
    assert first["own"] == ["train-00002"]
    assert second["own"] == ["validation-00000"]
    assert verify.verify(tmp_path / "latents") == {"train": 12, "validation": 3}


def test_each_process_writes_its_part_of_a_model(tmp_path: pathlib.Path) -> None:
    first, second = processes.run("writing", tmp_path, module=MODULE)
    paths = {n: tmp_path / n / model_io.PARAMS for n in ("alone", "unseen", "shared")}
    held = {name: path.read_bytes() for name, path in paths.items()}
    assert held["alone"] == held["unseen"] == held["shared"]
    assert first["unseen"]["written"] == second["unseen"]["written"] == 0
    wrote = [found["shared"]["written"] for found in (first, second)]
    assert sum(wrote) == len(held["alone"])
    assert wrote[0] % 64 == 0 and 0 <= wrote[0] - wrote[1] < 128
    for found in (first, second):
        for name in ("unseen", "shared"):
            assert found[name]["digest"] == found["digest"]
            assert found[name]["error"] == ""
        assert found["names"] == ["alone", "shared", "unseen"]
    said = "params.safetensors: process 1 could not write its part"
    assert first["full"]["error"] == said
    assert second["full"]["error"] == "no space left on device"


def test_each_process_sends_its_pieces_of_a_model(tmp_path: pathlib.Path) -> None:
    def refuse(method: str, name: str) -> bool:
        is_second = name[-5:].isdigit() and int(name[-5:]) % 2 == 1
        last = "bucket/models/shared/config.json" in bucket.objects
        return method == "PUT" and is_second and last

    with emulated_bucket.running() as bucket:
        bucket.refuse = refuse
        folder = pathlib.Path("gs://bucket/models")
        first, second = processes.run("writing_to_a_bucket", folder, module=MODULE)
        held = bucket.below("bucket/models/")
    names = (model_io.CONFIG, model_io.PARAMS)
    assert sorted(held) == [f"{m}/{n}" for m in ("alone", "shared") for n in names]
    alone, shared = (held[f"{m}/{model_io.PARAMS}"] for m in ("alone", "shared"))
    assert alone == shared
    pieces = range(-(-len(shared) // 24))
    assert len(pieces) > 2 * 32  # of which a bucket joins 32 at once
    assert first["shared"]["sent"] == list(pieces[::2])
    assert second["shared"]["sent"] == list(pieces[1::2])
    for found in (first, second):
        assert found["shared"]["digest"] == found["digest"]
        assert found["shared"]["error"] == found["full"]["digest"] == ""
    said = "params.safetensors: process 1 could not write its part"
    assert first["full"]["error"] == said
    assert "quota exceeded" in second["full"]["error"]
    assert second["full"]["sent"] == []
