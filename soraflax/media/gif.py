"""The blocks of a GIF (GIF89a specification), walked up to its end marker.

Decoders look for the next block that they know wherever they meet damage, and an image
whose data seem longer than they are swallows those behind it.
"""

import dataclasses
from typing import Any

from soraflax.media import common, formats

_IMAGE, _EXTENSION, _END = 0x2C, 0x21, 0x3B
_CONTROL = 0xF9  # the extension that says how long an image is shown
_NEXT = b"\0!\xf9\4"  # the end of an image, and the control of the one after it
_SLACK = 8  # bytes that writers may leave behind the last code


@dataclasses.dataclass(frozen=True)
class Structure:
    """What a walk through a file found.

    Attributes:
      images: number of them.
      notes: what is no part of it, a line each.
    """

    images: int
    notes: tuple[str, ...]


def walk(file: Any, name: str) -> Structure:
    """Walk through a file that begins as a GIF.

    Raises:
      MediaError: there is no end marker, or an image that swallowed others.
    """
    reader = _Window(file)
    images = foreign = width = pixels = 0
    at = 13 + _colours(reader[10])
    while at < reader.length and reader[at] != _END:
        kind = reader[at]
        if kind == _IMAGE:
            images += 1
            pixels = reader.number(at + 5) * reader.number(at + 7)
            at += 10 + _colours(reader[at + 9])
            width, at = min(11, reader[at]), at + 1
        elif kind == _EXTENSION:
            at += 2
        else:  # between blocks; zeros are of writers that close a block twice
            foreign += bool(kind)
            at += 1
            continue
        start, (at, sizes, suspect) = at, _blocks(reader, at)
        if kind == _EXTENSION and reader[start - 1] == _CONTROL and sizes != [4]:
            raise common.MediaError(
                f"{name}: damaged: a control of {sum(sizes)} bytes at byte {start}"
            )
        if kind == _IMAGE and (suspect or _is_odd(sizes)):
            end = _end_of_codes(reader, start, width=width, pixels=pixels)
            if end < at - 1 - _SLACK:
                raise common.MediaError(
                    f"{name}: damaged: image {images} ends before its data do, at "
                    f"byte {start}"
                )
    if at >= reader.length:
        raise common.MediaError(f"{name}: truncated (no end marker)")
    notes = []
    if foreign:
        notes.append(f"{foreign} bytes between its images are left out")
    if reader.length - at - 1:
        notes.append(f"{reader.length - at - 1} bytes after its end are left out")
    return Structure(images, tuple(notes))


def _blocks(reader: "_Window", at: int) -> tuple[int, list[int], bool]:
    """Where a chain of blocks ends, their sizes, and whether one holds a control."""
    sizes, suspect = [], False
    while size := reader[at]:
        sizes.append(size)
        suspect = suspect or _NEXT in reader.piece(at + 1, size)
        at += 1 + size
    return at + 1, sizes, suspect


def _is_odd(sizes: list[int]) -> bool:
    """Whether writers make no blocks of such sizes: all but the last are alike.

    Single blocks are looked into too, which costs little.
    """
    if len(sizes) < 2:
        return True
    return len(set(sizes[:-1])) > 1 or sizes[-1] > sizes[0]


def _end_of_codes(reader: "_Window", at: int, *, width: int, pixels: int) -> int:
    """Where the byte is with which an image ends: by its code, or its last pixel.

    Codes are of `width` + 1 bits at first, and of one more, up to 12, as soon as the
    table is full. It grows with every code, by the string of the code before and one
    pixel; here a string is its length.
    """
    clear = 1 << width
    fresh = [1] * clear + [0, 0]
    lengths, before = list(fresh), 0
    bits = buffer = shown = 0
    size = width + 1
    while reader[at]:
        block = range(at + 1, at + 1 + reader[at])
        at = block.stop
        for place in block:
            buffer |= reader[place] << bits
            bits += 8
            while bits >= size:
                code = buffer & ((1 << size) - 1)
                buffer, bits = buffer >> size, bits - size
                if code == clear:
                    lengths, before, size = list(fresh), 0, width + 1
                    continue
                if before and len(lengths) < 1 << 12:
                    lengths.append(before + 1)
                if code == clear + 1 or code >= len(lengths):
                    return place
                before = lengths[code]
                shown += before
                if shown >= pixels:
                    return place
                if len(lengths) == 1 << size and size < 12:
                    size += 1
    return at - 1


class _Window:
    """Bytes of a file by their position, a piece of it at a time; 0 past its end."""

    def __init__(self, file: Any, *, size: int = 2**20) -> None:
        self.file, self.size = file, size
        self.length = formats.length(file)
        self.start, self.data = 0, b""

    def __getitem__(self, at: int) -> int:
        if not self.start <= at < self.start + len(self.data):
            self.file.seek(at)
            self.start, self.data = at, self.file.read(self.size)
        return self.data[at - self.start] if self.data else 0

    def number(self, at: int) -> int:
        """Of two bytes."""
        return self[at] | self[at + 1] << 8

    def piece(self, at: int, count: int) -> bytes:
        """So many bytes, or fewer where they are not at hand."""
        start = at - self.start
        return self.data[start : start + count] if start >= 0 else b""


def _colours(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
