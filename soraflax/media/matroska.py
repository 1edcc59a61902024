"""The elements of a Matroska file (RFC 8794, RFC 9559), walked from end to end.

FFmpeg looks for the next thing that it knows wherever it meets damage, and what it
passed over is gone without a word. Here every byte of a file has to belong to an
element, every element to its parent, and every block to a track.
"""

import dataclasses
import os
import zlib
from collections.abc import Iterator
from typing import Any

from soraflax.media import common, formats

_HEADER, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
_TRACKS, _TRACK, _TRACK_NUMBER = 0x1654AE6B, 0xAE, 0xD7
_GROUP, _BLOCK, _SIMPLE_BLOCK = 0xA0, 0xA1, 0xA3
_CRC, _VOID = 0xBF, 0xEC
_GLOBAL = {_CRC, _VOID}
# Seek head, information, tracks, tags, clusters, cues, attachments, chapters.
_OF_SEGMENT = _GLOBAL | {
    *(0x114D9B74, 0x1549A966, _TRACKS, 0x1254C367, _CLUSTER),
    *(0x1C53BB6B, 0x1941A469, 0x1043A770),
}
# Time, silent tracks, position, size of the one before, blocks.
_OF_CLUSTER = _GLOBAL | {0xE7, 0x5854, 0xA7, 0xAB, _SIMPLE_BLOCK, _GROUP, 0xAF}
_OF_GROUP = _GLOBAL | {
    *(_BLOCK, 0x75A1, 0xA2, 0x9B, 0xFA, 0xFB, 0xFD, 0xA4, 0x75A2, 0x8E, 0xC8, 0xAF),
}
_NUMBERS = {0xE7, 0xA7, 0xAB, 0x9B, 0xFA, 0xFB, 0xFD, 0x75A2}  # of up to 8 bytes
_PIECE = 2**20


@dataclasses.dataclass(frozen=True)
class Element:
    """An element, by its number and the range of bytes that it holds.

    Attributes:
      number: with its marker bits, as specifications write it.
      at: where it begins.
      start: where what it holds begins.
      end: where it ends; None where it does not say.
    """

    number: int
    at: int
    start: int
    end: int | None


@dataclasses.dataclass(frozen=True)
class Structure:
    """What a walk through a file found.

    Attributes:
      open_ended: the file does not say where it ends, as one that is recorded live.
      notes: what is no part of it, a line each.
    """

    open_ended: bool
    notes: tuple[str, ...]


def walk(file: Any, name: str) -> Structure:
    """Walk through a file that begins as one of Matroska.

    Raises:
      MediaError: truncated or damaged, with where.
    """
    return _Walk(file, name).segment()


