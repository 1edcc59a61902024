"""Files here and in buckets, and what steps made, under the digest of its making.

A path with a scheme (`gs://`, `s3://`, `memory://`, `file://`) is fsspec's; others are
local. A read or write that fails is tried again after `RETRY_SECONDS`, then it is one
line. What is written appears whole or not at all. `member` names a range of bytes
of a file, and is read as a file is.
"""

import contextlib
import dataclasses
import glob
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from data_pipelines import manifests
from soraflax import buckets

Result = TypeVar("Result")
RETRY_SECONDS = (0.2, 1.0, 5.0)  # waits before a failed read is tried again
_PIECE = 2**20
_MEMBER = re.compile(r"(.+)::(\d+)\+(\d+)::[^/]*", re.DOTALL)
StorageError = manifests.StorageError


def is_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether a path names its file system."""
    return "://" in os.fspath(path)


def join(folder: str, *names: str) -> str:
    return "/".join([folder.rstrip("/"), *names])


def member(archive: str, offset: int, *, size: int, name: str) -> str:
    """The path of a clip inside an uncompressed archive.

    Args:
      archive: path of the archive.
      offset, size: bytes of it.
      name: of the clip, whose ending says what it is.
    """
    return f"{archive}::{offset}+{size}::{name.replace('/', '_')}"


def _range(path: str) -> tuple[str, int, int] | None:
    """Archive, offset and size of a `member`; None of other paths."""
    found = _MEMBER.fullmatch(path)
    return (found[1], int(found[2]), int(found[3])) if found else None


@contextlib.contextmanager
def open_to_read(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file that seeks; of a bucket, what is read is fetched by ranges.

    Raises:
      OSError: it cannot be read.
    """
    if not is_bucket(path):
        with open(path, "rb") as file:
            yield file
        return
    system, inner = file_system(os.fspath(path))
    with system.open(inner, "rb") as file:
        yield file


def _range_bytes(part: tuple[str, int, int]) -> bytes:
    archive, offset, size = part
    if is_bucket(archive):
        system, inner = file_system(archive)
        data = system.cat_file(inner, start=offset, end=offset + size)
    else:
        with open(archive, "rb") as file:
            file.seek(offset)
            data = file.read(size)
    if len(data) < size:
        raise OSError("cut off")
    return data


def patiently(action: Callable[[], Result], name: str) -> Result:
    """What an action returns, tried again where its file system fails.

    Raises:
      FileNotFoundError: at once.
      StorageError: it failed every time.
    """
    for seconds in (*RETRY_SECONDS, None):
        try:
            return action()
        except FileNotFoundError:
            raise
        except Exception as error:
            if not isinstance(error, OSError) and not buckets.is_answer(error):
                raise
            if seconds is None:
                cause = getattr(error, "strerror", "") or str(error)
                cause = cause or type(error).__name__
                cause = " ".join(cause.split())
                raise StorageError(f"{name}: {cause}") from error
            time.sleep(seconds)
    raise AssertionError


def file_system(path: str) -> tuple[Any, str]:
    """The fsspec file system of a path, and the path within it.

    Raises:
      StorageError: no such file system, or its package is not installed.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise StorageError(f"{path}: {error}") from error


def find(pattern: str) -> Iterator[tuple[str, str]]:
    """Name and path of every file that a pattern finds, sorted.

    Args:
      pattern: with `*`, `?`, `[...]`, and `**` for any folders. A name is the path
        below the pattern's part without any.

    Raises:
      StorageError: the pattern names no folder, or it does not answer.
    """
    system, inner = file_system(pattern)
    root = fixed_part(inner)
    search = system.glob if is_bucket(pattern) else _local_glob
    found = patiently(lambda: sorted(search(inner)), pattern)
    for path in found:
        name = path[len(root) :].lstrip("/") or os.path.basename(path)
        full = system.unstrip_protocol(path) if is_bucket(pattern) else path
        if is_bucket(pattern) and not patiently(lambda p=path: system.isfile(p), path):
            continue
        if not is_bucket(pattern) and os.path.isdir(path):
            continue
        yield name, full


def _local_glob(pattern: str) -> list[str]:
    """What fsspec finds, without the facts of every file in memory at once."""
    import fsspec.utils

    if not glob.has_magic(pattern):
        return [pattern] if os.path.exists(pattern) else []
    root, regex = fixed_part(pattern), re.compile(fsspec.utils.glob_translate(pattern))
    depth = math.inf if "**" in pattern else pattern[len(root) :].count("/")
    found, folders = [], [(root.rstrip("/") or "/", 0)]
    while folders:
        folder, level = folders.pop()
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) and level < depth:
                    folders.append((entry.path, level + 1))
                if regex.match(entry.path):
                    found.append(entry.path)
    return found


def fixed_part(pattern: str) -> str:
    """The folder of a pattern that has no wildcard in it, with its slash."""
    wild = [pattern.index(c) for c in "*?[" if c in pattern]
    before = pattern[: min(wild)] if wild else pattern
    return before[: before.rfind("/") + 1]


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[tuple[Path, str]]:
    """A local file with the bytes of a path, and their SHA-256.

    Raises:
      StorageError: it cannot be read.
    """
    if not is_bucket(path) and _range(path) is None:
        yield Path(path), patiently(lambda: file_digest(path), path)
        return
    with tempfile.TemporaryDirectory(prefix="soraflax-") as folder:
        target = Path(folder) / f"file{Path(path).suffix}"
        if _range(path) is None:
            patiently(lambda: download(path, target), path)
        else:
            target.write_bytes(read_bytes(path) or b"")
        yield target, file_digest(target)


def file_digest(path: str | Path) -> str:
    """SHA-256 of a local file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(path: str, target: Path) -> None:
    """Copy the bytes of a path, once, to a local file."""
    system, inner = file_system(path)
    with system.open(inner, "rb") as source, target.open("wb") as out:
        shutil.copyfileobj(source, out, _PIECE)


