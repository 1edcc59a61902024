"""The whole of a dataset against its manifest."""

import json
from pathlib import Path

import pytest

from data_pipelines import records, verify
from tests.data_pipelines import clip_data


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return clip_data.write_clips(tmp_path / "clips", train=3, validation=1)


def test_a_whole_dataset_is_said_to_be_whole(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify.main([str(dataset)]) == 0
    assert "3 train, 1 validation: as the manifest says" in capsys.readouterr().out


def test_a_flipped_bit_and_a_manifest_that_disagrees_are_one_line(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shard, *_) = records.read_shards(dataset, "train")
    path = dataset / shard["file"]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert verify.main([str(dataset)]) == 2
    assert "make the dataset again" in capsys.readouterr().err
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    manifest = json.loads((dataset / records.MANIFEST).read_text())
    changes = [
        ({"records": 9}, "records instead of 9"),
        ({"bytes": 9}, "bytes instead of 9"),
        ({"file": "gone"}, "shard is missing"),
        ({"records": None}, "manifest.json: damaged"),
        ({"split": "test"}, "split 'train'"),
    ]
    for change, message in changes:
        lines = [
            s | (change if s["split"] == "train" else {}) for s in manifest["shards"]
        ]
        text = json.dumps({"shards": lines})
        (dataset / records.MANIFEST).write_text(text)
        assert verify.main([str(dataset)]) == 2
        assert message in capsys.readouterr().err
    (dataset / records.MANIFEST).write_text("[]")
    assert verify.main([str(dataset)]) == 2
    assert "manifest.json: cannot be read: no object" in capsys.readouterr().err
