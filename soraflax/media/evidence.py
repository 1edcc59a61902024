"""What a container says of how much it holds, for the checks of a full read.

| container | evidence |
|---|---|
| mp4, mov | boxes that are whole; samples that its edit list leaves |
| avi | frames in its header, less chunks without bytes, which hold the frame before |
| mkv, webm | bytes of its segment; when its stream ends, by mkvmerge how long it is |
| gif | frames up to its last byte |
"""

import contextlib
import dataclasses
import os
from typing import Any

import numpy as np
from jaxtyping import Bool

from soraflax.media import boxes, common, formats, timeline


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What the bytes of a file say, beside what FFmpeg makes of them.

    Attributes:
      kind: of the container.
      empty: number of chunks of an avi's video that hold no bytes.
      trailing: number of those after the last one that holds some.
      images: number of frames of a gif.
      open_ended: nothing tells where the file ends, as in what is recorded live.
    """

    kind: str
    empty: int = 0
    trailing: int = 0
    images: int = 0
    open_ended: bool = False

    def counted(self, stream: Any) -> int:
        """Number of packets that the video stream has to have, at least."""
        if self.kind == "mov":
            return len(stream.index_entries)
        if self.kind == "avi":
            return max(0, stream.frames - self.empty)
        return self.images or stream.frames

    def clock(self, stream: Any) -> timeline.Clock:
        """How the container counts time."""
        if self.kind == "avi" and stream.time_base:
            rate = float(1 / stream.time_base)
            return timeline.Clock(rate, steady=True, held=self.trailing)
        rate = stream.guessed_rate or stream.average_rate
        declared = float(rate) if rate else None
        if self.kind == "gif":
            return timeline.Clock(declared, shortest=0.015, default=0.1)
        return timeline.Clock(declared)


@dataclasses.dataclass(frozen=True)
class End:
    """Seconds at which a stream ends, or how long it is (`from_first`)."""

    seconds: float
    from_first: bool


def collect(file: Any, kind: str, *, name: str) -> Evidence:
    """Read the bookkeeping of a file, and refuse one that it shows to be cut.

    Raises:
      MediaError: truncated.
    """
    if kind == "mov":
        boxes.check_whole(file, name)
        kinds = {box.kind for box in boxes.boxes(file)}
        extends = boxes.first(file, (b"moov", b"mvex", b"mehd")) is not None
        ends = kinds & {b"mfra", b"sidx"} or extends
        return Evidence(kind, open_ended=b"moof" in kinds and not ends)
    if kind == "matroska":
        return Evidence(kind, open_ended=_check_segment(file, name))
    if kind == "avi":
        empty = _avi_empty_chunks(file)
        used = np.flatnonzero(~empty)
        trailing = len(empty) - 1 - int(used[-1]) if len(used) else 0
        return Evidence(kind, int(empty.sum()), trailing)
    if kind == "gif":
        return Evidence(kind, images=_gif_images(file, name))
    return Evidence(kind)


def declared_end(container: Any, stream: Any) -> End | None:
    """By a matroska header; other containers count frames."""
    if "matroska" not in container.format.name:
        return None
    # Muxers of FFmpeg write when a stream ends, mkvmerge writes how long it is.
    from_first = any("_STATISTICS" in key for key in stream.metadata)
    parts = stream.metadata.get("DURATION", "").split(":")
    if len(parts) == 3:
        with contextlib.suppress(ValueError):
            hours, minutes, seconds = (float(p) for p in parts)
            return End(3600 * hours + 60 * minutes + seconds, from_first)
    if len(container.streams) > 1 or not container.duration:
        return None
    return End(container.duration / 1e6, from_first=False)


def _check_segment(file: Any, name: str) -> bool:
    """Refuse a matroska file that ends before its segment does (RFC 8794, 9559).

    Returns:
      Whether it does not say where its segment ends.

    Raises:
      MediaError: with how much is missing.
    """
    file.seek(4)
    header = _variable_size(file)
    if header is None or header > formats.length(file):
        return False
    file.seek(header, os.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":
        return False
    size = _variable_size(file)
    missing = file.tell() + (size or 0) - formats.length(file)
    if missing > 0:
        raise common.MediaError(
            f"{name}: truncated: {missing} bytes are missing at its end"
        )
    return size is None


def _variable_size(file: Any) -> int | None:
    """Size of an element; None where it is not known, as in what is live."""
    first = (file.read(1) or b"\0")[0]
    width = 9 - first.bit_length() if first else 0
    data = file.read(width - 1) if width else b""
    if not width or len(data) < width - 1:
        return None
    value = int.from_bytes(bytes([first & (0xFF >> width)]) + data, "big")
    return None if value == (1 << 7 * width) - 1 else value


def _avi_empty_chunks(file: Any) -> Bool[np.ndarray, "chunks"]:
    """Which chunks of the first video stream are empty, by the old index."""
    none = np.zeros(0, bool)
    length, at = formats.length(file), 12
    for _ in range(64):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return none
        size = int.from_bytes(head[4:], "little")
        if head[:4] == b"idx1":
            data = file.read(min(size, length))
            entries = np.frombuffer(data[: len(data) // 16 * 16], np.uint8)
            entries = entries.reshape(-1, 16)
            # A chunk is named by two digits of its stream, then dc or db for video.
            names = np.ascontiguousarray(entries[:, :4]).view("S4")[:, 0]
            video = sorted(n for n in set(names.tolist()) if n[2:] in (b"dc", b"db"))
            if not video:
                return none
            stream = video[0][:2]
            own = entries[np.isin(names, [stream + b"dc", stream + b"db"])]
            return (own[:, 12:] == 0).all(axis=1)
        at += 8 + size + size % 2
    return none


def _gif_images(file: Any, name: str) -> int:
    """Number of images up to the end marker; what follows it is left out.

    Raises:
      MediaError: there is no end marker.
    """
    reader = _Window(file)
    images, at = 0, 13 + _colours(reader[10])
    while at < reader.length:
        block = reader[at]
        if block == 0x3B:
            return images
        if block == 0x2C:
            images += 1
            at += 10 + _colours(reader[at + 9]) + 1
        elif block == 0x21:
            at += 2
        else:  # between blocks; decoders look for the next one
            at += 1
            continue
        while reader[at]:
            at += 1 + reader[at]
        at += 1
    raise common.MediaError(f"{name}: truncated (no end marker)")


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


def _colours(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