def read_bytes(path: str) -> bytes | None:
    """The bytes at a path; None where there is nothing.

    Raises:
      StorageError: it cannot be read.
    """
    with contextlib.suppress(FileNotFoundError):
        if part := _range(path):
            return patiently(lambda: _range_bytes(part), path)
        if not is_bucket(path):
            return patiently(lambda: Path(path).read_bytes(), path)
        system, inner = file_system(path)
        return patiently(lambda: system.cat_file(inner), path)
    return None


def size(path: str) -> int | None:
    """Bytes of a file; None where there is nothing.

    Raises:
      StorageError: it does not answer.
    """
    system, inner = file_system(path)
    with contextlib.suppress(FileNotFoundError):
        return int(patiently(lambda: system.info(inner), path)["size"])
    return None


def write_bytes(path: str, data: bytes) -> None:
    """Write a file that appears whole or not at all.

    Raises:
      StorageError: it cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="soraflax-") as folder:
        if not is_bucket(path):
            patiently(lambda: write_local(Path(path), data), path)
            return
        source = Path(folder) / "file"
        source.write_bytes(data)
        upload(source, path)


def write_local(path: Path, data: bytes) -> None:
    """Write a local file, once, that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def upload(source: Path, path: str) -> None:
    """Move a local file to a path, where it appears whole.

    Raises:
      StorageError: it cannot be written.
    """
    if not is_bucket(path):
        patiently(lambda: _move_local(source, Path(path)), path)
        return
    system, inner = file_system(path)
    folder = inner.rsplit("/", 1)[0]
    patiently(lambda: system.makedirs(folder, exist_ok=True), path)
    patiently(lambda: system.put_file(os.fspath(source), inner), path)


def _move_local(source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{os.getpid()}-{path.name}"[:255])
    shutil.copyfile(source, part)
    os.replace(part, path)


def copy(source: str, target: str) -> None:
    """Copy a file between any two places; a link where both are on one disk.

    Raises:
      StorageError: one of them does not answer.
    """
    if not is_bucket(source) and not is_bucket(target):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    with local_copy(source) as (path, _):
        upload(path, target)


def remove(path: str) -> None:
    """Remove a file of a bucket, if it is there.

    Raises:
      StorageError: the bucket does not answer.
    """
    system, inner = file_system(path)
    with contextlib.suppress(FileNotFoundError):
        patiently(lambda: system.rm_file(inner), path)


@dataclasses.dataclass(frozen=True)
class Store:
    """What steps made.

    Attributes:
      root: its folder, here or in a bucket.
    """

    root: str

    def path(self, step: str, key: str) -> str:
        return join(self.root, step, key[:2], key)

    def read(self, step: str, key: str) -> bytes | None:
        """What the step made, if it did."""
        return read_bytes(self.path(step, key))

    def has(self, step: str, key: str) -> bool:
        """Whether the step made it."""
        return size(self.path(step, key)) is not None

    def write(self, step: str, key: str, *, data: bytes) -> None:
        write_bytes(self.path(step, key), data)


def key(*parts: Any) -> str:
    """Digest of all that something is made from; parts are JSON values."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def key_of_many(*parts: Any, items: Iterable[Any]) -> str:
    """`key(*parts, list(items))`, of items that are taken one by one."""
    text = json.dumps([*parts, []], sort_keys=True, ensure_ascii=True)
    digest = hashlib.sha256(text.removesuffix("]]").encode())
    for number, item in enumerate(items):
        text = json.dumps(item, sort_keys=True, ensure_ascii=True)
        digest.update(f"{', ' if number else ''}{text}".encode())
    digest.update(b"]]")
    return digest.hexdigest()


def file_facts(path: str) -> Mapping[str, Any] | None:
    """Size and time of a local file, by which its digest is remembered."""
    if is_bucket(path):
        return None
    part = _range(path)
    facts = os.stat(part[0] if part else path)
    return {
        "path": os.path.abspath(path),
        "bytes": facts.st_size,
        "time": facts.st_mtime_ns,
        "file": facts.st_ino,
    }
