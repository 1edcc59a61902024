"""From raw files to a dataset: what is kept, why the rest is not, and again."""

import dataclasses
import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines import records, storage
from data_pipelines.curate import (
    curation,
    decisions,
    lines,
    probing,
    publishing,
    runners,
    settings,
    shards,
)
from soraflax import media
from soraflax.media import guard
from tests.data_pipelines.curate import raw_files

ROOT = Path(__file__).parents[3]


def _job(raw: Path, folder: Path, **changes: Any) -> curation.CurationJob:
    job = curation.CurationJob(
        pattern=f"{raw}/**/*",
        output=str(folder / "data"),
        store=storage.Store(str(folder / "store")),
        held_out=lambda clips: 1,
    )
    return dataclasses.replace(job, **changes)


def _curate(job: curation.CurationJob, **changes: Any) -> dict[str, Any]:
    rules = settings.CurationSettings(**changes)
    return curation.curate(job, rules, runner=runners.Local())


def _digests(dataset: Path) -> dict[str, str]:
    return {
        p.relative_to(dataset).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(dataset.rglob("*"))
        if p.is_file()
    }


def _quarantine(dataset: Path) -> dict[str, dict[str, Any]]:
    lines = (dataset / publishing.QUARANTINE).read_text().splitlines()
    return {line["clip"]: line for line in map(json.loads, lines)}


@pytest.fixture(scope="module")
def made(
    raw: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder with the dataset and the store; the dataset's info."""
    folder = tmp_path_factory.mktemp("made")
    yield folder, _curate(_job(raw, folder))


def test_good_shots_are_kept_with_their_captions(
    made: tuple[Path, dict[str, Any]], raw: Path
) -> None:
    dataset, info = made[0] / "data", made[1]
    splits = [records.open_dataset(dataset, s, verify=True) for s in info["splits"]]
    clips = {clip.id: clip for split in splits for clip in split}
    assert sorted(clips) == raw_files.KEPT
    assert info["splits"] == {"train": 4, "validation": 1}
    for clip in clips.values():
        name = clip.id.partition("#")[0]
        assert clip.captions == {"caption": f"the clip {name}"}
        frames = media.decode(clip.video).frames
        assert frames.shape == (clip.frames, clip.height, clip.width, 3)
    assert clips["a.mp4"].video == (raw / "a.mp4").read_bytes()
    second = media.decode(clips[f"two.mp4#{raw_files.CUT}-25"].video).frames
    whole = media.read_video(raw / "two.mp4").frames[raw_files.CUT :]
    assert np.abs(second.astype(int) - whole).mean() < 1.5


def test_every_other_clip_is_in_the_log_with_its_reason(
    made: tuple[Path, dict[str, Any]],
) -> None:
    dataset = made[0] / "data"
    log = _quarantine(dataset)
    assert set(log) == {*raw_files.REJECTED, *raw_files.FAILED}
    for name, (step, reason) in raw_files.REJECTED.items():
        assert (log[name]["step"], log[name]["reason"]) == (step, reason)
    limits = settings.LIMITS
    assert log["still.mp4"]["threshold"] == limits["motion"].least
    assert log["still.mp4"]["value"] < log["still.mp4"]["threshold"]
    assert log["framed.mp4"]["value"] == pytest.approx(0.25, abs=0.02)
    assert log["near.mp4"]["value"] >= log["near.mp4"]["threshold"] == 0.5
    assert all(log[name]["step"] == "probe" for name in raw_files.FAILED)
    report = {line["input"]: line for line in records.read_report(dataset)}
    assert set(report) == {*log, *raw_files.KEPT, "notes.pdf"}
    assert report["notes.pdf"]["outcome"] == "ignored"
    assert made[1]["outcomes"] == {"kept": 5, "rejected": 5, "failed": 2, "ignored": 1}
    shown = (dataset / publishing.THUMBNAILS).read_text().splitlines()
    assert {json.loads(line)["clip"] for line in shown} == set(raw_files.REJECTED)


def test_another_limit_decodes_nothing_again(
    made: tuple[Path, dict[str, Any]], raw: Path, tmp_path: Path
) -> None:
    ran = made[1]["ran"]
    assert ran == {"probe": 10, "shots": 8, "shard": 2, "clip": 2}
    job = dataclasses.replace(_job(raw, made[0]), output=str(tmp_path / "again"))
    same = _curate(job)
    assert same["ran"] == {}
    assert _digests(tmp_path / "again") == _digests(made[0] / "data")
    job = dataclasses.replace(job, output=str(tmp_path / "other"))
    other = _curate(job, limits={"motion": settings.Bounds()})
    assert "still.mp4" in _quarantine(tmp_path / "other")  # it is frozen, too
    free = {"motion": settings.Bounds(), "frozen": settings.Bounds()}
    job = dataclasses.replace(job, output=str(tmp_path / "third"))
    third = _curate(job, limits=free)
    assert "still.mp4" not in _quarantine(tmp_path / "third")
    assert other["ran"] == {}
    assert third["ran"] == {"shard": 1}
    coarse = settings.CutSettings(floor=200.0)
    job = dataclasses.replace(job, output=str(tmp_path / "whole"))
    whole = _curate(job, cut=coarse)
    assert whole["ran"]["shots"] == 8 and "probe" not in whole["ran"]


def test_small_shards_hold_the_same_clips(
    made: tuple[Path, dict[str, Any]], raw: Path, tmp_path: Path
) -> None:
    job = dataclasses.replace(_job(raw, made[0]), output=str(tmp_path / "data"))
    info = _curate(job, shards=settings.ShardSettings(size=1))
    assert info["ran"] == {"shard": 5}
    manifest = records.read_manifest(tmp_path / "data")["shards"]
    assert [shard["records"] for shard in manifest] == [1] * 5
    for split in info["splits"]:
        small = records.open_dataset(tmp_path / "data", split, verify=True)
        whole = records.open_dataset(made[0] / "data", split)
        assert list(small) == list(whole)


def test_a_damaged_store_is_made_again(
    made: tuple[Path, dict[str, Any]], raw: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    job = dataclasses.replace(_job(raw, tmp_path), pattern=f"{raw}/a.mp4")
    first = _curate(job)
    for path in (store / "probe").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:100])
    for path in (store / "shots").rglob("*"):
        if path.is_file():
            path.unlink()
    again = _curate(dataclasses.replace(job, overwrite=True))
    assert first["ran"] == {"probe": 1, "shots": 1, "shard": 1}
    assert again["ran"] == {"probe": 1, "shots": 1}


