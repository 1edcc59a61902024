"""Runs whose folder is in a bucket: as on a disk, bit for bit, and under faults."""

import importlib.util
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import chex
import jax
import ml_dtypes
import numpy as np
import pytest

from experiments.stages import runtime
from soraflax import buckets
from soraflax.pretrained import io as model_io
from soraflax.train import checkpoint, digests, goodput, metrics
from tests import emulated_bucket
from tests.reliability import test_checkpoint_faults
from tests.train import test_loop, toy

RUN = "gs://bucket/run"


def _names(bucket: emulated_bucket.Store, folder: str) -> set[str]:
    return {name.split("/")[0] for name in bucket.below(f"bucket/{folder}/")}


def test_a_run_in_a_bucket_is_bit_for_bit_one_on_a_disk(
    tmp_path: pathlib.Path, bucket: emulated_bucket.Store
) -> None:
    job = toy.job(toy.mesh(8))
    whole = toy.fit(job, tmp_path / "whole", steps=7)
    data = test_loop.Interrupted(at=4)
    part = toy.fit(toy.job(toy.mesh(8), data), RUN, steps=7)
    assert int(part.step) == 3
    assert bucket.objects["bucket/run/checkpoints/3/commit_success.txt"]
    resumed = toy.fit(toy.job(toy.mesh(8)), RUN, steps=7)
    chex.assert_trees_all_equal(jax.device_get(whole), jax.device_get(resumed))
    # The record is whole: that of the first life too.
    text = bucket.objects["bucket/run/metrics.jsonl"].decode()
    steps = [json.loads(line)["step"] for line in text.splitlines()]
    assert steps == [line["step"] for line in metrics.read(tmp_path / "whole")]
    (tmp_path / goodput.FILE).write_bytes(bucket.objects["bucket/run/goodput.jsonl"])
    assert goodput.read(tmp_path).lives == 2
    assert _names(bucket, "run/checkpoints") == {"3", "7"}
    assert _names(bucket, "run") >= {"tensorboard", "heartbeats"}


class Run(test_checkpoint_faults.Run):
    """A run in the bucket that saves at given steps."""

    def __init__(self) -> None:
        super().__init__(f"{RUN}/checkpoints")


def _largest(bucket: emulated_bucket.Store, step: int) -> str:
    prefix = f"bucket/run/checkpoints/{step}/"
    held = bucket.below(prefix)
    return prefix + max(held, key=lambda name: len(held[name]))


def _flip(bucket: emulated_bucket.Store, name: str) -> None:
    data = bytearray(bucket.objects[name])
    data[100] ^= 64
    bucket.put(name, bytes(data))


def _truncate(bucket: emulated_bucket.Store, name: str) -> None:
    bucket.put(name, bucket.objects[name][:-1])


def _remove(bucket: emulated_bucket.Store, name: str) -> None:
    bucket.remove(name)


@pytest.mark.parametrize("damage", [_flip, _truncate, _remove])
def test_a_damaged_object_is_found_and_the_step_before_used(
    bucket: emulated_bucket.Store, damage: Callable[..., None]
) -> None:
    run = Run()
    run.save(10)
    run.save(20)
    damage(bucket, _largest(bucket, 20))
    again = Run()
    assert again.resume() == 10
    assert again.said[0].startswith(f"{RUN}/checkpoints/20/")
    assert again.said[1] == "resuming at step 10, not 20"


def test_arrays_are_not_read_to_be_verified(bucket: emulated_bucket.Store) -> None:
    run = Run()
    run.save(10)
    again = Run()
    bucket.requests.clear()
    assert again.keeper.saved.last_whole() == 10
    read = [name for method, name in bucket.requests if method == "GET"]
    assert read
    assert not [name for name in read if "/state/" in name]


# TensorStore still answers an event loop of orbax that is closed by then.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_bucket_that_is_full_leaves_the_step_before(
    bucket: emulated_bucket.Store,
) -> None:
    run = Run()
    run.save(10)
    bucket.refuse = lambda method, name: method == "PUT" and "/20/state" in name
    with pytest.raises(Exception, match="quota exceeded"):
        run.save(20)
    bucket.refuse = lambda method, name: False
    again = Run()
    assert again.keeper.saved.steps() == [10]
    assert again.resume() == 10
    again.save(20)
    assert Run().resume() == 20


def test_a_step_without_its_marker_is_none(bucket: emulated_bucket.Store) -> None:
    run = Run()
    run.save(10)
    run.save(20)
    bucket.remove("bucket/run/checkpoints/20/commit_success.txt")
    assert Run().resume() == 10


def test_old_steps_are_removed(bucket: emulated_bucket.Store) -> None:
    run = Run()
    for step in (10, 20, 30):
        run.save(step)
    run.keeper.close()
    assert _names(bucket, "run/checkpoints") == {"20", "30"}


def test_a_step_copied_to_a_disk_is_verified_there(
    tmp_path: pathlib.Path, bucket: emulated_bucket.Store
) -> None:
    Run().save(10)
    for name, data in bucket.below("bucket/run/checkpoints/10/").items():
        path = tmp_path / "10" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    digests.verify(tmp_path / "10")
    path = max(digests.files(tmp_path / "10"), key=lambda p: os.stat(p).st_size)
    data = bytearray(path.read_bytes())
    data[100] ^= 64
    path.write_bytes(data)
    with pytest.raises(checkpoint.CheckpointError, match=r"damaged \(CRC-32\)"):
        digests.verify(tmp_path / "10")


