"""Datasets at rest: round trips, and every kind of damage is noticed."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import records, storage
from data_pipelines.builders import base


class Given(base.RecordBuilder):
    """Records that were made elsewhere."""

    def __init__(self, *, data_dir: Path, clips: dict) -> None:
        self._clips = clips
        super().__init__(data_dir=data_dir)

    def features(self) -> dict:
        return base.clip_features()

    def splits(self) -> dict:
        return {k: (c.to_example() for c in v) for k, v in self._clips.items()}


def _record(index: int) -> records.ClipRecord:
    noise = np.random.default_rng(index).bytes(5000 + index)
    return records.ClipRecord(
        id=f"sub/clip {index}.mp4",
        video=noise,
        fps=12.5,
        frames=index + 1,
        height=48,
        width=64,
        captions={"caption": "a “red” ring", "detailed": f"number {index}"},
        truth={"colour": "red", "boxes": [[1, 2], None]} if index % 2 else {},
    )


def _write(output: Path, **splits: int) -> Path:
    clips = {name: [_record(i) for i in range(n)] for name, n in splits.items()}
    with records.publish(output) as root:
        directory = Given(data_dir=root, clips=clips).write()
        info = {"kind": "clips", "name": "given"}
        report = [{"input": "a", "outcome": "kept"}]
        records.write_metadata(root, directory, info=info, report=report)
    return output


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return _write(tmp_path / "data", train=5, validation=2)


def _shard(dataset: Path) -> Path:
    manifest = json.loads((dataset / records.MANIFEST).read_text())
    shard = next(s for s in manifest["shards"] if s["split"] == "train")
    return dataset / shard["file"]


def test_records_come_back_equal_and_in_order(dataset: Path) -> None:
    clips = records.open_dataset(dataset, "train", verify=True)
    assert list(clips) == [_record(i) for i in range(5)]
    assert clips[-1] == _record(4) and clips[1:3] == [_record(1), _record(2)]
    assert clips.info["splits"] == {"train": 5, "validation": 2}
    assert len(records.open_dataset(dataset, "validation")) == 2
    assert records.read_report(dataset) == [{"input": "a", "outcome": "kept"}]
    with pytest.raises(IndexError):
        clips[5]


def test_an_open_dataset_travels_to_workers(dataset: Path) -> None:
    clips = pickle.loads(pickle.dumps(records.open_dataset(dataset)))
    assert clips[3] == _record(3)


def test_a_dataset_is_only_what_it_should_be(dataset: Path) -> None:
    names = {p.name for p in dataset.iterdir()}
    assert names == {"dataset.json", "manifest.json", "report.jsonl", "given"}
    assert [p.name for p in dataset.parent.iterdir()] == ["data"]


def test_the_same_records_give_the_same_digests(dataset: Path, tmp_path: Path) -> None:
    again = _write(tmp_path / "again", train=5, validation=2)
    for name in (records.MANIFEST, records.INFO):
        assert (again / name).read_bytes() == (dataset / name).read_bytes()


def test_a_truncated_shard_is_refused(dataset: Path) -> None:
    shard = _shard(dataset)
    for size in (shard.stat().st_size // 2, 0):
        with shard.open("r+b") as file:
            file.truncate(size)
        with pytest.raises(records.DatasetError, match=f"{size} bytes instead of"):
            records.open_dataset(dataset)
    assert len(records.open_dataset(dataset, "validation")) == 2


def test_an_emptied_shard_of_the_right_size_is_refused(dataset: Path) -> None:
    shard = _shard(dataset)
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(records.DatasetError, match="damaged; make"):
        records.open_dataset(dataset)


def test_a_flipped_bit_is_noticed_on_request(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "RETRY_SECONDS", (0.0,))
    shard = _shard(dataset)
    data = bytearray(shard.read_bytes())
    data[2000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(records.DatasetError, match="SHA-256 differs"):
        records.open_dataset(dataset, verify=True)
    with pytest.raises(records.DatasetError, match="record 0 is damaged"):
        records.open_dataset(dataset)[0]


def test_a_missing_shard_is_refused(dataset: Path) -> None:
    _shard(dataset).unlink()
    with pytest.raises(records.DatasetError, match="shard is missing"):
        records.open_dataset(dataset)


def test_a_missing_dataset_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(records.DatasetError, match=r"no such dataset.*prepare --input"):
        records.open_dataset(tmp_path / "gone")
    with pytest.raises(records.DatasetError, match="not a dataset"):
        records.open_dataset(tmp_path)


def test_a_report_holds_any_name_and_its_damage_is_one_line(tmp_path: Path) -> None:
    lines = [{"input": "a\u2028b\x85c.mp4"}, {"input": "\udcff.mp4"}]
    with records.publish(tmp_path / "data") as root:
        directory = Given(data_dir=root, clips={"train": [_record(0)]}).write()
        info = {"kind": "clips", "name": "given"}
        records.write_metadata(root, directory, info=info, report=lines)
    assert records.read_report(tmp_path / "data") == lines
    path = tmp_path / "data" / records.REPORT
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(records.DatasetError, match=r"report.jsonl: cannot be read"):
        records.read_report(tmp_path / "data")


def test_wrong_splits_kinds_and_formats_are_refused(
    dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(records.DatasetError, match=r"'test'; splits: train \(5\)"):
        records.open_dataset(dataset, "test")
    path = dataset / records.INFO
    info = json.loads(path.read_text())
    changes = [
        ({"kind": "latents"}, "holds latents, not clips"),
        ({"format": 99}, "format 99, this version reads 1"),
        ({"splits": {}}, "the dataset is empty"),
        ({"splits": {"train": 6}}, "should hold 6 records; its manifest says 5"),
    ]
    for change, message in changes:
        path.write_text(json.dumps(info | change))
        with pytest.raises(records.DatasetError, match=message):
            records.open_dataset(dataset)
    path.write_text("{")
    with pytest.raises(records.DatasetError, match="cannot be read"):
        records.open_dataset(dataset)


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), records.publish(tmp_path / "data") as root:
        (root / "half").write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_outputs_in_the_way_are_kept(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(records.DatasetError, match="--overwrite replaces it"):
        records.check_output(dataset)
    records.check_output(dataset, overwrite=True)
    other = tmp_path / "photos"
    other.mkdir()
    records.check_output(other)
    (other / "a.jpg").write_text("")
    with pytest.raises(records.DatasetError, match="no dataset, so it is not"):
        records.check_output(other, overwrite=True)
    with pytest.raises(records.DatasetError, match="is a file"):
        records.check_output(other / "a.jpg")
    with records.publish(dataset, overwrite=True) as root:
        (root / "new").write_text("")
    assert [p.name for p in dataset.iterdir()] == ["new"]
    assert {p.name for p in tmp_path.iterdir()} == {"data", "photos"}
