"""What a container says of how much it holds, for the checks of a full read.

| container | evidence |
|---|---|
| mp4, mov | whole boxes; tables that agree; samples that its edit list leaves |
| avi | frames in its header, less chunks without bytes, which hold the frame before |
| mkv, webm | whole elements; when its stream ends, by mkvmerge how long it is |
| gif | whole images up to its end marker |
"""

import contextlib
import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool

from soraflax.media import boxes, formats, gif, matroska, tables, timeline


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What the bytes of a file say, beside what FFmpeg makes of them.

    Attributes:
      kind: of the container.
      empty: number of chunks of an avi's video that hold no bytes.
      trailing: number of those after the last one that holds some.
      images: number of frames of a gif.
      open_ended: nothing tells where the file ends, as in what is recorded live.
      notes: what of the file is no part of it, a line each.
    """

    kind: str
    empty: int = 0
    trailing: int = 0
    images: int = 0
    open_ended: bool = False
    notes: tuple[str, ...] = ()

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
            declared = declared if self.images > 1 else None
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
        open_ended = b"moof" in kinds and not ends
        notes = tuple(tables.check(file, name))
        return Evidence(kind, open_ended=open_ended, notes=notes)
    if kind == "matroska":
        walked = matroska.walk(file, name)
        return Evidence(kind, open_ended=walked.open_ended, notes=walked.notes)
    if kind == "avi":
        empty = _avi_empty_chunks(file)
        used = np.flatnonzero(~empty)
        trailing = len(empty) - 1 - int(used[-1]) if len(used) else 0
        return Evidence(kind, int(empty.sum()), trailing)
    if kind == "gif":
        blocks = gif.walk(file, name)
        return Evidence(kind, images=blocks.images, notes=blocks.notes)
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
