"""Decode video files and bytes; see the package's docstring for equation (1).

FFmpeg returns what it could decode from a damaged file without complaint, so a full
read is held against the container: the frame count in its header, its packets, and the
duration it declares where there is no count.
"""

import contextlib
import dataclasses
import io
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from soraflax.media import common

_DEMUXERS = "mov,matroska,avi,gif,png_pipe,jpeg_pipe"


@dataclasses.dataclass(frozen=True)
class _Stream:
    """A video stream and everything known of it before decoding."""

    name: str
    container: Any
    stream: Any
    packets: Sequence[Any]
    times: np.ndarray
    fps: float
    order: np.ndarray | None

    @property
    def size(self) -> tuple[int, int]:
        context = self.stream.codec_context
        return context.width, context.height


def read_video(
    path: str | os.PathLike[str],
    *,
    max_frames: int | None = None,
    size: tuple[int, int] | None = None,
    max_pixels: int = common.MAX_PIXELS,
) -> common.Video:
    """Decode a video or image file; arguments and errors as in `decode`."""
    data = read_bytes(path)
    return decode(
        data, name=str(path), max_frames=max_frames, size=size, max_pixels=max_pixels
    )


def decode(
    data: bytes,
    *,
    name: str = "video bytes",
    start: int = 0,
    max_frames: int | None = None,
    step: int = 1,
    size: tuple[int, int] | None = None,
    max_pixels: int = common.MAX_PIXELS,
) -> common.Video:
    """Decode the bytes of a video or image file.

    Args:
      data: a whole file: mp4, webm, mkv, avi, gif, png or jpg.
      name: what errors call it.
      start: first frame wanted.
      max_frames: at most this many frames; the rest is neither decoded nor checked.
      step: every step-th frame; `fps` is divided by it.
      size: (width, height) to resize to while decoding, area-averaged.
      max_pixels: refuse frames of more pixels than this.

    Raises:
      MediaError: unreadable, truncated, or no frames at `start` and after.
    """
    if start < 0 or step < 1 or (max_frames is not None and max_frames < 1):
        raise ValueError(
            f"start={start}, step={step}, max_frames={max_frames}: start must be at "
            "least 0, the others at least 1"
        )
    stop = None if max_frames is None else start + step * max_frames
    with _stream(io.BytesIO(data), name, max_pixels) as stream:
        kept = _select(stream, slice(start, stop, step), size)
        if not kept:
            raise common.MediaError(f"{name}: no frames from frame {start} on")
        return common.Video(np.stack(kept), stream.fps / step)


