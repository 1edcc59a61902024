"""Clips in tars and tables: bytes as they were, and every sample accounted for."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from data_pipelines import prepare, records
from data_pipelines.builders import tars

CLIPS = Path(__file__).parents[2] / "data" / "clips"
PNG = (CLIPS / "shapes.png").read_bytes()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def _prepare(source: Path, output: Path) -> dict[str, dict]:
    """The lines of the report by input, of a dataset without held-out clips."""
    made = prepare.prepare_folder(
        source, output, validation=prepare.ValidationSplit(fraction=0.0)
    )
    assert made["splits"].get("train", 0) >= 1
    return {line["input"]: line for line in records.read_report(output)}


def test_a_webdataset_becomes_records(tmp_path: Path) -> None:
    words = {"caption": "two circles", "likes": 3, "detailed": "two red circles"}
    write_tar(
        tmp_path / "train-000.tar",
        [
            ("a/0001.png", PNG),
            ("a/0001.json", json.dumps(words).encode()),
            ("0002.PNG", PNG),
            ("0002.txt", "\ufeffone\r\nline\u0000".encode()),
        ],
    )
    write_tar(tmp_path / "train-001.tar", [("0001.png", PNG), ("0001.txt", b"x")])
    report = _prepare(tmp_path, tmp_path / "out")
    assert {line["outcome"] for line in report.values()} == {"kept"}
    clips = {clip.id: clip for clip in records.open_dataset(tmp_path / "out")}
    assert set(clips) == {
        "train-000.tar/a/0001.png",
        "train-000.tar/0002.png",
        "train-001.tar/0001.png",
    }
    assert all(clip.video == PNG for clip in clips.values())
    assert clips["train-000.tar/a/0001.png"].captions == {
        "caption": "two circles",
        "detailed": "two red circles",
    }
    assert clips["train-000.tar/0002.png"].captions == {"caption": "one line"}
    assert report["train-000.tar/0002.png"]["notes"]


def test_samples_that_cannot_be_clips_are_in_the_report(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "a.tar",
        [
            ("good.png", PNG),
            ("good.txt", b"shapes"),
            ("words.txt", b"of nothing"),
            ("two.png", PNG),
            ("two.mp4", b"x"),
            ("bad.png", b"not a picture"),
            ("bad.txt", b"x"),
            ("latin.png", PNG),
            ("latin.txt", b"caf\xe9"),
            ("deep.png", PNG),
            ("deep.json", b"[" * 100_000),
            ("long.png", PNG),
            ("long.txt", b"x" * (tars.MAX_TEXT + 1)),
            ("mute.png", PNG),
            ("../../etc/passwd.png", PNG),
            ("../../etc/passwd.txt", b"a label, no path"),
            ("good.png", PNG),
            ("good.txt", b"again"),
        ],
    )
    report = _prepare(path, tmp_path / "out")
    reasons = {name: line.get("reason", "") for name, line in report.items()}
    for name, message in (
        ("a.tar/words", "no clips in a sample of .txt: use 1"),
        ("a.tar/two", "2 clips in a sample of .png .mp4: use 1"),
        ("a.tar/bad.png", "not a video or image"),
        ("a.tar/latin", "its .txt cannot be read"),
        ("a.tar/deep", "its .json cannot be read"),
        ("a.tar/long", "use 1,048,576 or less"),
        ("a.tar/mute.png", "no caption"),
        ("a.tar/good", "do not follow each other"),
    ):
        assert message in reasons.pop(name)
    assert reasons == {"a.tar/good.png": "", "a.tar/../../etc/passwd.png": ""}
    assert {p.name for p in tmp_path.iterdir()} == {"a.tar", "out"}


@pytest.mark.parametrize("left", [0, 300, 700, 2148, 2563, 3072, 3584])
def test_a_tar_that_is_cut_off_keeps_what_is_whole(tmp_path: Path, left: int) -> None:
    good = write_tar(tmp_path / "a.tar", [("0.png", PNG), ("0.txt", b"shapes")])
    cut = write_tar(tmp_path / "b.tar", [("0.png", PNG), ("0.txt", b"shapes")])
    cut.write_bytes(cut.read_bytes()[:left])
    report = _prepare(tmp_path, tmp_path / "out")
    assert report["a.tar/0.png"]["outcome"] == "kept"
    assert "cut off" in report["b.tar"]["reason"]
    assert good.exists()


def test_compressed_tars_and_folders_without_clips_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(CLIPS / "shapes.png")
    with pytest.raises(records.DatasetError, match="a compressed tar: gunzip it"):
        prepare.prepare_folder(path, tmp_path / "out")


def _write_table(path: Path, rows: list[dict]) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)


def test_a_table_of_the_hub_becomes_records(tmp_path: Path) -> None:
    rows = [
        {"image": {"bytes": PNG, "path": f"{n}.png"}, "text": f"rings {n}", "fps": "8"}
        for n in range(3)
    ]
    rows.append({"image": {"bytes": None, "path": "3.png"}, "text": "x", "fps": "8"})
    _write_table(tmp_path / "train-0.parquet", rows)
    report = _prepare(tmp_path, tmp_path / "out")
    assert report["train-0.parquet/3.png"]["reason"] == "no bytes in its image"
    clips = list(records.open_dataset(tmp_path / "out"))
    assert [clip.captions for clip in clips] == [
        {"text": f"rings {n}"} for n in range(3)
    ]
    assert clips[0].video == PNG and clips[2].id == "train-0.parquet/2.png"


def test_a_damaged_table_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1" * 9)
    with pytest.raises(records.DatasetError, match=r"a\.parquet: not parquet, or cut"):
        prepare.prepare_folder(tmp_path, tmp_path / "out")
