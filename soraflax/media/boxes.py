"""Boxes of ISO base media files (ISO/IEC 14496-12): mp4, mov, heic, avif."""

import dataclasses
import struct
from collections.abc import Iterator
from typing import Any

from soraflax.media import common, formats

# Boxes that hold frames or tell of them: one that is cut short is a loss.
_MEDIA = (b"mdat", b"moov", b"moof", b"meta")
_MOST = 2**16  # boxes of one parent; more are those of a damaged file


@dataclasses.dataclass(frozen=True)
class Box:
    """A box, by its four letters and the range of bytes that it holds."""

    kind: bytes
    start: int
    end: int


def boxes(file: Any, start: int = 0, *, end: int | None = None) -> Iterator[Box]:
    """The boxes of a range, in order; stops at what is none."""
    size_of_file = formats.length(file)
    end = size_of_file if end is None else min(end, size_of_file)
    for _ in range(_MOST):
        if start + 8 > end:
            return
        file.seek(start)
        head = file.read(16)
        (size,), kind, header = struct.unpack(">I", head[:4]), head[4:8], 8
        if size == 1 and len(head) == 16:
            (size,), header = struct.unpack(">Q", head[8:]), 16
        stop = size_of_file if size == 0 else start + size
        if stop < start + header:
            return
        yield Box(kind, start + header, stop)
        start = stop


def first(file: Any, path: tuple[bytes, ...], *, within: Box | None = None) -> Any:
    """The first box along a path of kinds; None where there is none."""
    box = within
    for kind in path:
        start, end = (0, None) if box is None else (box.start, box.end)
        if box is not None and box.kind == b"meta":
            start += 4
        found = (b for b in boxes(file, start, end=end) if b.kind == kind)
        box = next(found, None)
        if box is None:
            return None
    return box


def content(file: Any, box: Box, *, most: int = 2**20) -> bytes:
    """What a box holds, at most so many bytes of it."""
    file.seek(box.start)
    return file.read(min(most, box.end - box.start))


def check_whole(file: Any, name: str) -> None:
    """Refuse a file that ends within a box of media; leaves `file` where it was.

    Raises:
      MediaError: with how much is missing.
    """
    position, length = file.tell(), formats.length(file)
    for box in boxes(file):
        if box.end > length and box.kind in _MEDIA:
            raise common.MediaError(
                f"{name}: truncated: {box.end - length} bytes are missing at its end"
            )
    file.seek(position)


def aperture(file: Any, track: int) -> tuple[float, ...] | None:
    """Clean aperture of a video track, as `clap` has it; None without one."""
    position = file.tell()
    try:
        movie = first(file, (b"moov",))
        tracks = boxes(file, movie.start, end=movie.end) if movie else ()
        for box in [b for b in tracks if b.kind == b"trak"]:
            header = first(file, (b"tkhd",), within=box)
            data = content(file, header) if header else b""
            at = 20 if data[:1] == b"\x01" else 12
            if int.from_bytes(data[at : at + 4], "big") != track:
                continue
            table = (b"mdia", b"minf", b"stbl", b"stsd")
            entries = first(file, table, within=box)
            if entries is None:
                return None
            entry = next(boxes(file, entries.start + 8, end=entries.end), None)
            if entry is None:
                return None
            # A visual sample entry has 78 bytes before its boxes.
            inner = boxes(file, entry.start + 78, end=entry.end)
            clap = next((b for b in inner if b.kind == b"clap"), None)
            return clean_aperture(content(file, clap)) if clap else None
        return None
    finally:
        file.seek(position)


def clean_aperture(data: bytes) -> tuple[float, ...] | None:
    """Width, height and offsets of the centre, in pixels; None for nonsense."""
    if len(data) < 32:
        return None
    values = struct.unpack(">IIIIiIiI", data[:32])
    if 0 in values[1::2]:
        return None
    return tuple(values[i] / values[i + 1] for i in (0, 2, 4, 6))