def probe(
    source: str | os.PathLike[str] | bytes,
    *,
    name: str | None = None,
    max_pixels: int = common.MAX_PIXELS,
) -> common.Probe:
    """Decode every frame of a file or of its bytes, keeping only the facts.

    Raises:
      MediaError: as `read_video` would.
    """
    name = name or ("video bytes" if isinstance(source, bytes) else str(source))
    with _opened(source) as file, _stream(file, name, max_pixels) as stream:
        count = turns = 0
        for frame in _frames(stream):
            count += 1
            turns = _quarter_turns(frame)
        width, height = stream.size
        if turns % 2:
            width, height = height, width
        return common.Probe(
            frames=count if stream.order is None else len(stream.order),
            height=height,
            width=width,
            fps=stream.fps,
            container=stream.container.format.name,
            codec=stream.stream.codec_context.name,
        )


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """A file's bytes.

    Raises:
      MediaError: the file is missing or cannot be read.
    """
    with _opened(path) as file:
        return file.read()


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `write_video` was given as metadata; empty where there is none."""
    with _opened(path) as file, _stream(file, str(path), common.MAX_PIXELS) as stream:
        tags = dict(stream.stream.metadata) | dict(stream.container.metadata)
        if not tags.get("comment") and not tags.get("COMMENT"):
            tags |= dict(next(_frames(stream)).metadata)
    try:
        found = json.loads(tags.get("comment") or tags.get("COMMENT") or "{}")
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def _opened(source: str | os.PathLike[str] | bytes) -> Iterator[BinaryIO]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    try:
        file = open(source, "rb")  # noqa: SIM115
    except OSError as error:
        raise common.MediaError(
            f"{os.fspath(source)}: {common.cause(error)}"
        ) from error
    with file:
        yield file


@contextlib.contextmanager
def _stream(file: BinaryIO, name: str, max_pixels: int) -> Iterator[_Stream]:
    """Open, check the size, and read the packets of the first video stream."""
    pyav = common.pyav()
    try:
        container = pyav.open(file, options={"format_whitelist": _DEMUXERS})
    except (pyav.FFmpegError, ValueError) as error:
        file.seek(0)
        cause = "not a video or image" if file.read(1) else "empty file"
        raise common.MediaError(f"{name}: {cause}") from error
    with container:
        if not container.streams.video:
            raise common.MediaError(f"{name}: no video stream in it")
        stream = container.streams.video[0]
        context = stream.codec_context
        if context is None:
            raise common.MediaError(f"{name}: its video codec is not supported")
        if context.width * context.height > max_pixels:
            raise common.MediaError(
                f"{name}: {context.width} x {context.height} frames are more than "
                f"max_pixels={max_pixels}"
            )
        # Threads inside a data worker deadlock, and clips are short.
        context.thread_type, context.thread_count = "NONE", 1
        context.options = {"max_pixels": str(max_pixels)}
        _check_gif_end(file, container, name)
        try:
            packets = [p for p in container.demux(stream) if p.size]
        except pyav.FFmpegError as error:
            raise common.MediaError(f"{name}: {common.cause(error)}") from error
        times, last = _times(packets, stream)
        fps, order = _timeline(times, last, _declared_rate(container, stream))
        yield _Stream(name, container, stream, packets, times, fps, order)


def _check_gif_end(file: BinaryIO, container: Any, name: str) -> None:
    """A gif declares neither frames nor duration; its last byte is all there is."""
    if container.format.name != "gif":
        return
    at = file.tell()
    file.seek(-min(64, file.seek(0, os.SEEK_END)), os.SEEK_END)
    ended = file.read().rstrip(b"\0\r\n").endswith(b";")
    file.seek(at)
    if not ended:
        raise common.MediaError(f"{name}: truncated (no end marker)")


def _times(packets: Sequence[Any], stream: Any) -> tuple[np.ndarray, float]:
    """When frames are shown, sorted, and how long the last one is (0: not known)."""
    base = float(stream.time_base or 1)
    shown: dict[float, float] = {}
    for packet in packets:
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is not None and not packet.is_discard:
            shown[stamp * base] = (packet.duration or 0) * base
    times = sorted(shown)
    return np.asarray(times, np.float64), shown[times[-1]] if times else 0.0


def _declared_rate(container: Any, stream: Any) -> float | None:
    if container.format.name.endswith("_pipe"):
        return None
    rate = stream.guessed_rate or stream.average_rate
    return float(rate) if rate else None


def _timeline(
    times: np.ndarray, last: float, declared: float | None
) -> tuple[float, np.ndarray | None]:
    """Frame rate, and equation (1) as indices of frames where they are uneven."""
    if len(times) < 2:
        return declared or 1.0, None
    gaps = np.diff(times)
    gap = float(np.median(gaps))
    last = max(last, gap)
    even = max(gaps.max(), last) <= 1.5 * gap + 1e-3
    measured = (len(times) - 1) / float(times[-1] - times[0])
    if even:
        close = declared and abs(declared / measured - 1) < 0.02
        return (declared if close else measured) or measured, None
    if declared and abs(declared * gap - 1) < 0.05:
        gap = 1 / declared
    fps = min(1 / gap, 4 * measured, 120.0)
    count = max(1, round((times[-1] - times[0] + last) * fps))
    wanted = times[0] + np.arange(count) / fps
    return fps, np.searchsorted(times, wanted + 0.25 / fps, side="right") - 1


def _frames(stream: _Stream) -> Iterator[Any]:
    """Every frame in presentation order, then the checks of a full read.

    Raises:
      MediaError: a frame cannot be decoded, is damaged, or is missing.
    """
    pyav = common.pyav()
    name, count, size = stream.name, 0, None
    try:
        for packet in (*stream.packets, None):
            for frame in stream.stream.codec_context.decode(packet):
                if frame.is_corrupt:
                    raise common.MediaError(f"{name}: frame {count} is damaged")
                size = size or (frame.width, frame.height)
                if size != (frame.width, frame.height):
                    raise common.MediaError(
                        f"{name}: frame {count} is {frame.width} x {frame.height}, "
                        f"the first is {size[0]} x {size[1]}"
                    )
                count += 1
                yield frame
    except pyav.FFmpegError as error:
        where = f"after frame {count}" if count else "at the first frame"
        raise common.MediaError(f"{name}: {common.cause(error)} {where}") from error
    _check_whole(stream, count)


def _check_whole(stream: _Stream, count: int) -> None:
    if not count:
        raise common.MediaError(f"{stream.name}: no frames in it")
    skipped = sum(p.is_discard for p in stream.packets)
    held = max(stream.stream.frames, len(stream.packets)) - skipped
    # VP8 stores hidden reference frames as packets of their own.
    if stream.stream.codec_context.name in ("vp8", "libvpx"):
        held = stream.stream.frames
    if count < held:
        raise common.MediaError(
            f"{stream.name}: holds {held} frames but {count} decode; "
            "truncated or damaged"
        )
    declared = _declared_seconds(stream)
    if declared is None or len(stream.times) < 2:
        return
    gap = float(np.diff(stream.times).max())
    covered = float(stream.times[-1] - stream.times[0]) + gap
    # Headers of whole files are off by as much as a frame.
    if covered + 1.5 * gap < declared:
        raise common.MediaError(
            f"{stream.name}: declares {declared:.2f} s but its frames end at "
            f"{covered:.2f} s; truncated"
        )


def _declared_seconds(stream: _Stream) -> float | None:
    """Duration of the video stream by a matroska header; others count frames."""
    container = stream.container
    if "matroska" not in container.format.name:
        return None
    tag = stream.stream.metadata.get("DURATION", "")
    parts = tag.split(":")
    if len(parts) == 3:
        with contextlib.suppress(ValueError):
            hours, minutes, seconds = (float(p) for p in parts)
            return 3600 * hours + 60 * minutes + seconds
    if len(container.streams) > 1 or not container.duration:
        return None
    return container.duration / 1e6


def _select(
    stream: _Stream, wanted: slice, size: tuple[int, int] | None
) -> list[np.ndarray]:
    """The frames of a slice; decoding stops after the last of them."""
    counts = None
    if stream.order is not None:
        counts = np.bincount(stream.order[wanted], minlength=1)
    stop = wanted.stop if counts is None else len(counts)
    if counts is not None and stop == len(stream.times):
        stop = None
    kept: list[np.ndarray] = []
    for index, frame in enumerate(_frames(stream)):
        if stop is not None and index >= stop:
            break
        if counts is not None:
            repeats = int(counts[index]) if index < len(counts) else 0
        else:
            since = index - wanted.start
            repeats = int(since >= 0 and since % wanted.step == 0)
        if repeats:
            kept.extend([_to_rgb(frame, size)] * repeats)
    return kept


def _quarter_turns(frame: Any) -> int:
    """How often the picture turns anticlockwise before it is shown."""
    return round(frame.rotation / 90) % 4


def _to_rgb(frame: Any, size: tuple[int, int] | None) -> np.ndarray:
    """`[H, W, 3]` uint8, upright; transparency is shown over white."""
    turns = _quarter_turns(frame)
    width, height = size or (None, None)
    if turns % 2:
        width, height = height, width
    alpha = any(c.is_alpha for c in frame.format.components)
    pixels = frame.to_ndarray(
        format="rgba" if alpha else "rgb24",
        width=width,
        height=height,
        interpolation="AREA" if size else None,
        threads=1,
    )
    if alpha:
        pixels = _over_white(pixels)
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _over_white(rgba: np.ndarray) -> np.ndarray:
    rgb, alpha = rgba[..., :3], rgba[..., 3:].astype(np.uint16)
    if alpha.min() == 255:
        return np.ascontiguousarray(rgb)
    return ((rgb * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
