"""WebDataset tars: samples of members that share a name up to its first dot.

Members of a sample follow each other: `0001.mp4`, `0001.txt` (its caption),
`0001.json` (every text in it is a caption under its own name).
"""

import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from data_pipelines.builders import tables

MAX_TEXT = 2**20  # bytes of a .txt or .json in a tar

Members = Sequence[tuple[str, tarfile.TarInfo]]
"""Of a sample: the ending of each, as `.mp4`, and the member."""


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


def check_end(archive: Path, tar: tarfile.TarFile) -> None:
    """tarfile takes the end of a file for that of the archive: two blocks of 0.

    Raises:
      ReadError: they are not there.
    """
    members = tar.getmembers()
    end = members[-1].offset_data + members[-1].size if members else 0
    block = tarfile.BLOCKSIZE
    with archive.open("rb") as file:
        file.seek(-(-end // block) * block)
        if file.read(2 * block) != bytes(2 * block):
            raise tarfile.ReadError("unexpected end of data")


def fault(archive: Path, error: Exception) -> str:
    """Why an archive that raised an error cannot be read to its end."""
    if archive.read_bytes()[:2] == b"\x1f\x8b":
        return "a compressed tar: gunzip it"
    return f"not a tar, or cut off: {error}"
