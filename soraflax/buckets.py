"""Folders in buckets (`gs://`), beside those of a disk.

A bucket has names of objects and no folders, so that nothing can be renamed there: what
is to appear whole has a marker, an object that is written last and removed first. It
cannot be mapped into memory either, so a model is copied to this machine once, into
`cached_folder()`, before it is read.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import os
import pathlib
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from soraflax import compilation_cache

SCHEME = "gs://"
Folder = pathlib.Path | epath.Path
_PIECE = 2**22
_JOINED = 32  # objects that a bucket joins at once, at most
_MODELS = "models"


class BucketError(ValueError):
    """A bucket that cannot be used; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Object:
    """What a bucket says of an object.

    Attributes:
      bytes: its size.
      crc32c: CRC-32C of its bytes, as the bucket keeps it: base64.
    """

    bytes: int
    crc32c: str


def is_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether a path is in a bucket; pathlib folds the slashes of a scheme into one."""
    return re.match(r"gs:/+", os.fspath(path)) is not None


def folder(path: str | os.PathLike[str]) -> Folder:
    """The path, on a disk or in a bucket, both with pathlib's methods.

    Raises:
      BucketError: of another scheme, without a bucket's name, or gcsfs is missing.
    """
    text = os.fspath(path)
    other = re.match(r"([a-z][a-z0-9+.-]+)://", text) or re.match(r"(s3|az):/", text)
    if not is_bucket(text):
        if other:
            raise BucketError(
                f"{text}: {other[1]} is not supported; use gs://, or a folder that "
                "the bucket is mounted at"
            )
        return pathlib.Path(text)
    name = re.sub(r"^gs:/+", "", text).rstrip("/")
    if not name:
        raise BucketError(f"{text}: names no bucket; use gs://BUCKET/FOLDER")
    if importlib.util.find_spec("gcsfs") is None:
        raise BucketError(
            f"{SCHEME}{name}: buckets need gcsfs, which is missing: "
            "pip install 'soraflax[gcs]'"
        )
    _see_others()
    return epath.Path(SCHEME + name)


def absolute(path: str | os.PathLike[str]) -> Folder:
    """`folder(path)`, which no change of the working directory moves."""
    found = folder(path)
    return found if is_bucket(found) else found.absolute()


def _see_others() -> None:
    """Listings are not remembered: others write into the same bucket."""
    from fsspec import config

    config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)


@contextlib.contextmanager
def one_line(path: str | os.PathLike[str]) -> Iterator[None]:
    """What a bucket answers inside, as one line that names `path`.

    Raises:
      BucketError: no access, no such bucket, or no answer.
    """
    try:
        yield
    except (ValueError, OSError, KeyboardInterrupt):
        raise
    except Exception as error:
        if not is_answer(error):
            raise
        cause = " ".join(str(error).split())
        raise BucketError(f"{os.fspath(path)}: {cause}") from error


def is_answer(error: Exception) -> bool:
    """Whether an error is what a bucket, or the way to it, answered."""
    return type(error).__module__.partition(".")[0] in ("aiohttp", "gcsfs", "google")


def listing(path: Folder) -> dict[str, Object]:
    """All objects below a folder of a bucket, by name relative to it, sorted.

    Raises:
      BucketError: a name that would leave the folder.
    """
    system, inner = _system(path)
    found = {}
    for full, facts in sorted(system.find(inner, detail=True).items()):
        name = full[len(inner) :].lstrip("/")
        if ".." in name.split("/"):
            raise BucketError(f"{SCHEME}{full}: not a name inside {path}")
        if name and not name.endswith("/"):  # some tools make empty ones for folders
            found[name] = Object(int(facts["size"]), facts.get("crc32c", ""))
    return found


def _system(path: Folder) -> tuple[Any, str]:
    """The file system of a bucket, and the path within it."""
    import fsspec

    system, inner = fsspec.core.url_to_fs(str(path))
    return system, inner


@contextlib.contextmanager
def writing(path: Folder, *, seeks: bool) -> Iterator[Any]:
    """A binary file to be written, in a bucket too.

    Args:
      path: the file.
      seeks: whether it is written out of order; in a bucket it then lies on this
        machine first.
    """
    if not seeks or not is_bucket(path):
        with path.open("wb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as draft:
        yield draft
        draft.seek(0)
        with path.open("wb") as file:
            shutil.copyfileobj(draft, file, _PIECE)


def write_text(path: Folder, text: str) -> None:
    """Write a file that others read meanwhile: they see the old one, or the new one."""
    if is_bucket(path):
        path.write_text(text)
        return
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    draft.write_text(text)
    os.replace(draft, path)


def append_text(path: Folder, text: str) -> None:
    """Add to the end of a text file of one writer, which is made if it is missing."""
    if is_bucket(path):
        before = path.read_text() if path.exists() else ""
        path.write_text(before + text)
        return
    with path.open("a") as file:
        file.write(text)


def upload(source: pathlib.Path, target: Folder) -> None:
    """Copy a file, or all files below a folder, into a bucket."""
    system, inner = _system(target)
    if source.is_file():
        system.put_file(str(source), inner)
        return
    for path in sorted(source.rglob("*")):
        if path.is_file():
            name = path.relative_to(source).as_posix()
            system.put_file(str(path), f"{inner}/{name}")


def remove(path: Folder, names: Mapping[str, Any] | None = None) -> None:
    """Remove objects below a folder of a bucket: those of `names`, or all."""
    system, inner = _system(path)
    for name in listing(path) if names is None else names:
        with contextlib.suppress(FileNotFoundError):
            system.rm_file(f"{inner}/{name}")


def put(name: str, data: bytes | bytearray) -> None:
    """Write an object of a bucket from memory."""
    system, inner = _system(epath.Path(name))
    system.pipe_file(inner, bytes(data))


def discard(name: str) -> None:
    """Remove an object of a bucket, if it is there."""
    system, inner = _system(epath.Path(name))
    with contextlib.suppress(FileNotFoundError):
        system.rm_file(inner)


def join(names: Sequence[str], target: Folder) -> None:
    """Make an object of others one after the other, which the bucket copies by itself.

    Args:
      names: of the others, in the bucket of `target`; they stay.
      target: the object that they become.
    """
    system, inner = _system(target)
    parts = [_system(epath.Path(name))[1] for name in names]
    made: list[str] = []
    level = 0
    while len(parts) > _JOINED:
        starts = range(0, len(parts), _JOINED)
        larger = [f"{inner}.joined-{level}-{start:05}" for start in starts]
        for start, name in zip(starts, larger, strict=True):
            made.append(name)
            system.merge(name, parts[start : start + _JOINED])
        parts, level = larger, level + 1
    system.merge(inner, parts)
    for name in made:
        system.rm_file(name)


def commit(draft: Folder, target: Folder, *, marker: str) -> None:
    """Put what is at `draft` in the place of what is at `target`, within a bucket.

    The bucket copies by itself. In between `target` has no marker, and is none; what is
    left at `draft` then is whole.

    Args:
      draft: a complete folder.
      target: the folder it becomes.
      marker: name of the object that says that a folder is complete.
    """
    system, source = _system(draft)
    _, inner = _system(target)
    new, old = listing(draft), listing(target)
    remove(target, {marker: None} if marker in old else {})
    for name in [*(name for name in new if name != marker), marker]:
        if name == marker:
            remove(target, old.keys() - new.keys() - {marker})  # pyright: ignore[reportArgumentType]
        system.cp_file(f"{source}/{name}", f"{inner}/{name}")
    remove(draft)


def cached_folder() -> pathlib.Path:
    """Where what was in buckets is kept: `~/.cache/soraflax/models`, mostly."""
    place = compilation_cache.folder()
    return (place or pathlib.Path(tempfile.gettempdir()) / "soraflax") / _MODELS


def fetch(
    path: Folder,
    *,
    marker: str,
    cache: pathlib.Path | None = None,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> pathlib.Path:
    """A folder of a bucket on this machine; what has the same marker is there already.

    Args:
      path: the folder, with a marker.
      marker: name of the object that is written last, and differs where others do.
      cache: parent of what is fetched; None for `cached_folder()`.
      say: takes a line before something large is fetched.

    Raises:
      BucketError: it was replaced meanwhile, or has names that leave the folder.
      FileNotFoundError: it has no marker.
    """
    cache = cache or cached_folder()
    head = (path / marker).read_bytes()
    parts = (
        hashlib.sha256(part).hexdigest()[:16] for part in (str(path).encode(), head)
    )
    target = cache / "-".join(parts)
    if target.is_dir():
        return target
    held = listing(path)
    total = sum(entry.bytes for entry in held.values())
    if total > 10**8:
        say(f"fetching {path} ({total / 1e9:.3g} GB) into {target}")
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = pathlib.Path(tempfile.mkdtemp(prefix=".draft.", dir=cache))
    try:
        _download(path, draft, names=held)
        if (draft / marker).read_bytes() != head:
            raise BucketError(f"{path}: was replaced while it was read; try again")
        with contextlib.suppress(OSError):  # another process was first
            draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _download(path: Folder, target: pathlib.Path, *, names: Mapping[str, Any]) -> None:
    system, inner = _system(path)
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        system.get_file(f"{inner}/{name}", str(target / name))