def test_what_goes_wrong_in_the_first_steps_leaves_nothing(
    bucket: emulated_bucket.Store,
) -> None:
    data = toy.Data(length=0)
    with (
        pytest.raises(ValueError, match="ended after 0"),
        runtime.run_directory(RUN) as path,
    ):
        toy.fit(toy.job(toy.mesh(1), data), path)
    assert not bucket.objects


def test_no_access_is_bad_input(bucket: emulated_bucket.Store) -> None:
    bucket.refuse = lambda method, name: True
    with (
        pytest.raises((ValueError, OSError), match="quota exceeded"),
        runtime.run_directory(RUN) as path,
    ):
        toy.fit(toy.job(toy.mesh(1)), path)


def _model(value: float) -> dict[str, Any]:
    return {"layer": {"kernel": np.full((300, 4), value, np.float32)}}


@pytest.fixture
def home(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Where what was in buckets is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "soraflax/models"


def test_a_model_is_written_whole_and_read_from_a_copy(
    tmp_path: pathlib.Path, bucket: emulated_bucket.Store, home: pathlib.Path
) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part/note.txt").write_text("a folder")
    files = {"note.txt": b"bytes", "part": tmp_path / "part"}
    digest = model_io.save_model(f"{RUN}/model", _model(1), config={}, files=files)
    assert set(bucket.below("bucket/run/")) == {
        "model/config.json",
        "model/note.txt",
        "model/params.safetensors",
        "model/part/note.txt",
    }
    found = model_io.find_model(RUN)
    assert found.parent == home
    assert (found / "part/note.txt").read_text() == "a folder"
    params, _ = model_io.load_model(RUN)
    assert model_io.digest(params) == digest == model_io.model_digest(pathlib.Path(RUN))
    bucket.requests.clear()
    model_io.load_model(RUN)
    assert not [name for _, name in bucket.requests if name.endswith(".safetensors")]


def test_a_model_takes_the_place_of_the_one_before(
    bucket: emulated_bucket.Store, home: pathlib.Path
) -> None:
    model_io.save_model(f"{RUN}/model", _model(1), config={}, files={"old": b""})
    model_io.load_model(RUN)
    model_io.save_model(f"{RUN}/model", _model(2), config={})
    params, _ = model_io.load_model(RUN)
    np.testing.assert_array_equal(
        params["layer"]["kernel"], _model(2)["layer"]["kernel"]
    )
    assert set(bucket.below("bucket/run/model/")) == {
        "config.json",
        "params.safetensors",
    }


@pytest.mark.parametrize(
    "at", ["params.safetensors", "note.txt", "config.json", "model/params.safetensors"]
)
def test_a_model_half_written_is_none(
    bucket: emulated_bucket.Store, home: pathlib.Path, at: str
) -> None:
    model_io.save_model(f"{RUN}/model", _model(1), config={})
    bucket.refuse = lambda method, name: method == "PUT" and name.endswith(at)
    with pytest.raises(OSError, match="quota exceeded"):
        model_io.save_model(
            f"{RUN}/model", _model(2), config={}, files={"note.txt": b""}
        )
    bucket.refuse = lambda method, name: False
    if at.startswith("model/"):  # the one before is gone, and nothing passes for one
        with pytest.raises(FileNotFoundError, match="no trained model"):
            model_io.load_model(RUN)
    else:
        assert model_io.load_model(RUN)[0]["layer"]["kernel"].max() == 1
    model_io.save_model(f"{RUN}/model", _model(2), config={})
    assert model_io.load_model(RUN)[0]["layer"]["kernel"].max() == 2


def test_other_objects_are_not_replaced(
    bucket: emulated_bucket.Store, home: pathlib.Path
) -> None:
    bucket.put("bucket/run/model/thesis.txt", b"mine")
    with pytest.raises(model_io.ModelError, match="exists and is not a model"):
        model_io.save_model(f"{RUN}/model", _model(1), config={})
    assert set(bucket.below("bucket/run/model/")) == {"thesis.txt"}


def test_parameters_of_two_dtypes_come_back(
    bucket: emulated_bucket.Store, home: pathlib.Path
) -> None:
    params = {
        "a": np.arange(6, dtype=ml_dtypes.bfloat16),
        "b": np.arange(6, dtype=np.float32),
        "c": np.arange(6, dtype=ml_dtypes.bfloat16),
    }
    model_io.save_model(f"{RUN}/model", params, config={})
    back, _ = model_io.load_model(RUN)
    assert back.keys() == params.keys()
    assert all(leaf.tolist() == list(range(6)) for leaf in back.values())


def test_names_do_not_leave_the_folder(
    bucket: emulated_bucket.Store, home: pathlib.Path
) -> None:
    model_io.save_model(f"{RUN}/model", _model(1), config={})
    bucket.put("bucket/run/model/../../evil.txt", b"x")
    with pytest.raises(buckets.BucketError, match="not a name inside"):
        model_io.find_model(RUN)
    assert not home.parent.parent.joinpath("evil.txt").exists()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("s3://bucket/run", "s3 is not supported; use gs://"),
        ("s3:/bucket/run", "s3 is not supported; use gs://"),
        ("gs://", "names no bucket; use gs://BUCKET/FOLDER"),
    ],
)
def test_other_places_are_refused_by_name(path: str, said: str) -> None:
    with pytest.raises(buckets.BucketError, match=said):
        buckets.folder(path)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(buckets.BucketError, match=r"pip install 'soraflax\[gcs\]'"):
        buckets.folder("gs://bucket/run")
