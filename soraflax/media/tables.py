"""The tables of a movie's samples (ISO/IEC 14496-12, section 8.6 and 8.7).

FFmpeg reads as many samples as the shortest of its tables has, without a word. Each
says how many there are,

    len(stsz) = sum(stts) = sum(ctts) = sum over chunks of stsc,                  (1)

and each sample has to lie within the file.
"""

from typing import Any

import numpy as np
from jaxtyping import Int64

from soraflax.media import boxes, common, formats

_MOST = 2**28  # bytes of a table
# What a track of samples has to have, of two kinds one.
_NEEDED = (
    ((b"tkhd",), ()),
    ((b"mdhd",), (b"mdia",)),
    ((b"hdlr",), (b"mdia",)),
    ((b"stsd",), (b"mdia", b"minf", b"stbl")),
    ((b"stts",), (b"mdia", b"minf", b"stbl")),
    ((b"stsc",), (b"mdia", b"minf", b"stbl")),
    ((b"stsz", b"stz2"), (b"mdia", b"minf", b"stbl")),
    ((b"stco", b"co64"), (b"mdia", b"minf", b"stbl")),
)
_OF_FILE = {
    *(b"ftyp", b"styp", b"moov", b"moof", b"mfra", b"mdat", b"sidx", b"ssix", b"free"),
    *(b"skip", b"wide", b"junk", b"uuid", b"meta", b"pdin", b"prft", b"emsg", b"pnot"),
    *(b"PICT", b"udta", b"imda"),
}
_OF_FRAGMENT = {b"mfhd", b"traf", b"meta", b"uuid", b"free", b"pssh", b"udta"}
_OF_PART = {
    *(b"tfhd", b"tfdt", b"trun", b"sbgp", b"sgpd", b"subs", b"saiz", b"saio", b"senc"),
    *(b"meta", b"uuid", b"free"),
}

Ints = Int64[np.ndarray, "n"]


def check(file: Any, name: str) -> list[str]:
    """Notes of what is no part of a movie, or of tables that do not agree.

    Raises:
      MediaError: a table is missing or cut, or samples lie outside of the file.
    """
    notes, end, foreign = [], 0, 0
    for box in boxes.boxes(file):
        foreign += _foreign(file, box) + (box.kind not in _OF_FILE)
        end = max(end, box.end)
    movie = boxes.first(file, (b"moov",))
    tracks = boxes.boxes(file, movie.start, end=movie.end) if movie else ()
    for track in [box for box in tracks if box.kind == b"trak"]:
        notes += _Track(file, name, box=track).check()
    if foreign:
        notes.append(f"{foreign} of its boxes are of no known kind: left out")
    if 0 < end < formats.length(file):
        notes.append(f"{formats.length(file) - end} bytes after its end are left out")
    return notes


def _foreign(file: Any, box: boxes.Box) -> int:
    """Number of boxes of a fragment that are of no known kind."""
    if box.kind != b"moof":
        return 0
    count = 0
    for child in list(boxes.boxes(file, box.start, end=box.end)):
        count += child.kind not in _OF_FRAGMENT
        if child.kind == b"traf":
            parts = boxes.boxes(file, child.start, end=child.end)
            count += sum(part.kind not in _OF_PART for part in parts)
    return count