def test_too_many_rejected_stop_the_run(raw: Path, made: Any, tmp_path: Path) -> None:
    job = dataclasses.replace(_job(raw, made[0]), output=str(tmp_path / "data"))
    with pytest.raises(records.DatasetError, match="7 of 12 clips were rejected") as e:
        _curate(job, max_rejected=0.5)
    assert "at most 50% may be" in str(e.value) and "\n" not in str(e.value)
    assert not (tmp_path / "data").exists()
    assert (
        len((made[0] / "store" / publishing.QUARANTINE).read_text().splitlines()) == 7
    )


def test_users_models_score_and_reject(raw: Path, tmp_path: Path) -> None:
    job = dataclasses.replace(_job(raw, tmp_path), pattern=f"{raw}/[abn]*.mp4")
    scorer = {"redness": f"{__name__}:redness"}
    probe = settings.ProbeSettings(scorers=scorer)
    low = {"redness": settings.Bounds(greatest=-1.0)}
    with pytest.raises(records.DatasetError, match="none is left"):
        _curate(job, probe=probe, limits=low)
    _curate(job, probe=probe, limits={"redness": settings.Bounds(greatest=255)})
    report = records.read_report(tmp_path / "data")
    scored = [line["scores"]["redness"] for line in report if "scores" in line]
    assert len(scored) == 3 and all(0 < score <= 255 for score in scored)


def redness(frame: np.ndarray) -> float:
    return float(frame[..., 0].mean())


def test_an_unknown_score_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown score 'pace'; there are: seconds"):
        settings.CurationSettings(limits={"pace": settings.Bounds(least=1)})


