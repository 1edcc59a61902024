"""Datasets of buckets on this machine: small files at once, shards when they are read.

    CACHE/KEY/    dataset.json, manifest.json and what TFDS needs of a dataset; logs and
                  shards, by their names in it, as they are asked for

KEY is a digest of the dataset's address, dataset.json and manifest.json, so that all
processes of a host and every life of a run share what was fetched, and a dataset that
was replaced has another. A shard appears whole, and only with the size and SHA-256 of
the manifest. CACHE is bounded: where a shard has no room among those that others need,
its records are read by ranges from where it is, which ArrayRecord does of `gs://`; of
other schemes the shards that were used longest ago go. CACHE/.staged holds what is made
here before it is put into a bucket.

    SORAFLAX_DATA_CACHE       CACHE; by default `datasets` in soraflax's cache folder
    SORAFLAX_DATA_CACHE_GB    its bound; by default half of what the disk can hold. With
                              0, everything of `gs://` is read by ranges
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines import manifests, storage
from soraflax import buckets, compilation_cache

FOLDER, LIMIT = "SORAFLAX_DATA_CACHE", "SORAFLAX_DATA_CACHE_GB"
IDLE_SECONDS = 3600.0  # after which a shard that nobody opened may go for another
TRUSTED_SECONDS = 10.0  # for which a dataset, just looked at, is taken to be the same
_INFO, _MANIFEST, _KEYS = "dataset.json", "manifest.json", "keys.bin"
_SHARD, _STAGED = ".array_record-", ".staged"
_TFDS = ("features.json", "dataset_info.json")
_KNOWN: dict[str, tuple[float, Path]] = {}  # when it was looked at, and its mirror


def address(path: str | os.PathLike[str]) -> str | None:
    """The address of a dataset in a bucket; None of a local one.

    Args:
      path: pathlib's folding of slashes, `gs:/BUCKET`, is undone.
    """
    found = re.match(r"([a-z][a-z0-9+.-]+):/+(.*)", os.fspath(path))
    if not found:
        return None
    scheme, rest = found[1], found[2].rstrip("/")
    return f"{scheme}://{'/' if scheme == 'file' else ''}{rest}"


def named(path: str | os.PathLike[str], *names: str) -> str:
    """A file of a dataset, as a message names it."""
    url = address(path)
    return os.fspath(Path(path, *names)) if url is None else storage.join(url, *names)


def folder(path: str | os.PathLike[str]) -> Path:
    """The folder of a dataset on this machine: itself, or its mirror.

    What is not there is in none: where a bucket holds no dataset, it does not exist.

    Raises:
      StorageError: the bucket does not answer.
      BucketError: no such bucket is meant, or gcsfs is missing.
    """
    url = address(path)
    if url is None:
        return Path(path)
    if buckets.is_bucket(url):
        buckets.folder(url)  # which refuses what is none
    since, mirror = _KNOWN.get(url, (-math.inf, Path()))
    if time.monotonic() - since > TRUSTED_SECONDS or not mirror.is_dir():
        mirror = _make(url)
        _KNOWN[url] = time.monotonic(), mirror
    return mirror


def forget(path: str | os.PathLike[str]) -> None:
    """Look at a dataset anew when it is read next: it was replaced."""
    _KNOWN.pop(address(path) or "", None)


def staging(path: str | os.PathLike[str]) -> Path:
    """Where a dataset of a bucket is made before it is put there; the same each time.

    Raises:
      DatasetError: a local one, which is made where it is to stand.
    """
    url = address(path)
    if url is None:
        raise manifests.DatasetError(f"{path}: is in no bucket")
    name = hashlib.sha256(url.encode()).hexdigest()[:32]
    return cache_folder() / _STAGED / name


def _make(url: str) -> Path:
    """Fetches what every reader needs, unless it is there."""
    files = {name: _read(url, name) for name in (_INFO, _MANIFEST)}
    if None in files.values():
        return cache_folder() / "none"
    parts = (url.encode(), *(data or b"" for data in files.values()))
    digests = b"".join(hashlib.sha256(part).digest() for part in parts)
    mirror = cache_folder() / hashlib.sha256(digests).hexdigest()[:32]
    if (mirror / _INFO).is_file():
        return mirror
    directory = _directory(files[_INFO] or b"")
    more = [f"{directory}/{name}" for name in _TFDS] if directory else []
    files = {name: _read(url, name) for name in (*more, _KEYS)} | files
    for name, data in files.items():
        if name != _INFO and data is not None:
            _write(mirror / name, data)
    _write(mirror / _INFO, files[_INFO] or b"")
    return mirror


def _directory(info: bytes) -> str | None:
    """The TFDS directory that a dataset.json names; None where it names none."""
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(info)
        if isinstance(found, dict):
            manifests.check_name(found.get("directory"), origin=Path(_INFO))
            return found["directory"]
    return None


def _read(url: str, name: str) -> bytes | None:
    return storage.read_bytes(storage.join(url, name))


def _write(path: Path, data: bytes) -> None:
    storage.patiently(lambda: storage.write_local(path, data), os.fspath(path))


def file(path: str | os.PathLike[str], name: str) -> Path:
    """A file of a dataset on this machine, fetched unless it is there.

    Raises:
      StorageError: the bucket does not answer.
    """
    url, root = address(path), folder(path)
    if url is not None and root.is_dir() and not (root / name).exists():
        data = _read(url, name)
        if data is not None:
            _write(root / name, data)
    return root / name


@dataclasses.dataclass(frozen=True)
class ShardPlaces:
    """Where the shards of a dataset are read; it travels to workers.

    Attributes:
      root: the dataset's folder, or its mirror.
      url: its address; None of a local one.
      lines: name of a shard to its line of the manifest.
    """

    root: Path
    url: str | None
    lines: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(
        cls, path: str | os.PathLike[str], shards: Sequence[Mapping[str, Any]]
    ) -> "ShardPlaces":
        """Those of a dataset with these lines of its manifest."""
        if address(path) is not None:
            limit()  # which refuses what is none
        lines = {shard["file"]: shard for shard in shards}
        return cls(folder(path), address(path), lines)

    def __call__(self, name: str, *, doubted: bool = False) -> str:
        """What ArrayRecord opens to read a shard, which is fetched first.

        Args:
          name: of the shard, in the dataset.
          doubted: hold what was fetched before against its digest again, and read
            nothing by ranges: something that was read was damaged.

        Raises:
          StorageError: the bucket does not answer, or holds something else.
        """
        target = self.root / name
        if self.url is None:
            return os.fspath(target)
        if not doubted and self._is_there(target):
            with contextlib.suppress(OSError):  # another process made room
                os.utime(target)
                return os.fspath(target)
        source, size = storage.join(self.url, name), int(self.lines[name]["bytes"])
        ranges = not doubted and buckets.is_bucket(source)
        if not make_room(size, keep_used=ranges):
            return source
        digest = self.lines[name].get("sha256")
        with _locked(target):
            if not self._is_there(target) or (
                doubted and storage.file_digest(target) != digest
            ):
                _fetch(source, target, size=size, digest=digest)
        return os.fspath(target)

    def _is_there(self, target: Path) -> bool:
        size = self.lines[target.relative_to(self.root).as_posix()]["bytes"]
        with contextlib.suppress(FileNotFoundError):
            return target.stat().st_size == size
        return False

    def check_size(self, name: str) -> None:
        """Hold the size of a shard in its bucket against the manifest.

        Raises:
          DatasetError: it is missing, or of another size.
        """
        source = storage.join(self.url or "", name)
        size = storage.size(source)
        if size is None:
            raise manifests.DatasetError(
                f"{source}: shard is missing; make the dataset again"
            )
        if size != self.lines[name]["bytes"]:
            raise manifests.DatasetError(
                f"{source}: {size} bytes instead of {self.lines[name]['bytes']}: "
                "truncated; make the dataset again"
            )


def _fetch(source: str, target: Path, *, size: int, digest: str | None) -> None:
    part = target.with_name(f".part-{target.name}")

    def fetch() -> None:
        storage.download(source, part)
        if part.stat().st_size != size or storage.file_digest(part) != digest:
            raise OSError("differs from its manifest")

    try:
        storage.patiently(fetch, source)
        os.replace(part, target)
    except FileNotFoundError as error:
        raise manifests.StorageError(f"{source}: shard is missing") from error
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """One process of a host at a time; a lock goes with the process that has it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".lock-{target.name}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_room(size: int, *, keep_used: bool) -> bool:
    """Remove the shards used longest ago until one more of `size` bytes fits.

    Args:
      size: bytes.
      keep_used: leave those that were opened in the last `IDLE_SECONDS`.

    Returns:
      Whether it fits. Without `keep_used` one shard always may stay.
    """
    held = []
    for path in cache_folder().glob(f"**/[!.]*{_SHARD}*"):
        if _STAGED in path.relative_to(cache_folder()).parts:
            continue
        with contextlib.suppress(FileNotFoundError):
            facts = path.stat()
            held.append((facts.st_mtime, facts.st_size, path))
    total, most = sum(facts[1] for facts in held), limit(sum(f[1] for f in held))
    newest = time.time() - IDLE_SECONDS if keep_used else math.inf
    free = [facts for facts in sorted(held) if facts[0] < newest]
    if keep_used and total - sum(facts[1] for facts in free) + size > most:
        return False
    for _, bytes_, path in free:
        if total + size <= most:
            break
        path.unlink(missing_ok=True)
        total -= bytes_
    return True


def cache_folder() -> Path:
    """The folder of all mirrors."""
    own = os.environ.get(FOLDER, "")
    if own:
        return Path(own).absolute()
    place = compilation_cache.folder()
    return (place or Path(tempfile.gettempdir()) / "soraflax") / "datasets"


def limit(held: int = 0) -> float:
    """Bytes of shards that the cache may hold.

    Args:
      held: bytes that it holds.

    Raises:
      DatasetError: `SORAFLAX_DATA_CACHE_GB` is no number of gigabytes.
    """
    text = os.environ.get(LIMIT, "")
    if not text:
        place = cache_folder()
        place.mkdir(parents=True, exist_ok=True)
        return (shutil.disk_usage(place).free + held) / 2
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text) * 1e9
    raise manifests.DatasetError(
        f"{LIMIT}={text}: use a number of gigabytes, 0 or more"
    )
