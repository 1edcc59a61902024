"""heic and avif: a picture that is stored as items (ISO/IEC 23008-12).

FFmpeg gives every item as a stream of its own: the tiles of a grid, its alpha, depth
maps, thumbnails. What they make together stands in the file's `meta` box: the primary
item, how tiles lie in it, and how it is cut, turned and mirrored, in that order.
"""

import contextlib
import dataclasses
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from soraflax.media import (
    boxes,
    common,
    formats,
    movies,
    orientation,
    pixels,
    source,
    stills,
)

_CODED = (b"hvc1", b"av01", b"avc1", b"jpeg")
_MOST_TILES = 2**12
_ALPHA = (
    b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha",
    b"urn:mpeg:hevc:2015:auxid:1",
)


@dataclasses.dataclass(frozen=True)
class Items:
    """What a `meta` box says.

    Attributes:
      primary: the item that is the picture.
      kinds: of each item, four letters.
      places: of the bytes of each item in the file.
      references: (kind, from, to) of items.
      properties: of each item, in their order.
    """

    primary: int
    kinds: dict[int, bytes]
    places: dict[int, tuple[int, int]]
    references: list[tuple[bytes, int, list[int]]]
    properties: dict[int, list[tuple[bytes, bytes]]]

    def property(self, item: int, kind: bytes) -> bytes | None:
        """The first property of a kind that an item has."""
        return next((d for k, d in self.properties.get(item, []) if k == kind), None)

    def referred(self, item: int, kind: bytes) -> list[int]:
        """Items that an item refers to."""
        found = [to for k, of, to in self.references if (k, of) == (kind, item)]
        return [one for to in found for one in to]

    def alpha(self, item: int) -> int | None:
        """The item that holds the alpha of an item."""
        for kind, of, to in self.references:
            if kind == b"auxl" and item in to:
                use = self.property(of, b"auxC") or b""
                if use[4:].rstrip(b"\0").startswith(_ALPHA):
                    return of
        return None


@contextlib.contextmanager
def open_heif(file: Any, *, name: str, max_pixels: int) -> Iterator[source.Source]:
    """The primary picture of a file, with its alpha over white.

    Raises:
      MediaError: unreadable, larger than `max_pixels`, or made in a way that is not
        known.
    """
    try:
        items = read_items(file)
    except (ValueError, IndexError, struct.error) as error:
        raise common.MediaError(f"{name}: damaged: its items make no sense") from error
    kind = items.kinds.get(items.primary, b"")
    if kind not in (*_CODED, b"grid"):
        what = kind.decode("latin-1").strip() or "nothing"
        raise common.MediaError(
            f"{name}: its picture is {what!r}: one item or a grid of them is read; "
            "save it as .png or .jpg"
        )
    with movies.opened(file, movies.DEMUXERS["mov"], name=name) as container:
        streams = {stream.id: stream for stream in container.streams.video}
        decoded = _Items(name, file, items, container, streams, max_pixels)
        width, height = decoded.size(items.primary)
        common.check_pixels(name, height, width=width, max_pixels=max_pixels)
        notes: list[str] = []
        first = next(iter(streams.values()), None)
        yield source.Source(
            name=name,
            container=container.format.name,
            codec=first.codec_context.name if first and first.codec_context else "?",
            size=(width, height),
            stored=1,
            fps=1.0,
            order=None,
            pictures=_pictures(decoded, notes),
            metadata=dict(container.metadata),
            notes=notes,
        )


def read_items(file: Any) -> Items:
    """Parse the first `meta` box.

    Raises:
      ValueError: there is none, or it is damaged; IndexError and struct.error too.
    """
    meta = boxes.first(file, (b"meta",))
    if meta is None:
        raise ValueError("no meta box")
    inner = {b.kind: b for b in boxes.boxes(file, meta.start + 4, end=meta.end)}
    found = {kind: _Bytes(boxes.content(file, box)) for kind, box in inner.items()}
    primary = found.get(b"pitm")
    if primary is None or b"iinf" not in found:
        raise ValueError("no primary item")
    version = primary.take(4) >> 24
    start = inner[b"idat"].start if b"idat" in inner else 0
    return Items(
        primary.take(4 if version else 2),
        _kinds(file, inner[b"iinf"]),
        _places(found[b"iloc"], start) if b"iloc" in found else {},
        _references(file, inner.get(b"iref")),
        _properties(file, inner.get(b"iprp")),
    )


