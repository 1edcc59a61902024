"""Digests of a checkpoint's files: a flipped bit, a short or a missing file is noticed.

    checkpoints/STEP/digests.json    {"files": {name: [bytes, CRC-32]}}

Every process takes the digests of the files that it wrote, before the step is
committed, and `seal` adds the rest: a committed step always has them. CRC-32 finds any
flipped bit and, of other damage, all but one case in 2^32; it is read several times
faster than a disk. Checkpoints of earlier versions hold `{name: SHA-256}`, which is
checked as well.

A bucket keeps the CRC-32C of every object, and compares it with the bytes that it
sends. There a digest is `[bytes, "crc32c:..."]`, of a list of its objects: nothing is
read again, neither to write digests nor to verify them.
"""

import base64
import concurrent.futures
import functools
import hashlib
import importlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from soraflax import buckets

DIGESTS = "digests.json"
METADATA = "_CHECKPOINT_METADATA"  # orbax writes its time of commit after the seal
UNREAD = ("commit_success.txt",)  # holds nothing but the fact that it was written
BLOCK = 1 << 24
_BUCKET = "crc32c:"
Path = TypeVar("Path", bound=buckets.Folder)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one line."""


def write_share(item: buckets.Folder, process: int) -> None:
    """Write the digests of the files that one process wrote, to be merged by `seal`.

    Args:
      item: folder of the arrays in a step that is not yet committed; orbax gives every
        process a folder of its own there.
      process: index of the process.
    """
    own = files(item / f"ocdbt.process_{process}")
    _write(item.parent / f"{DIGESTS}.{process}", _digests(item.parent, own))


def seal(folder: buckets.Folder) -> None:
    """Write `digests.json`: the shares of all processes, and all files in none."""
    merged: dict[str, Any] = {}
    shares = sorted(folder.glob(f"{DIGESTS}.*"))
    for share in shares:
        merged |= json.loads(share.read_text())["files"]
        share.unlink()
    rest = [p for p in files(folder) if _name(folder, p) not in merged]
    _write(folder / DIGESTS, merged | _digests(folder, rest))


def files(folder: Path) -> list[Path]:
    """The files of a step that have digests, sorted."""
    if buckets.is_bucket(folder):
        found = [folder / name for name in buckets.listing(folder)]
    else:
        found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [
        path
        for path in found
        if not path.name.startswith(DIGESTS)
        and not (path.parent == folder and path.name in UNREAD)
    ]


def read(folder: buckets.Folder) -> dict[str, Any]:
    """The digest of every file of a step, by name: `[bytes, CRC]` or a SHA-256.

    Raises:
      CheckpointError: they are missing or damaged.
    """
    try:
        values = json.loads((folder / DIGESTS).read_text())
        expected = dict(values.get("files", values))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / DIGESTS}: damaged or missing") from error
    if not expected:
        raise CheckpointError(f"{folder / DIGESTS}: names no file")
    for name in expected:
        if name.startswith("/") or ".." in name.split("/"):
            raise CheckpointError(f"{folder / DIGESTS}: {name} is outside the step")
    return expected


def share(expected: Mapping[str, Any], index: int, *, count: int) -> dict[str, Any]:
    """The files that one of `count` readers verifies, about as many bytes as others."""
    loads = [0] * count
    mine = {}
    sizes = {name: d[0] if isinstance(d, list) else 0 for name, d in expected.items()}
    for name in sorted(expected, key=lambda name: (-sizes[name], name)):
        reader = loads.index(min(loads))
        loads[reader] += sizes[name] + 1
        if reader == index:
            mine[name] = expected[name]
    return mine


def problems(folder: buckets.Folder, expected: Mapping[str, Any]) -> list[str]:
    """One line for every file that is missing, or not what was written."""
    problem = functools.partial(_problem, held=_held(folder))
    pairs = ((folder / name, digest) for name, digest in expected.items())
    return [line for line in _map(problem, pairs) if line]


def verify(folder: buckets.Folder) -> None:
    """Check every file of a step, in this process alone.

    Raises:
      CheckpointError: a file is missing or differs from what was written.
    """
    if lines := problems(folder, read(folder)):
        raise CheckpointError(lines[0])


Held = Mapping[str, buckets.Object]  # by full path


def _held(folder: buckets.Folder) -> Held:
    """What a bucket says of the files of a step; nothing on a disk."""
    if not buckets.is_bucket(folder):
        return {}
    return {str(folder / n): held for n, held in buckets.listing(folder).items()}


def _problem(pair: tuple[buckets.Folder, Any], *, held: Held) -> str | None:
    path, digest = pair
    try:
        if str(path) not in held and not path.is_file():
            return f"{path}: missing from the checkpoint"
        if isinstance(digest, str):
            return None if _sha256(path) == digest else f"{path}: damaged (SHA-256)"
        size = _size(path, held)
        if size != digest[0]:
            return f"{path}: damaged ({size} bytes instead of {digest[0]})"
        listed = isinstance(digest[1], str)
        found = _crc32c(path, held) if listed else _crc32(path)
        return None if found == digest[1] else f"{path}: damaged (CRC-32)"
    except (OSError, ValueError, LookupError, TypeError, ImportError) as error:
        return f"{path}: cannot be read ({error})"


def _digests(folder: buckets.Folder, paths: Sequence[buckets.Folder]) -> dict[str, Any]:
    held = _held(folder)
    crc = functools.partial(_crc32c, held=held) if held else _crc32
    values = _map(lambda path: [_size(path, held), crc(path)], paths)
    return dict(zip([_name(folder, path) for path in paths], values, strict=True))


def _name(folder: buckets.Folder, path: buckets.Folder) -> str:
    """The name of a file once its step is committed; items are renamed before."""
    first, *rest = path.relative_to(folder).parts
    return "/".join([first.partition(".orbax-checkpoint-tmp")[0], *rest])


def _map(function: Any, items: Iterable[Any]) -> list[Any]:
    """`function` of every item, by threads: reading and CRC-32 release the lock."""
    with concurrent.futures.ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))


def _size(path: buckets.Folder, held: Held) -> int:
    if path.name == METADATA:
        return len(_metadata(path))
    return held[str(path)].bytes if held else os.stat(path).st_size


def _crc32(path: buckets.Folder) -> int:
    if path.name == METADATA:
        return zlib.crc32(_metadata(path))
    value = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            value = zlib.crc32(block, value)
    return value


def _crc32c(path: buckets.Folder, held: Held) -> int | str:
    """That of the bucket's list; of a step copied to a disk, computed."""
    if path.name == METADATA:
        return _crc32(path)
    if held:
        return _BUCKET + held[str(path)].crc32c
    total: Any = importlib.import_module("google_crc32c").Checksum()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            total.update(block)
    return _BUCKET + base64.b64encode(total.digest()).decode()


def _metadata(path: buckets.Folder) -> bytes:
    """What orbax says of a step, without the time of its commit, not known before."""
    values = json.loads(path.read_text())
    values.pop("commit_timestamp_nsecs", None)
    return json.dumps(values, sort_keys=True).encode()


def _sha256(path: buckets.Folder) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            total.update(block)
    return total.hexdigest()


def _write(path: buckets.Folder, values: Mapping[str, Any]) -> None:
    text = json.dumps({"files": values}, indent=1, sort_keys=True)
    buckets.write_text(path, text)
