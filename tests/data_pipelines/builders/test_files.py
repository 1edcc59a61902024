"""Names and links as they are on people's disks."""

import os
import unicodedata
from pathlib import Path

import pytest

from data_pipelines.builders import files


def _make(root: Path, *names: str) -> files.FolderFiles:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return files.find_files(root)


def _unusable(found: files.FolderFiles) -> dict[str, str]:
    return {line["input"]: line["reason"] for line in found.unusable}


def test_files_come_sorted_whatever_their_kind(tmp_path: Path) -> None:
    found = _make(tmp_path, "b.mp4", "a/z.PNG", "notes.md", "a b/x.gif")
    assert list(found.paths) == ["a/z.PNG", "a b/x.gif", "b.mp4", "notes.md"]
    assert list(found.clips) == ["a/z.PNG", "a b/x.gif", "b.mp4"]
    assert not found.unusable


def test_linked_folders_are_followed_and_circles_refused(tmp_path: Path) -> None:
    root, other = tmp_path / "clips", tmp_path / "elsewhere"
    _make(other, "far.mp4")
    (other / "back").symlink_to(root)
    _make(root, "sub/near.mp4")
    (root / "link").symlink_to(other)
    (root / "again").symlink_to(root / "sub")
    (root / "up").symlink_to(tmp_path)
    (root / "self").symlink_to(root / "self")
    found = files.find_files(root)
    assert list(found.paths) == ["link/far.mp4", "sub/near.mp4"]
    reasons = _unusable(found)
    assert reasons["again"] == "a link to sub, not followed"
    assert reasons["link/back"] == "a link to the folder itself, not followed"
    assert "not followed" in reasons["up"]
    assert reasons["self"] == "a link that leads nowhere"
    # What captions name in a folder that was not entered is the file it was found as.
    assert found.find("again/near.mp4")[0] == "sub/near.mp4"


def test_two_links_to_one_file_are_two_files(tmp_path: Path) -> None:
    target = tmp_path / "store" / "one.mp4"
    _make(tmp_path / "store", "one.mp4")
    root = tmp_path / "clips"
    root.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (root / name).symlink_to(target)
    (root / "dead.mp4").symlink_to(tmp_path / "gone.mp4")
    found = files.find_files(root)
    assert list(found.paths) == ["a.mp4", "b.mp4"]
    assert found.find("a.mp4")[0] == "a.mp4" and found.find("b.mp4")[0] == "b.mp4"
    assert _unusable(found) == {"dead.mp4": "a link that leads nowhere"}
    assert found.unusable[0]["outcome"] == "failed"


def test_names_that_are_not_utf8_are_named_and_left_out(tmp_path: Path) -> None:
    _make(tmp_path, "good.mp4")
    for name in (b"caf\xe9.mp4", b"notes\xff.md"):
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(b"")
    found = files.find_files(tmp_path)
    assert list(found.paths) == ["good.mp4"]
    outcomes = {line["input"]: line["outcome"] for line in found.unusable}
    assert outcomes == {"caf\\xe9.mp4": "failed", "notes\\xff.md": "ignored"}
    with pytest.raises(LookupError, match="not UTF-8"):
        found.find("caf\udce9.mp4")


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("said", ["NFC", "NFD"])
def test_composed_and_decomposed_names_are_one(
    stored: str, said: str, tmp_path: Path
) -> None:
    name = unicodedata.normalize(stored, "sub/café.mp4")
    found = _make(tmp_path, name)
    assert found.find(unicodedata.normalize(said, "sub/café.mp4"))[0] == name


def test_names_of_other_systems_are_found(tmp_path: Path) -> None:
    found = _make(tmp_path, "sub/a.mp4", "B.MP4", "x\\y.mp4", "Two.png", "two.png")
    for said, name in {
        "sub\\a.mp4": "sub/a.mp4",
        ".\\sub\\a.mp4": "sub/a.mp4",
        "./sub//a.mp4": "sub/a.mp4",
        "sub/../B.MP4": "B.MP4",
        "SUB\\A.MP4": "sub/a.mp4",
        "b.mp4": "B.MP4",
        " B.MP4 ": "B.MP4",
        "x\\y.mp4": "x\\y.mp4",
        "two.png": "two.png",
        str(tmp_path / "B.MP4"): "B.MP4",
    }.items():
        assert found.find(said)[0] == name, said
    with pytest.raises(LookupError, match=r"several files: Two\.png, two\.png"):
        found.find("TWO.png")
    with pytest.raises(LookupError, match=r"missing file: c\.mp4"):
        found.find("c.mp4")


def test_any_name_can_be_printed() -> None:
    assert files.printable("caf\udce9 \u202e\n\ud83d é 猫") == (
        "caf\\xe9 \\u202e\\n\\ud83d é 猫"
    )
