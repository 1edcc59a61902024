"""Caching in parts: the same for any number of workers, resumed, and one bad clip."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines import latent_parts, latents, records, storage, transforms, verify
from tests.data_pipelines import clip_data

CONFIG = latents.LatentCacheConfig(
    fit=transforms.FitConfig(max_tokens=100, max_frames=17), batch=4, chunk=3
)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_parts, "PART", 5)
    monkeypatch.setattr(storage, "RETRY_SECONDS", ())


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_data.write_clips(tmp_path_factory.mktemp("data") / "clips")


def _job(clips: Path, output: Path, **changes: Any) -> latent_parts.CacheJob:
    encoder = changes.pop("encoder", clip_data.encoder())
    config = dataclasses.replace(CONFIG, **changes)
    return latent_parts.CacheJob(clips, output, encoder=encoder, config=config)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_any_number_of_workers_writes_the_same_bytes(
    clips: Path, tmp_path: Path
) -> None:
    latents.cache_latents(
        clips, tmp_path / "one", encoder=clip_data.encoder(), config=CONFIG
    )
    for index in (2, 0, 1):
        _job(clips, tmp_path / "three").encode(index, count=3)
    job = _job(clips, tmp_path / "three")
    assert [part.name for part in job.parts] == [
        "train-00000",
        "train-00001",
        "train-00002",
        "validation-00000",
    ]
    job.finish()
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "three")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "three"]
    assert verify.verify(tmp_path / "one") == {"train": 12, "validation": 3}
    stored = latents.open_latents(tmp_path / "one")
    cells = np.concatenate([r.latent.reshape(-1, 5).astype(np.float64) for r in stored])
    np.testing.assert_allclose(stored.mean, cells.mean(0), atol=1e-6)
    np.testing.assert_allclose(stored.std, cells.std(0), rtol=1e-5)


def test_what_is_sealed_is_not_encoded_again(clips: Path, tmp_path: Path) -> None:
    encoder, calls = clip_data.encoder(), []

    def encode(video: np.ndarray) -> Any:
        calls.append(len(video))
        if len(calls) == 7:
            raise KeyboardInterrupt  # in the second part
        return encoder.encode(video)

    stopped = dataclasses.replace(encoder, encode=encode)
    with pytest.raises(KeyboardInterrupt):
        latents.cache_latents(clips, tmp_path / "out", encoder=stopped, config=CONFIG)
    assert not (tmp_path / "out").exists()
    sealed = _job(clips, tmp_path / "out")
    assert [part.number for part in sealed.missing()] == [1, 2, 0]
    before = len(calls)
    latents.cache_latents(clips, tmp_path / "out", encoder=stopped, config=CONFIG)
    again = len(calls) - before
    calls.clear()
    calls += [0] * 10  # no interruption
    latents.cache_latents(clips, tmp_path / "whole", encoder=stopped, config=CONFIG)
    assert again < len(calls) - 10
    assert _bytes(tmp_path / "out") == _bytes(tmp_path / "whole")


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"encoder": clip_data.encoder("b" * 64)}, {"windows": 2}]
)
def test_parts_of_another_making_are_none(
    clips: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    job = _job(clips, tmp_path / "out")
    job.encode()
    assert not job.missing()
    assert len(_job(clips, tmp_path / "out", **change).missing()) == 4


@pytest.mark.parametrize(
    "damage", ["shorter", "gone", "no seal", "half a seal", "empty seal"]
)
def test_a_part_that_is_not_whole_is_encoded_again(
    clips: Path, tmp_path: Path, damage: str
) -> None:
    job = _job(clips, tmp_path / "out")
    job.encode()
    shard, seal = (job.folder / f"train-00001.{kind}" for kind in ("shard", "json"))
    if damage == "shorter":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "gone":
        shard.unlink()
    elif damage == "no seal":
        seal.unlink()
    elif damage == "empty seal":
        seal.write_text("{}")
    else:
        seal.write_text(seal.read_text()[:40])
    with pytest.raises(
        records.DatasetError, match=r"1 of 4 parts are not encoded yet, .* train-00001"
    ):
        job.finish()
    job.encode()
    assert job.finish()["splits"] == {"train": 12, "validation": 3}


def _broken(folder: Path, *, bad: int, count: int = 12) -> Path:
    clips = [clip_data.clip(i) for i in range(count)]
    for index in range(bad):
        clips[3 + index] = dataclasses.replace(clips[3 + index], video=b"no video")
    with records.publish(folder) as work:
        builder = clip_data.Clips(data_dir=work, clips={"train": clips})
        report = [{"input": clip.id, "outcome": "kept"} for clip in clips]
        info = {"kind": "clips", "name": "test"}
        records.write_metadata(work, builder.write(), info=info, report=report)
    return folder


def test_one_broken_clip_costs_one_clip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = _broken(tmp_path / "clips", bad=1)
    info = latents.cache_latents(
        clips, tmp_path / "out", encoder=clip_data.encoder(), config=CONFIG
    )
    assert info["splits"] == {"train": 11}
    names = [record.id for record in latents.open_latents(tmp_path / "out")]
    assert names == [f"clip-{i}" for i in range(12) if i != 3]
    (line,) = (
        line
        for line in records.read_report(tmp_path / "out")
        if line["outcome"] == "failed"
    )
    assert line["input"] == "clip-3" and line["reason"]
    assert "it is left out" in capsys.readouterr().err


def test_too_many_broken_clips_are_an_error_and_what_is_encoded_stays(
    tmp_path: Path,
) -> None:
    clips = _broken(tmp_path / "clips", bad=3)
    said = (
        r"3 of 12 clips cannot be encoded, and 1 may fail; the first: clip-3: [^\n]*$"
    )
    with pytest.raises(records.DatasetError, match=said):
        latents.cache_latents(
            clips, tmp_path / "out", encoder=clip_data.encoder(), config=CONFIG
        )
    job = _job(clips, tmp_path / "out")
    assert not job.missing()
    assert job.finish(max_failed=3)["splits"] == {"train": 9}


def test_a_record_that_cannot_be_read_costs_one_clip(tmp_path: Path) -> None:
    clips = clip_data.write_clips(tmp_path / "clips", train=8)
    job = _job(clips, tmp_path / "out")
    source: Any = job._clips["train"]
    parse = source._parse

    def parsed(example: Any) -> Any:
        if example["id"] == b"clip-2":
            raise ValueError("a flipped bit")
        return parse(example)

    source._parse = parsed
    job.encode()
    info = job.finish()
    assert info["splits"]["train"] == 7
    lines = records.read_report(tmp_path / "out")
    reasons = [line["reason"] for line in lines if line["outcome"] == "failed"]
    assert reasons == ["test: record 2 is damaged"]


def test_a_clip_of_several_windows_is_left_out_whole(tmp_path: Path) -> None:
    clips = _broken(tmp_path / "clips", bad=1)
    job = _job(clips, tmp_path / "out", budgets=(32, 64))
    job.encode()
    assert job.finish()["splits"] == {"train": 22}


def test_there_is_no_such_worker(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"worker 3 of 3: use 0\.\.2"):
        _job(clips, tmp_path / "out").encode(3, count=3)


def test_a_seal_says_what_it_was_made_from(clips: Path, tmp_path: Path) -> None:
    job = _job(clips, tmp_path / "out")
    job.encode(3, count=4)
    seal = json.loads((job.folder / "validation-00000.json").read_text())
    assert seal["records"] == 3 and not seal["failed"]
    assert len(seal["windows"]) == 3


def test_a_worker_that_fails_leaves_the_folder_to_one_that_works(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "latents"
    encode = latent_parts.CacheJob._encode

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    def begun(self: Any, part: latent_parts.Part, **keywords: Any) -> None:
        """Before the first shard is there, the other worker fails and goes."""
        monkeypatch.setattr(latent_parts.CacheJob, "_encode", full)
        with pytest.raises(OSError, match="no space"):
            _job(clips, output).encode(1, count=2)
        monkeypatch.setattr(latent_parts.CacheJob, "_encode", encode)
        encode(self, part, **keywords)

    monkeypatch.setattr(latent_parts.CacheJob, "_encode", begun)
    job = _job(clips, output)
    job.encode(0, count=2)
    assert {part.name for part in job.missing()} == {"train-00001", "validation-00000"}
    assert not list(job.folder.glob(".worker.*"))
