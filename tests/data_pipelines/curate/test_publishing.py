"""From bucket to bucket: the dataset stands whole, and replaces the one before."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import fsspec
import pytest

from data_pipelines import records, storage
from data_pipelines.curate import curation, publishing, runners, settings


@pytest.fixture
def bucket(raw: Path) -> Any:
    """A bucket with three of the raw files and their captions."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    for name in ("a.mp4", "copy.mp4", "sub/c.MP4", "captions.jsonl"):
        storage.write_bytes(f"memory://raw/{name}", (raw / name).read_bytes())
    yield "memory://raw"
    system.store.clear()


def test_from_bucket_to_bucket(bucket: str, tmp_path: Path) -> None:
    job = curation.CurationJob(
        pattern=f"{bucket}/**/*",
        output="memory://made/data",
        store=storage.Store("memory://made/store"),
        held_out=lambda clips: 0,
    )
    rules = settings.CurationSettings()
    info = curation.curate(job, rules, runner=runners.Local())
    assert info["outcomes"]["kept"] == 2 and info["outcomes"]["rejected"] == 1
    local = tmp_path / "data"
    for name, path in storage.find("memory://made/data/**"):
        storage.copy(path, str(local / name))
    clips = list(records.open_dataset(local, verify=True))
    assert [clip.id for clip in clips] == ["a.mp4", "sub/c.MP4"]
    assert clips[0].captions == {"caption": "the clip a.mp4"}
    with pytest.raises(records.DatasetError, match="exists; --overwrite replaces it"):
        curation.curate(job, rules, runner=runners.Local())
    manifest = json.loads((local / records.MANIFEST).read_text())
    stale = {"file": "curated_clips/1.0.0/c-train.array_record-00001-of-00002"}
    manifest["shards"].append(stale)
    for name, data in (
        (records.MANIFEST, json.dumps(manifest).encode()),
        (stale["file"], b"x"),
        ("not_ours.txt", b"y"),
    ):
        storage.write_bytes(f"memory://made/data/{name}", data)
    job = dataclasses.replace(job, overwrite=True)
    again = curation.curate(job, rules, runner=runners.Local())
    assert again["ran"] == {}
    left = {n for n, _ in storage.find("memory://made/data/**")} - {"not_ours.txt"}
    assert left == {
        p.relative_to(local).as_posix() for p in local.rglob("*") if p.is_file()
    }
    assert storage.read_bytes("memory://made/data/not_ours.txt") == b"y"


def test_lines_of_any_text_can_be_written() -> None:
    data = publishing.json_lines([{"clip": "half \ud83d of one"}])
    assert data == b'{"clip": "half \\ud83d of one"}\n'