class _Bytes:
    """Numbers of bytes, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> int:
        """A number of so many bytes; 0 bytes are 0."""
        part = self.data[self.at : self.at + count]
        if len(part) < count:
            raise ValueError("ends within a number")
        self.at += count
        return int.from_bytes(part, "big")


def _kinds(file: Any, box: boxes.Box) -> dict[int, bytes]:
    version = boxes.content(file, box, most=1)
    start = box.start + (6 if version == b"\0" else 8)
    kinds = {}
    for entry in boxes.boxes(file, start, end=box.end):
        data = _Bytes(boxes.content(file, entry))
        version = data.take(4) >> 24
        if version >= 2:
            item = data.take(2 if version == 2 else 4)
            kinds[item] = data.data[data.at + 2 : data.at + 6]
    return kinds


def _places(data: _Bytes, start_of_data: int) -> dict[int, tuple[int, int]]:
    """Position and length of items that lie in one piece."""
    version, sizes = data.take(4) >> 24, data.take(2)
    offset, length, base, index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    places = {}
    for _ in range(data.take(2 if version < 2 else 4)):
        item = data.take(2 if version < 2 else 4)
        method = data.take(2) & 15 if version in (1, 2) else 0
        data.take(2)
        begin = data.take(base) + (start_of_data if method == 1 else 0)
        extents = []
        for _ in range(data.take(2)):
            data.take(index if version in (1, 2) else 0)
            extents.append((begin + data.take(offset), data.take(length)))
        if len(extents) == 1 and method < 2:
            places[item] = extents[0]
    return places


def _references(file: Any, box: boxes.Box | None) -> list[tuple[bytes, int, list[int]]]:
    if box is None:
        return []
    wide = 4 if boxes.content(file, box, most=1) != b"\0" else 2
    found = []
    for one in boxes.boxes(file, box.start + 4, end=box.end):
        data = _Bytes(boxes.content(file, one))
        item = data.take(wide)
        to = [data.take(wide) for _ in range(data.take(2))]
        found.append((one.kind, item, to))
    return found


def _properties(
    file: Any, box: boxes.Box | None
) -> dict[int, list[tuple[bytes, bytes]]]:
    if box is None:
        return {}
    known: list[tuple[bytes, bytes]] = []
    properties: dict[int, list[tuple[bytes, bytes]]] = {}
    for part in boxes.boxes(file, box.start, end=box.end):
        if part.kind == b"ipco":
            known = [
                (b.kind, boxes.content(file, b))
                for b in boxes.boxes(file, part.start, end=part.end)
            ]
        elif part.kind == b"ipma":
            data = _Bytes(boxes.content(file, part))
            flags = data.take(4)
            for _ in range(data.take(4)):
                item = data.take(2 if flags >> 24 < 1 else 4)
                wide = 2 if flags & 1 else 1
                for _ in range(data.take(1)):
                    index = data.take(wide) & (0x7FFF if wide == 2 else 0x7F)
                    if 1 <= index <= len(known):
                        properties.setdefault(item, []).append(known[index - 1])
    return properties


@dataclasses.dataclass(frozen=True)
class _Items:
    """Items of an open file that can be decoded."""

    name: str
    file: Any
    items: Items
    container: Any
    streams: dict[int, Any]
    max_pixels: int

    def size(self, item: int) -> source.Size:
        """Width and height as stored."""
        data = self.items.property(item, b"ispe") or b""
        if len(data) < 12:
            raise common.MediaError(f"{self.name}: damaged: a picture without a size")
        width, height = struct.unpack(">II", data[4:12])
        return width, height

    def rgba(self, item: int) -> UInt8[np.ndarray, "H W 4"]:
        """An item or a grid of them, not turned; opaque but for the alpha of a format.

        Raises:
          MediaError: it cannot be decoded, or tiles are missing.
        """
        if self.items.kinds.get(item) != b"grid":
            return self._decode(item)
        rows, columns, width, height = self._grid(item)
        tiles = self.items.referred(item, b"dimg")
        if len(tiles) != rows * columns or len(tiles) > _MOST_TILES:
            raise common.MediaError(
                f"{self.name}: damaged: {len(tiles)} tiles for {rows} x {columns}"
            )
        common.check_pixels(self.name, height, width=width, max_pixels=self.max_pixels)
        whole = np.zeros((height, width, 4), np.uint8)
        top = 0
        for row in range(rows):
            left = deep = 0
            for tile in tiles[row * columns : (row + 1) * columns]:
                part = self._decode(tile)
                room = whole[top : top + part.shape[0], left : left + part.shape[1]]
                room[:] = part[: room.shape[0], : room.shape[1]]
                left, deep = left + part.shape[1], part.shape[0]
            if left < width:
                raise common.MediaError(f"{self.name}: damaged: its tiles leave a gap")
            top += deep
        if top < height:
            raise common.MediaError(f"{self.name}: damaged: its tiles leave a gap")
        return whole

    def _grid(self, item: int) -> tuple[int, int, int, int]:
        data = _Bytes(self._bytes(item)[:64])
        try:
            data.take(1)
            wide = 4 if data.take(1) & 1 else 2
            rows, columns = data.take(1) + 1, data.take(1) + 1
            return rows, columns, data.take(wide), data.take(wide)
        except ValueError as error:
            raise common.MediaError(
                f"{self.name}: damaged: a grid of nothing"
            ) from error

    def _decode(self, item: int) -> UInt8[np.ndarray, "H W 4"]:
        pyav, stream = common.pyav(), self.streams.get(item)
        context = stream.codec_context if stream is not None else None
        if stream is None or context is None:
            kind = self.items.kinds.get(item, b"?").decode("latin-1")
            raise common.MediaError(
                f"{self.name}: its pictures are {kind!r}, which is not read: save it "
                "as .png or .jpg"
            )
        common.check_pixels(
            self.name, context.height, width=context.width, max_pixels=self.max_pixels
        )
        movies.limit_decoder(context, max_pixels=self.max_pixels)
        data = self._bytes(item)
        try:
            frames = context.decode(pyav.Packet(data)) + context.decode(None)
        except pyav.FFmpegError as error:
            raise common.MediaError(f"{self.name}: {common.cause(error)}") from error
        if len(frames) != 1 or frames[0].is_corrupt:
            raise common.MediaError(f"{self.name}: truncated or damaged picture")
        with pixels.conversion(self.name):
            return pixels.to_rgba(frames[0])

    def _bytes(self, item: int) -> bytes:
        position, length = self.items.places.get(item, (0, 0))
        if not length or position + length > formats.length(self.file):
            raise common.MediaError(f"{self.name}: truncated: an item has no bytes")
        self.file.seek(position)
        return self.file.read(length)


def _pictures(decoded: _Items, notes: list[str]) -> Iterator[source.Picture]:
    items, primary = decoded.items, decoded.items.primary
    rgba = decoded.rgba(primary)
    if rgba.shape[1::-1] != decoded.size(primary):
        raise common.MediaError(f"{decoded.name}: damaged: its size is another one")
    alpha = items.alpha(primary)
    if alpha is not None:
        plane = decoded.rgba(alpha)
        if plane.shape != rgba.shape:
            raise common.MediaError(f"{decoded.name}: its alpha is of another size")
        rgba[..., 3] = plane[..., 0]
    profile = _profile(items, primary)
    if profile is not None:
        rgba[..., :3] = stills.to_srgb(np.ascontiguousarray(rgba[..., :3]), profile)
        notes.append("colours by its profile")
    if items.kinds[primary] == b"grid":
        tiles = len(items.referred(primary, b"dimg"))
        notes.append(f"composed of {tiles} tiles")
    picture = pixels.over_white(_shown(rgba, items.properties.get(primary, [])))

    def convert(size: source.Size | None) -> Any:
        return picture if size is None else pixels.resized(picture, size)

    yield source.Picture((picture.shape[1], picture.shape[0]), convert)


def _shown(
    pixels_: UInt8[np.ndarray, "H W 4"], properties: list[tuple[bytes, bytes]]
) -> UInt8[np.ndarray, "h w 4"]:
    """Cut, turned and mirrored, in the order of the properties."""
    for kind, data in properties:
        if kind == b"clap":
            geometry = pixels.Geometry(aperture=boxes.clean_aperture(data))
            left, top, width, height = geometry.box(pixels_.shape[1::-1])
            pixels_ = pixels_[top : top + height, left : left + width]
        elif kind == b"irot" and data:
            pixels_ = np.rot90(pixels_, data[0] & 3)
        elif kind == b"imir" and data:
            mirror = orientation.Orientation(
                right_to_left=bool(data[0] & 1), upside_down=not data[0] & 1
            )
            pixels_ = mirror.apply(pixels_)
    return np.ascontiguousarray(pixels_)


def _profile(items: Items, item: int) -> bytes | None:
    for kind, data in items.properties.get(item, []):
        if kind == b"colr" and data[:4] in (b"prof", b"rICC"):
            return data[4:]
    return None
