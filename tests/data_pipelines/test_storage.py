"""Files here and in buckets; a bucket in memory stands for the others."""

import os
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec import exceptions
from fsspec.implementations import memory

from data_pipelines import storage


@pytest.fixture
def bucket() -> Any:
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield "memory://bucket"
    system.store.clear()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "RETRY_SECONDS", (0.0, 0.0))


@pytest.fixture(params=["local", "bucket", "file"])
def root(request: Any, tmp_path: Path, bucket: str) -> str:
    return {"local": str(tmp_path), "bucket": bucket, "file": f"file://{tmp_path}"}[
        request.param
    ]


def test_what_is_written_is_read_and_found(root: str) -> None:
    names = ("a.mp4", "sub/b.mp4", "sub/deep/c.MP4", "sub/d.txt")
    for name in names:
        storage.write_bytes(storage.join(root, name), name.encode())
    assert storage.read_bytes(storage.join(root, "sub/b.mp4")) == b"sub/b.mp4"
    assert storage.read_bytes(storage.join(root, "gone")) is None
    everything = dict(storage.find(f"{root}/**/*"))
    assert list(everything) == sorted(names)
    assert list(dict(storage.find(f"{root}/*.mp4"))) == ["a.mp4"]
    for path in everything.values():
        with storage.local_copy(path) as (local, digest):
            data = local.read_bytes()
            assert digest == storage.hashlib.sha256(data).hexdigest()
        assert storage.read_bytes(path) == data


def test_a_local_pattern_finds_what_fsspec_does(tmp_path: Path) -> None:
    for name in (
        "a.mp4",
        ".hidden.mp4",
        "b/c.mp4",
        "b/d/e.mp4",
        "[x]/f.mp4",
        "b/g.TXT",
    ):
        storage.write_bytes(str(tmp_path / "raw" / name), b"x")
    (tmp_path / "raw" / "link").symlink_to(tmp_path / "raw" / "b")
    (tmp_path / "raw" / "to.mp4").symlink_to(tmp_path / "raw" / "a.mp4")
    (tmp_path / "raw" / "gone.mp4").symlink_to(tmp_path / "nowhere")
    found = {}
    for pattern in (
        *("*", "**", "**/*", "**/*.mp4", "*/*.mp4", "b/**/*.mp4", "?/*", "b/", "*/*/"),
        *("[ab]*", "[[]x]/*", "a.mp4", "none.mp4", "none/*", "**/d/*", "link/*"),
    ):
        path = f"{tmp_path}/raw/{pattern}"
        system, inner = storage.file_system(path)
        there = system.glob(inner)
        here = dict(storage.find(path))
        assert list(here.values()) == [p for p in there if not os.path.isdir(p)], path
        found[pattern] = list(here)
    assert found["**/*.mp4"][:2] == [".hidden.mp4", "[x]/f.mp4"]
    assert found["a.mp4"] == ["a.mp4"] and found["none/*"] == []


def test_a_key_of_many_is_that_of_their_list() -> None:
    for items in ([], [1], [{"b": "é", "a": None}, [], "]]"]):
        assert storage.key_of_many("x", {"y": 1}, items=iter(items)) == storage.key(
            "x", {"y": 1}, items
        )


def test_copies_go_anywhere(tmp_path: Path, bucket: str) -> None:
    here, there, back = str(tmp_path / "a"), f"{bucket}/a", str(tmp_path / "x" / "b")
    storage.write_bytes(here, b"data")
    storage.copy(here, there)
    storage.copy(there, back)
    storage.copy(back, str(tmp_path / "c"))
    assert storage.read_bytes(str(tmp_path / "c")) == b"data"
    assert sorted(os.listdir(tmp_path)) == ["a", "c", "x"]


class Flaky(memory.MemoryFileSystem):
    """A bucket that fails as often as `faults` says."""

    protocol = "flaky"
    faults = 0

    def cat_file(self, path: str, **options: Any) -> bytes:
        if Flaky.faults > 0:
            Flaky.faults -= 1
            raise OSError("503: slow down\nplease")
        return super().cat_file(path, **options)


def test_a_bucket_that_fails_is_asked_again_then_it_is_one_line() -> None:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    path = "flaky://bucket/a"
    storage.write_bytes(path, b"data")
    Flaky.faults = 2
    assert storage.read_bytes(path) == b"data"
    Flaky.faults = 3
    message = r"^flaky://bucket/a: 503: slow down please$"
    with pytest.raises(storage.StorageError, match=message):
        storage.read_bytes(path)


@pytest.mark.parametrize("late", [TimeoutError, exceptions.FSTimeoutError])
def test_a_bucket_that_answers_late_is_asked_again_then_it_is_one_line(
    late: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def wait(self: Any, path: str, **options: Any) -> bytes:
        asked.append(path)
        if len(asked) < 3:
            raise late()
        return b"data"

    monkeypatch.setattr(memory.MemoryFileSystem, "cat_file", wait)
    assert storage.read_bytes("memory://bucket/a") == b"data"
    monkeypatch.setattr(storage, "RETRY_SECONDS", (0.0,))
    asked.clear()
    with pytest.raises(
        storage.StorageError, match=r"^memory://bucket/a: \w*Timeout"
    ) as e:
        storage.read_bytes("memory://bucket/a")
    assert "\n" not in str(e.value)


def test_an_unknown_bucket_is_one_line() -> None:
    with pytest.raises(storage.StorageError, match="nowhere://a: "):
        storage.read_bytes("nowhere://a")


def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(storage.StorageError, match="No space left on device"):
        storage.write_bytes(str(tmp_path / "a"), b"x")
    assert not list(tmp_path.iterdir())


def test_keys_are_of_all_parts() -> None:
    keys = {storage.key("a", 1), storage.key("a", 2), storage.key("b", 1)}
    assert len(keys) == 3
    assert storage.key({"b": 1, "a": 2}) == storage.key({"a": 2, "b": 1})


@pytest.mark.parametrize(
    ("pattern", "root"),
    [("/a/b/*.mp4", "/a/b/"), ("a*/b", ""), ("/a/b?c/d", "/a/"), ("b/c.mp4", "b/")],
)
def test_names_begin_after_the_fixed_part(pattern: str, root: str) -> None:
    assert storage.fixed_part(pattern) == root