class _Walk:
    def __init__(self, file: Any, name: str) -> None:
        self.file, self.name = file, name
        self.length = formats.length(file)
        self.tracks: set[int] = set()
        self.foreign = 0  # bytes of elements that are of no known kind

    def damaged(self, at: int, what: str) -> common.MediaError:
        return common.MediaError(f"{self.name}: damaged: {what} at byte {at}")

    def segment(self) -> Structure:
        header = self.element(0, self.length)
        found = self.element(header.end or 0, self.length)
        while found.number == _VOID and found.end is not None:
            found = self.element(found.end, self.length)
        if found.number != _SEGMENT:
            raise self.damaged(found.at, "no segment")
        missing = (found.end or 0) - self.length
        if missing > 0:
            raise common.MediaError(
                f"{self.name}: truncated: {missing} bytes are missing at its end"
            )
        end = self.length if found.end is None else found.end
        at = found.start
        while at < end:
            at = self.top_level(at, end)
        notes = []
        if self.foreign:
            notes.append(f"{self.foreign} bytes in it are of no known kind: left out")
        if self.length > end:
            notes.append(f"{self.length - end} bytes after its end are left out")
        return Structure(found.end is None, tuple(notes))

    def top_level(self, at: int, end: int) -> int:
        """Check an element of the segment; returns where the next one begins."""
        found = self.element(at, end)
        if found.number == _CLUSTER:
            return self.cluster(found, end)
        if found.end is None:
            raise self.damaged(at, "an element without a size")
        if found.number == _TRACKS:
            self.read_tracks(found)
        elif found.number not in _OF_SEGMENT:
            self.foreign += found.end - at
        return found.end

    def read_tracks(self, tracks: Element) -> None:
        for track in self.children(tracks):
            if track.number != _TRACK:
                continue
            for child in self.children(track):
                if child.number == _TRACK_NUMBER and child.end is not None:
                    data = self.bytes(child.start, child.end - child.start)
                    self.tracks.add(int.from_bytes(data, "big"))

    def cluster(self, cluster: Element, end: int) -> int:
        """Check blocks; a cluster without a size ends where the next thing begins."""
        at, stop = cluster.start, end if cluster.end is None else cluster.end
        while at < stop:
            child = self.element(at, stop)
            if cluster.end is None and child.number in _OF_SEGMENT - _GLOBAL:
                return at
            if child.end is None:
                raise self.damaged(at, "an element without a size")
            if child.number == _CRC and at == cluster.start:
                self.check_sum(child, stop)
            elif child.number == _GROUP:
                for part in self.children(child):
                    self.check_part(part, _OF_GROUP)
            else:
                self.check_part(child, _OF_CLUSTER)
            at = child.end
        return at

    def check_part(self, part: Element, known: set[int]) -> None:
        size = (part.end or part.start) - part.start
        if part.number not in known:
            self.foreign += size + part.start - part.at
        elif part.number in (_BLOCK, _SIMPLE_BLOCK):
            track, _ = _variable_size(self.bytes(part.start, 8))
            if self.tracks and track not in self.tracks:
                raise self.damaged(part.at, "a block of a track that is not there")
        elif part.number in _NUMBERS and size > 8:
            raise self.damaged(part.at, f"a number of {size} bytes")

    def check_sum(self, crc: Element, end: int) -> None:
        """Check what follows a checksum up to the end of its cluster."""
        assert crc.end is not None
        expected = int.from_bytes(self.bytes(crc.start, 4), "little")
        actual, at = 0, crc.end
        while at < end:
            data = self.bytes(at, min(_PIECE, end - at))
            actual, at = zlib.crc32(data, actual), at + len(data)
        if actual != expected:
            raise self.damaged(crc.at, "a cluster that its checksum does not fit")

    def children(self, parent: Element) -> Iterator[Element]:
        at, end = parent.start, parent.end
        assert end is not None
        while at < end:
            child = self.element(at, end)
            if child.end is None:
                raise self.damaged(at, "an element without a size")
            yield child
            at = child.end

    def element(self, at: int, end: int) -> Element:
        """The element that begins at a byte of its parent, which ends at `end`."""
        head = self.bytes(at, 12)
        width = 9 - head[0].bit_length() if head and head[0] else 0
        if not 1 <= width <= 4 or len(head) <= width:
            raise self.damaged(at, "no element")
        number = int.from_bytes(head[:width], "big")
        size, used = _variable_size(head[width:])
        if not used:
            raise self.damaged(at, "an element without a size")
        start = at + width + used
        stop = None if size is None else start + size
        if stop is not None and stop > end and number != _SEGMENT:
            if end == self.length:
                raise common.MediaError(
                    f"{self.name}: truncated: {stop - end} bytes are missing at its end"
                )
            raise self.damaged(at, "an element larger than what holds it")
        return Element(number, at, start, stop)

    def bytes(self, at: int, count: int) -> bytes:
        self.file.seek(at, os.SEEK_SET)
        return self.file.read(count)


def _variable_size(data: bytes) -> tuple[int | None, int]:
    """A number and its length in bytes; None where all bits are set, 0 for nonsense."""
    width = 9 - data[0].bit_length() if data and data[0] else 0
    if not width or len(data) < width:
        return None, 0
    value = int.from_bytes(data[:width], "big") & ((1 << 7 * width) - 1)
    return (None if value == (1 << 7 * width) - 1 else value), width
