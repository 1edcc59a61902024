"""WebDataset tars: samples of members that share a name up to its first dot.

Members of a sample follow each other: `0001.mp4`, `0001.txt` (its caption),
`0001.json` (every text in it is a caption under its own name).
"""

import contextlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from data_pipelines import storage
from data_pipelines.builders import tables

MAX_TEXT = 2**20  # bytes of a .txt or .json in a tar

Members = Sequence[tuple[str, tarfile.TarInfo]]
"""Of a sample: the ending of each, as `.mp4`, and the member."""


class TarFault(ValueError):
    """Why a tar cannot be read to its end."""


def groups(tar: tarfile.TarFile) -> Iterator[tuple[str, Members]]:
    """Key and members of every sample, as they follow each other."""
    key, members = None, []
    for member in tar:
        if not member.isfile():
            continue
        path = PurePosixPath(member.name)
        stem, _, ending = path.name.partition(".")
        own = str(path.with_name(stem)) if stem else member.name
        if own != key and members:
            yield str(key), members
            members = []
        key = own
        members.append((f".{ending.lower()}", member))
    if members:
        yield str(key), members


def texts(tar: tarfile.TarFile, members: Members) -> dict[str, Any]:
    """The captions of a sample, source name to text.

    Raises:
      LookupError: one that is too long or cannot be read; the message is the reason.
    """
    row: dict[str, Any] = {}
    for ending, member in members:
        if ending not in (".txt", ".json"):
            continue
        if member.size > MAX_TEXT:
            raise LookupError(
                f"a {ending} of {member.size:,} bytes: use {MAX_TEXT:,} or less"
            )
        file = tar.extractfile(member)
        if file is None:
            continue
        try:
            text = file.read().decode("utf-8-sig")
            values = json.loads(text) if ending == ".json" else {"caption": text}
        except (ValueError, RecursionError) as error:
            raise LookupError(f"its {ending} cannot be read: {error}") from error
        if isinstance(values, dict):
            row |= tables.caption_texts(values)
    return row


@contextlib.contextmanager
def opened(archive: str | Path) -> Iterator[tarfile.TarFile]:
    """A tar, here or in a bucket, to be read to its end.

    Raises:
      TarFault: it is none, or is cut off; the message does not name it.
    """
    head = b""
    try:
        with storage.open_to_read(archive) as file:
            head = file.read(2)
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                yield tar
                _check_end(file, tar)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        if head == b"\x1f\x8b":
            raise TarFault("a compressed tar: gunzip it") from error
        raise TarFault(f"not a tar, or cut off: {error}") from error


def _check_end(file: Any, tar: tarfile.TarFile) -> None:
    """tarfile takes the end of a file for that of the archive: two blocks of 0."""
    members = tar.getmembers()
    end = members[-1].offset_data + members[-1].size if members else 0
    block = tarfile.BLOCKSIZE
    file.seek(-(-end // block) * block)
    if file.read(2 * block) != bytes(2 * block):
        raise tarfile.ReadError("unexpected end of data")
