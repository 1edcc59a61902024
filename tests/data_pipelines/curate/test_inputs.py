"""Many tars are curated as files are, by ranges of their bytes."""

import dataclasses
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
import pytest

from data_pipelines import records, storage
from data_pipelines.curate import curation, inputs, publishing, runners, settings

NAMES = ("a.mp4", "b.mp4", "two.mp4", "copy.mp4", "still.mp4", "cut_off.mp4")


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def both(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same clips with the same captions as `files`, and in two tars of `tars`."""
    root = tmp_path_factory.mktemp("both")
    (root / "files").mkdir()
    (root / "tars").mkdir()
    samples = {}
    for name in NAMES:
        data, stem = (raw / name).read_bytes(), name.removesuffix(".mp4")
        samples[name] = {
            name: data,
            f"{stem}.json": json.dumps({"caption": f"the clip {stem}"}).encode(),
        }
        (root / "files" / name).write_bytes(data)
        (root / "files" / f"{stem}.txt").write_text(f"the clip {stem}")
    first = [samples[name] for name in NAMES[:3]]
    second = [samples[name] for name in NAMES[3:]] + [{"bare.txt": b"no clip"}]
    for number, parts in enumerate((first, second)):
        members = {name: data for part in parts for name, data in part.items()}
        write_tar(root / "tars" / f"{number}.tar", members)
    return root


def _curate(pattern: str, folder: Path, **changes: Any) -> Path:
    job = curation.CurationJob(
        pattern=pattern,
        output=str(folder / "data"),
        store=storage.Store(str(folder / "store")),
        held_out=lambda clips: 1,
    )
    job = dataclasses.replace(job, **changes)
    rules = settings.CurationSettings()
    curation.curate(job, rules, runner=runners.Local())
    return folder / "data"


def _rows(dataset: Path) -> dict[str, records.ClipRecord]:
    """Clips by the names of their files, without the tars'."""
    found = {}
    for split in ("train", "validation"):
        for clip in records.open_dataset(dataset, split):
            name = clip.id.rpartition("/")[2]
            found[name] = dataclasses.replace(clip, id=name)
    return found


def _outcomes(dataset: Path) -> dict[str, Any]:
    """What became of every clip, in the words of the logs."""
    lines = (dataset / publishing.QUARANTINE).read_text().splitlines()
    said = {line["clip"]: line for line in map(json.loads, lines)}
    return {
        name.rpartition("/")[2]: (line["step"], line["value"])
        for name, line in said.items()
    }


@pytest.mark.parametrize("scheme", ["", "memory"])
def test_tars_give_the_rows_and_accounts_of_files(
    both: Path, tmp_path: Path, scheme: str
) -> None:
    place = str(both / "tars")
    if scheme:
        place = "memory://tars"
        for path in (both / "tars").iterdir():
            storage.write_bytes(f"{place}/{path.name}", path.read_bytes())
    files = _curate(f"{both}/files/*.mp4", tmp_path / "files")
    tars = _curate(f"{place}/*.tar", tmp_path / "tars")
    assert _rows(tars) == _rows(files) and len(_rows(tars)) == 4
    ours, theirs = _outcomes(tars), _outcomes(files)
    assert ours.pop("bare")[0] == "read"
    assert ours == theirs and ours["cut_off.mp4"][0] == "probe"
    kept = [k["input"] for k in records.read_report(tars) if k["outcome"] == "kept"]
    assert sorted(kept) == [
        "0.tar/a.mp4",
        "0.tar/b.mp4",
        "0.tar/two.mp4#0-8",
        "0.tar/two.mp4#9-25",
    ]
    if scheme:
        fsspec.filesystem("memory").store.clear()


def test_files_and_tars_may_be_mixed_and_captions_named(
    both: Path, tmp_path: Path
) -> None:
    for name in ("0.tar", "1.tar"):
        (tmp_path / name).write_bytes((both / "tars" / name).read_bytes())
    (tmp_path / "a.mp4").write_bytes((both / "files" / "b.mp4").read_bytes())
    words = [{"file": n, "caption": f"of {n}"} for n in ("a.mp4", "0.tar/a.mp4")]
    path = tmp_path / "captions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in words))
    rows = _curate(f"{tmp_path}/*", tmp_path / "out", captions=str(path))
    texts = {
        clip.id: clip.captions["caption"]
        for split in ("train", "validation")
        for clip in records.open_dataset(rows, split)
    }
    # A captions file comes before what a sample says.
    assert texts["0.tar/a.mp4"] == "of 0.tar/a.mp4"
    assert texts["0.tar/two.mp4#0-8"] == "the clip two"


def test_a_tar_that_cannot_be_read_is_in_the_account(
    both: Path, tmp_path: Path
) -> None:
    whole = (both / "tars" / "0.tar").read_bytes()
    (tmp_path / "good.tar").write_bytes(whole)
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "none.tar").write_bytes(b"\x1f\x8b" + bytes(100))
    found = inputs.find(f"{tmp_path}/*.tar")
    reasons = {row["name"]: row["error"] for row in found.failed}
    assert "cut off" in reasons["cut.tar"]
    assert reasons["none.tar"] == "a compressed tar: gunzip it"
    good = [clip["name"] for clip in found.clips if clip["name"].startswith("good")]
    assert good == ["good.tar/a.mp4", "good.tar/b.mp4", "good.tar/two.mp4"]
    # A clip is a range of the tar's bytes, nothing is unpacked.
    data = storage.read_bytes(found.clips[-3]["path"])
    assert data == (both / "files" / "a.mp4").read_bytes()
    with storage.local_copy(found.clips[-3]["path"]) as (local, digest):
        assert local.suffix == ".mp4" and digest == storage.file_digest(local)
    (tmp_path / "good.tar").write_bytes(whole[:600])
    with pytest.raises(storage.StorageError, match="cut off"):
        storage.read_bytes(found.clips[-2]["path"])
    for name in ("good.tar", "cut.tar"):
        (tmp_path / name).unlink()
    with pytest.raises(
        records.DatasetError, match=r"no video or image files; the first sample: a com"
    ):
        inputs.find(f"{tmp_path}/*.tar")