class _Track:
    def __init__(self, file: Any, name: str, *, box: boxes.Box) -> None:
        self.file, self.name, self.box = file, name, box
        self._inner: dict[boxes.Box, list[boxes.Box]] = {}

    def damaged(self, what: str) -> common.MediaError:
        return common.MediaError(f"{self.name}: damaged: {what}")

    def find(self, *path: bytes) -> boxes.Box | None:
        """The first box along a path; what a box holds is read once."""
        box = self.box
        for kind in path:
            if box not in self._inner:
                inner = boxes.boxes(self.file, box.start, end=box.end)
                self._inner[box] = list(inner)
            found = (inner for inner in self._inner[box] if inner.kind == kind)
            box = next(found, None)
            if box is None:
                return None
        return box

    def check(self) -> list[str]:
        """Notes on the track; none where it is one of sound, text or the like."""
        kind = self.find(b"mdia", b"hdlr")
        if kind and boxes.content(self.file, kind)[8:12] != b"vide":
            return []
        for names, path in _NEEDED:
            if not any(self.find(*path, last) for last in names):
                missing = names[0].decode()
                raise self.damaged(f"the box {missing!r} of its track is missing")
        sizes = self.sizes()
        counts = {"stts": self.runs(b"stts"), "ctts": self.runs(b"ctts")}
        counts["stsc"] = self.check_places(sizes)
        odd = [f"{n} by {k}" for k, n in counts.items() if n not in (None, len(sizes))]
        if odd:
            return [f"its tables do not agree: {len(sizes)} frames, {', '.join(odd)}"]
        return []

    def rows(self, kind: bytes, width: int, *, at: int = 8) -> Ints | None:
        """A table of rows of big-endian integers of 32 bits, flat."""
        box = self.find(b"mdia", b"minf", b"stbl", kind)
        if box is None:
            return None
        data = boxes.content(self.file, box, most=_MOST)
        count = int.from_bytes(data[at - 4 : at], "big")
        if len(data) < at + 4 * width * count:
            raise self.damaged(f"its table {kind.decode()!r} is cut")
        values = np.frombuffer(data, ">u4", width * count, at)
        return values.astype(np.int64)

    def runs(self, kind: bytes) -> int | None:
        """Number of samples of a table of runs; None without one."""
        rows = self.rows(kind, 2)
        return None if rows is None else int(rows[::2].sum())

    def sizes(self) -> Ints:
        """Bytes of every sample."""
        box = self.find(b"mdia", b"minf", b"stbl", b"stsz")
        if box is None:  # sizes of 4, 8 or 16 bits
            packed = self.find(b"mdia", b"minf", b"stbl", b"stz2")
            assert packed is not None
            data = boxes.content(self.file, packed, most=_MOST)
            count, bits = int.from_bytes(data[8:12], "big"), data[7] if data else 0
            if bits not in (4, 8, 16) or len(data) < 12 + (count * bits + 7) // 8:
                raise self.damaged("its table 'stz2' is cut")
            if bits == 4:
                pairs = np.frombuffer(data, np.uint8, offset=12)
                return np.stack([pairs >> 4, pairs & 15], 1).ravel()[:count].astype(int)
            kind = ">u2" if bits == 16 else np.uint8
            return np.frombuffer(data, kind, count, 12).astype(np.int64)
        head = boxes.content(self.file, box, most=12)
        size, count = (int.from_bytes(head[at : at + 4], "big") for at in (4, 8))
        if size:
            # More than there are bytes is nonsense, and must not be allocated.
            count = min(count, formats.length(self.file))
            return np.full(count, size, np.int64)
        rows = self.rows(b"stsz", 1, at=12)
        assert rows is not None
        return rows

    def check_places(self, sizes: Ints) -> int:
        """Number of samples that chunks hold.

        Raises:
          MediaError: some lie outside of the file.
        """
        offsets = self.rows(b"stco", 1)
        if offsets is None:
            halves = self.rows(b"co64", 2)
            assert halves is not None
            offsets = (halves[::2] << 32) + halves[1::2]
        runs = self.rows(b"stsc", 3)
        assert runs is not None
        first, held = runs[::3] - 1, runs[1::3]
        if not len(offsets) or not len(first):
            return 0
        if first[0] or (np.diff(first) <= 0).any() or first[-1] >= len(offsets):
            raise self.damaged("its table 'stsc' names chunks that are not there")
        repeats = np.diff(np.append(first, len(offsets)))
        held = np.repeat(held, repeats)
        ends = np.minimum(np.cumsum(held), len(sizes))
        total = np.concatenate([[0], np.cumsum(sizes)])
        bytes_ = np.diff(np.concatenate([[0], total[ends]]))
        if (offsets + bytes_ > formats.length(self.file))[bytes_ > 0].any():
            raise self.damaged("frames lie outside of the file")
        return int(held.sum())