def test_shots_of_one_file_are_held_out_together() -> None:
    def clip(file: str, first: int) -> decisions.Clip:
        rest = ("", "", "", first, first, 9, 1, 1, 1.0, 1, (), ())
        return decisions.Clip(f"{file}#{first}", file, *rest)

    clips = [clip(f"{n}.mp4", first) for n in range(20) for first in range(3)]
    job = curation.CurationJob("", "", storage.Store(""), held_out=lambda n: n // 10)
    splits = curation.split_clips(clips, job)
    held = {c.file for c in splits["validation"]}
    assert len(splits["validation"]) == 6
    assert not held & {c.file for c in splits["train"]}
    other = curation.split_clips(clips, dataclasses.replace(job, seed=1))
    assert {c.file for c in other["validation"]} != held


def _command(raw: Path, folder: Path) -> list[str]:
    words = [sys.executable, "-m", "data_pipelines.prepare"]
    words += ["--input", f"{raw}/**/*", "--output", str(folder / "data")]
    return [*words, "--validation-count", "1", "--workers", "2"]


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    raw: Path, tmp_path: Path
) -> None:
    run = functools.partial(
        subprocess.Popen, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    store, dataset = tmp_path / "data.cache", tmp_path / "data"
    for step, count in (("probe", 2), ("shots", 8), ("shards", 1)):
        process = run(_command(raw, tmp_path), start_new_session=True)
        while process.poll() is None:
            if len([p for p in (store / step).rglob("*") if p.is_file()]) >= count:
                os.killpg(process.pid, signal.SIGKILL)
                break
            time.sleep(0.01)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, step
        assert not dataset.exists()
    process = run(_command(raw, tmp_path))
    assert process.communicate()[1] is not None and process.returncode == 0
    whole = tmp_path / "whole"
    process = run(_command(raw, whole))
    assert process.communicate()[1] is not None and process.returncode == 0
    assert _digests(dataset) == _digests(whole / "data")
    assert len(_digests(dataset)) == 9


def test_frames_at_hand_and_frames_decoded_again_give_the_same_bytes(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    open_frames = guard.open_frames

    def counted(path: str, **rules: Any) -> Any:
        opened.append(Path(path).name)
        return open_frames(path, **rules)

    monkeypatch.setattr(guard, "open_frames", counted)
    made = {}
    for held in (probing.HELD_BYTES, 64 * 64 * 3 * 20):  # two.mp4 has 26 frames
        folder = tmp_path / str(held)
        step = functools.partial(probing.FileStep, held=held)
        monkeypatch.setattr(curation.probing, "FileStep", step)
        opened.clear()
        job = _job(raw, folder, output=str(folder / "data"))
        rules = settings.CurationSettings(shards=settings.ShardSettings(size=2**28))
        ran = curation.curate(job, rules, runner=runners.Local())["ran"]
        assert ran == {"probe": 10, "shots": 8, "shard": 2, "clip": 2}
        made[held] = opened.count("two.mp4"), _digests(folder / "data")
    (once, at_hand), (again, decoded) = made.values()
    assert at_hand == decoded
    assert once == 1
    # Its two shots are in one split and one shard: once more for both.
    assert again == 2


def test_what_cannot_stay_is_not_encoded(raw: Path, tmp_path: Path) -> None:
    store = storage.Store(str(tmp_path))
    bounds = {"frames": settings.Bounds(least=10)}
    rules = (settings.ProbeSettings(), settings.CutSettings())
    file = {"name": "two.mp4", "path": str(raw / "two.mp4")}
    step = probing.FileStep(store, *rules, bounds=bounds)
    bare = dataclasses.replace(step, store=storage.Store(str(tmp_path / "bare")))
    assert step(file)["ran"] == ["probe", "shots", "clip"]  # that of 17 frames
    assert bare(file | {"captioned": False})["ran"] == ["probe", "shots"]


class _Undecoded:
    """A runner whose files are measured without decoding them: no two show the same."""

    def map(
        self, name: str, step: runners.Step, *, items: Iterable[Any]
    ) -> Iterator[runners.Row]:
        probed = name == "probe"
        for number, item in enumerate(items):
            yield self._row(item, number) if probed else step(item)

    def _row(self, file: dict[str, str], number: int) -> runners.Row:
        rng = np.random.default_rng(number)
        scores = dict.fromkeys(settings.LIMITS, 0.5) | {"borders": 0.0, "frozen": 0.0}
        scores |= {"short_side": 32.0, "brightness": float(rng.integers(9, 200))}
        scores["motion"] = float(number % 10 > 0)  # a tenth is rejected
        shot = {"first": 0, "last": 4, "scores": scores, "thumbnail": 0}
        hashes = rng.integers(0, 2**63, 3).tolist()
        return {
            **{key: file[key] for key in ("name", "path")},
            "sha256": storage.key(number),
            "probe": storage.key("probe", number),
            "bytes": 100,
            "info": {"frames": 5, "height": 32, "width": 32, "fps": 8.0, "notes": []},
            "shots": [shot | {"samples": [0, 1, 2], "hashes": hashes}],
            "ran": [],
        }


def _peak(folder: Path, count: int, *, near: bool) -> int:
    """Bytes at the most, of Python and NumPy, while so many files are curated."""
    (folder / "raw").mkdir(parents=True)
    for number in range(count):
        (folder / "raw" / f"{number:06d}.mp4").write_bytes(b"%d" % number)
    captions = folder / "captions.jsonl"
    with captions.open("w") as file:
        for number in range(count):
            line = {"file": f"{number:06d}.mp4", "caption": f"the clip {number}"}
            file.write(json.dumps(line) + "\n")
    job = _job(folder / "raw", folder, captions=str(captions))
    rules = settings.CurationSettings(duplicates=settings.DuplicateSettings(near=near))
    tracemalloc.start()
    try:
        info = curation.curate(job, rules, runner=_Undecoded())
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        assert info["outcomes"] == {"kept": count * 9 // 10, "rejected": count // 10}


@pytest.mark.parametrize("near", [False, True])
def test_a_clip_takes_a_few_hundred_bytes(tmp_path: Path, near: bool) -> None:
    """An account in memory takes four thousand."""
    _peak(tmp_path / "imports", 10, near=near)
    few, many = (_peak(tmp_path / str(n), n, near=near) for n in (200, 800))
    assert (many - few) / 600 < 1200


def test_a_planned_shard_has_the_key_of_its_clips(tmp_path: Path) -> None:
    store, rules = storage.Store(str(tmp_path / "s")), settings.ShardSettings(size=250)
    clips = [{"id": f"{n} é", "path": f"/a/{n}", "bytes": 100} for n in range(5)]
    plans = shards.plan_shards(iter(clips), rules, store=store, folder=tmp_path)
    keys = [plan["key"] for plan in plans]
    for key, part in zip(keys, (clips[:2], clips[2:4], clips[4:]), strict=True):
        made_of = [{k: v for k, v in clip.items() if k != "path"} for clip in part]
        facts = dataclasses.asdict(rules)
        assert key == storage.key("shard", shards.VERSION, facts, made_of)
        assert list(lines.read(Path(store.path("plans", key)))) == part
