"""What is written for others comes back as it was."""

import json
import tarfile
from pathlib import Path

import pytest

from data_pipelines import export, prepare, records
from tests.data_pipelines import clip_data


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clips"
    return clip_data.write_clips(path, train=5, validation=1)


def _run(*args: object) -> int:
    return export.main([str(arg) for arg in args])


def _read_back(source: Path, output: Path) -> list[records.ClipRecord]:
    whole = prepare.ValidationSplit(fraction=0.0)
    prepare.prepare_folder(source, output, validation=whole)
    return list(records.open_dataset(output))


def test_tars_come_back(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "tars"
    assert _run(dataset, "--format", "webdataset", "--output", out) == 0
    assert [p.name for p in sorted(out.iterdir())] == [
        "train-000000.tar",
        "validation-000000.tar",
    ]
    with tarfile.open(out / "train-000000.tar") as tar:
        names = tar.getnames()
        facts = json.load(tar.extractfile("00000003.json") or pytest.fail())
    assert names[:2] == ["00000000.mkv", "00000000.json"] and len(names) == 10
    assert facts["id"] == "clip-3" and facts["truth"] == {"index": 3}
    again = _read_back(out, tmp_path / "again")
    clips = [
        *records.open_dataset(dataset),
        *records.open_dataset(dataset, "validation"),
    ]
    assert [c.video for c in again] == [c.video for c in clips]
    for clip, origin in zip(again, clips, strict=True):
        assert clip.captions == origin.captions
        assert (clip.frames, clip.fps) == (origin.frames, origin.fps)


def test_a_tar_is_closed_at_its_size(dataset: Path, tmp_path: Path) -> None:
    export.export(dataset, tmp_path / "tars", layout="webdataset", shard_bytes=1)
    names = sorted(p.name for p in (tmp_path / "tars").iterdir())
    assert names[:2] == ["train-000000.tar", "train-000001.tar"] and len(names) == 6


def test_a_folder_comes_back(dataset: Path, tmp_path: Path) -> None:
    assert _run(dataset, "--format", "hf", "--output", tmp_path / "hub") == 0
    folder = tmp_path / "hub" / "train"
    lines = [
        json.loads(line)
        for line in (folder / "metadata.jsonl").read_text().splitlines()
    ]
    assert all((folder / line["file_name"]).is_file() for line in lines)
    assert lines[0]["short"] == "clip 0" and lines[0]["fps"] == 8.0
    again = _read_back(folder, tmp_path / "again")
    clips = list(records.open_dataset(dataset))
    assert [c.video for c in again] == [c.video for c in clips]
    assert [c.captions["short"] for c in again] == [c.captions["short"] for c in clips]


def test_what_cannot_be_written_is_one_line(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [
        ([tmp_path / "gone", "--output", tmp_path / "x"], "no such dataset"),
        ([dataset, "--output", dataset], "exists; --overwrite replaces it"),
    ]
    for args, message in cases:
        assert _run(*args, "--format", "hf") == 2
        assert message in capsys.readouterr().err
    with pytest.raises(records.DatasetError, match="use webdataset or hf"):
        export.export(dataset, tmp_path / "x", layout="lmdb")
    assert not (tmp_path / "x").exists()
