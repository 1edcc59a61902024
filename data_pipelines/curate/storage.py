"""Files here and in buckets, and what steps made, under the digest of its making.

A path with a scheme (`gs://`, `s3://`, `memory://`, `file://`) is fsspec's; others are
local. A read or write that fails is tried again after `records.RETRY_SECONDS`, then it
is one line. What is written appears whole or not at all.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from data_pipelines import records

Result = TypeVar("Result")
_PIECE = 2**20


class StorageError(records.DatasetError):
    """A file or bucket that does not answer, however often it is asked; one line."""


def is_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether a path names its file system."""
    return "://" in os.fspath(path)


def join(folder: str, *names: str) -> str:
    return "/".join([folder.rstrip("/"), *names])


def patiently(action: Callable[[], Result], name: str) -> Result:
    """What an action returns, tried again where its file system fails.

    Raises:
      FileNotFoundError: at once.
      StorageError: it failed every time.
    """
    for seconds in (*records.RETRY_SECONDS, None):
        try:
            return action()
        except FileNotFoundError:
            raise
        except OSError as error:
            if seconds is None:
                cause = error.strerror or str(error) or type(error).__name__
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
    found = patiently(lambda: sorted(system.glob(inner)), pattern)
    for path in found:
        name = path[len(root) :].lstrip("/") or os.path.basename(path)
        full = system.unstrip_protocol(path) if is_bucket(pattern) else path
        if is_bucket(pattern) and not patiently(lambda p=path: system.isfile(p), path):
            continue
        if not is_bucket(pattern) and os.path.isdir(path):
            continue
        yield name, full


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
    if not is_bucket(path):
        yield Path(path), patiently(lambda: _digest(path), path)
        return
    with tempfile.TemporaryDirectory(prefix="soraflax-") as folder:
        target = Path(folder) / f"file{Path(path).suffix}"
        patiently(lambda: _download(path, target), path)
        yield target, _digest(target)


def _digest(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(path: str, target: Path) -> None:
    system, inner = file_system(path)
    with system.open(inner, "rb") as source, target.open("wb") as out:
        shutil.copyfileobj(source, out, _PIECE)


def read_bytes(path: str) -> bytes | None:
    """The bytes at a path; None where there is nothing.

    Raises:
      StorageError: it cannot be read.
    """
    with contextlib.suppress(FileNotFoundError):
        if not is_bucket(path):
            return patiently(lambda: Path(path).read_bytes(), path)
        system, inner = file_system(path)
        return patiently(lambda: system.cat_file(inner), path)
    return None


def write_bytes(path: str, data: bytes) -> None:
    """Write a file that appears whole or not at all.

    Raises:
      StorageError: it cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="soraflax-") as folder:
        if not is_bucket(path):
            patiently(lambda: _write_local(Path(path), data), path)
            return
        source = Path(folder) / "file"
        source.write_bytes(data)
        upload(source, path)


def _write_local(path: Path, data: bytes) -> None:
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

    def write(self, step: str, key: str, *, data: bytes) -> None:
        write_bytes(self.path(step, key), data)


def key(*parts: Any) -> str:
    """Digest of all that something is made from; parts are JSON values."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_facts(path: str) -> Mapping[str, Any] | None:
    """Size and time of a local file, by which its digest is remembered."""
    if is_bucket(path):
        return None
    facts = os.stat(path)
    return {
        "path": os.path.abspath(path),
        "bytes": facts.st_size,
        "time": facts.st_mtime_ns,
        "file": facts.st_ino,
    }
