"""Decode video files and bytes; see the package's docstring for equation (1).

FFmpeg returns what it could decode from a damaged file without complaint, so a full
read is held against the container: the frame count in its header, its packets, and the
duration it declares where there is no count.

The packets of a file are scanned before any is decoded, since (1) needs their times. A
clip's are kept for decoding; `open_frames` drops them and reads the file twice, so that
its memory does not grow with the duration.
"""

import contextlib
import dataclasses
import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from soraflax.media import common, timeline, video

_DEMUXERS = "mov,matroska,avi,gif,png_pipe,jpeg_pipe"


@dataclasses.dataclass(frozen=True)
class _Stream:
    """A video stream, its packets yet to be decoded, and the scan of them."""

    name: str
    container: Any
    stream: Any
    packets: Iterable[Any]
    scan: timeline.Scan

    @property
    def size(self) -> tuple[int, int]:
        context = self.stream.codec_context
        return context.width, context.height

    @property
    def promised(self) -> int:
        """Frames that the header and the packets promise, before equation (1)."""
        return max(self.stream.frames, self.scan.packets) - self.scan.hidden


def read_video(
    path: str | os.PathLike[str],
    *,
    max_frames: int | None = None,
    size: tuple[int, int] | None = None,
    max_pixels: int = common.MAX_PIXELS,
) -> video.Video:
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
) -> video.Video:
    """Decode the bytes of a video or image file.

    Args:
      data: bytes of a whole file: mp4, webm, mkv, avi, gif, png or jpg.
      name: name of the file in errors.
      start: index of the first frame.
      max_frames: limit of frames; the rest is neither decoded nor checked.
      step: stride in frames; `fps` is divided by it.
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
    with _stream(io.BytesIO(data), name, max_pixels=max_pixels) as stream:
        frames = list(_select(stream, slice(start, stop, step), size=size))
        if not frames:
            raise common.MediaError(f"{name}: no frames from frame {start} on")
        return video.Video(np.stack(frames), stream.scan.fps / step)


@contextlib.contextmanager
def open_frames(
    path: str | os.PathLike[str], *, max_pixels: int = common.MAX_PIXELS
) -> Iterator[common.FrameStream]:
    """A video or image file whose frames are decoded one at a time.

        with open_frames("long.mp4") as stream:
            for frame in stream: ...                       # [H, W, 3] uint8

    The frames are those of `read_video`; memory does not grow with their number. What
    the header and the packets tell of a damaged file is refused at once, the rest when
    its frame is due; the last frame is followed by the checks of a full read.

    Raises:
      MediaError: unreadable, truncated, or frames of more than `max_pixels`, of a
        side of one pixel, or of one longer than `common.MAX_SIDE`.
    """
    name = os.fspath(path)
    with (
        _opened(path) as file,
        _stream(file, name, max_pixels=max_pixels, keep=False) as stream,
    ):
        width, height = stream.size
        common.check_sides(name, height, width=width)
        _check_whole(stream, stream.scan.packets - stream.scan.hidden)
        order = stream.scan.order
        frames = stream.promised if order is None else len(order)
        pixels = _exactly(_select(stream, slice(0, None, 1)), frames, name=name)
        first = next(pixels)
        height, width = first.shape[:2]
        common.check_sides(name, height, width=width)
        yield common.FrameStream(
            name=name,
            frames=frames,
            height=height,
            width=width,
            fps=stream.scan.fps,
            pixels=itertools.chain((first,), pixels),
        )


def probe(
    source: str | os.PathLike[str] | bytes,
    *,
    name: str | None = None,
    max_pixels: int = common.MAX_PIXELS,
) -> common.VideoInfo:
    """Decode every frame of a file or of its bytes; returns the facts alone.

    Raises:
      MediaError: as `read_video` would.
    """
    name = name or ("video bytes" if isinstance(source, bytes) else str(source))
    with (
        _opened(source) as file,
        _stream(file, name, max_pixels=max_pixels, keep=False) as stream,
    ):
        count = turns = 0
        for frame in _frames(stream):
            count += 1
            turns = _quarter_turns(frame)
        width, height = stream.size
        if turns % 2:
            width, height = height, width
        return common.VideoInfo(
            frames=count if stream.scan.order is None else len(stream.scan.order),
            height=height,
            width=width,
            fps=stream.scan.fps,
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
    """The metadata that `write_video` was given; empty where there is none."""
    with (
        _opened(path) as file,
        _stream(file, str(path), max_pixels=common.MAX_PIXELS, keep=False) as stream,
    ):
        tags = dict(stream.stream.metadata) | dict(stream.container.metadata)
        if not tags.get("comment") and not tags.get("COMMENT"):
            tags |= dict(next(_frames(stream)).metadata)
    try:
        metadata = json.loads(tags.get("comment") or tags.get("COMMENT") or "{}")
    except json.JSONDecodeError:
        return {}
    return metadata if isinstance(metadata, dict) else {}


@contextlib.contextmanager
def _opened(source: str | os.PathLike[str] | bytes) -> Iterator[io.BufferedIOBase]:
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
def _stream(
    file: io.BufferedIOBase, name: str, *, max_pixels: int, keep: bool = True
) -> Iterator[_Stream]:
    """The first video stream, scanned; its packets stay in memory if `keep`.

    Otherwise the file is opened a second time, and packets are read while decoding.
    """
    with _container(file, name, max_pixels=max_pixels) as (container, stream):
        packets = _packets(container, stream, name=name)
        if keep:
            packets = list(packets)
        scan = timeline.scan(packets, container, stream=stream)
        if keep:
            yield _Stream(name, container, stream, packets, scan)
            return
    file.seek(0)
    with _container(file, name, max_pixels=max_pixels) as (container, stream):
        packets = _packets(container, stream, name=name)
        yield _Stream(name, container, stream, packets, scan)


@contextlib.contextmanager
def _container(
    file: io.BufferedIOBase, name: str, *, max_pixels: int
) -> Iterator[tuple[Any, Any]]:
    """Open a file, find its first video stream, and check its size."""
    pyav = common.pyav()
    try:
        container = pyav.open(file, options={"format_whitelist": _DEMUXERS})
    except (pyav.FFmpegError, ValueError, OSError) as error:
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
        common.check_pixels(
            name, context.height, width=context.width, max_pixels=max_pixels
        )
        # Threads inside a data worker deadlock, and clips are short.
        context.thread_type, context.thread_count = "NONE", 1
        context.options = {"max_pixels": str(max_pixels)}
        _check_gif_end(file, container, name=name)
        yield container, stream


def _packets(container: Any, stream: Any, *, name: str) -> Iterator[Any]:
    try:
        yield from (packet for packet in container.demux(stream) if packet.size)
    except common.pyav().FFmpegError as error:
        raise common.MediaError(f"{name}: {common.cause(error)}") from error


def _check_gif_end(file: io.BufferedIOBase, container: Any, *, name: str) -> None:
    """Refuse a truncated gif: it declares no count, only a last byte marks its end."""
    if container.format.name != "gif":
        return
    position = file.tell()
    file.seek(-min(64, file.seek(0, os.SEEK_END)), os.SEEK_END)
    ended = file.read().rstrip(b"\0\r\n").endswith(b";")
    file.seek(position)
    if not ended:
        raise common.MediaError(f"{name}: truncated (no end marker)")


def _frames(stream: _Stream) -> Iterator[Any]:
    """Every frame in presentation order, then the checks of a full read.

    Raises:
      MediaError: a frame cannot be decoded, is damaged, or is missing.
    """
    pyav = common.pyav()
    name, count, size = stream.name, 0, None
    try:
        for packet in itertools.chain(stream.packets, (None,)):
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
    if count < stream.promised:
        raise common.MediaError(
            f"{stream.name}: holds {stream.promised} frames but {count} decode; "
            "truncated or damaged"
        )
    declared, times = _declared_seconds(stream), stream.scan.times
    if declared is None or len(times) < 2:
        return
    # The last frame's own duration is not known; the longest gap stands for it.
    gap = float(np.diff(times).max())
    covered = float(times[-1] - times[0]) + gap
    # Headers of whole files are off by as much as a frame.
    if covered + 1.5 * gap < declared:
        raise common.MediaError(
            f"{stream.name}: declares {declared:.2f} s but its frames end at "
            f"{covered:.2f} s; truncated"
        )


def _declared_seconds(stream: _Stream) -> float | None:
    """Duration of the video stream by a matroska header; other headers count frames."""
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
    stream: _Stream, selection: slice, *, size: tuple[int, int] | None = None
) -> Iterator[np.ndarray]:
    """The frames of a slice; decoding stops after the last of them.

    The slice is of output frames. Where frames are uneven in time, `counts[i]` says how
    often decoded frame i is among them: 0, once, or several times if it stands still.
    """
    counts, order = None, stream.scan.order
    if order is not None:
        counts = np.bincount(order[selection], minlength=1)
    stop = selection.stop if counts is None else len(counts)
    # To the end of the file: `_frames` is exhausted, so that its last checks are made.
    if counts is not None and stop == len(stream.scan.times):
        stop = None
    for index, frame in enumerate(_frames(stream)):
        if stop is not None and index >= stop:
            break
        if counts is not None:
            repeats = int(counts[index]) if index < len(counts) else 0
        else:
            offset = index - selection.start
            repeats = int(offset >= 0 and offset % selection.step == 0)
        if repeats:
            yield from itertools.repeat(_to_rgb(frame, size), repeats)


def _exactly(pixels: Iterator[np.ndarray], count: int, *, name: str) -> Iterator[Any]:
    """The same frames; raises unless there are `count`, all of one size."""
    decoded, shape = 0, None
    for frame in pixels:
        shape = shape or frame.shape
        if frame.shape != shape or decoded == count:
            change = "turns its picture" if decoded < count else "holds more"
            raise common.MediaError(f"{name}: {change} at frame {decoded} of {count}")
        decoded += 1
        yield frame
    if decoded < count:
        raise common.MediaError(f"{name}: {decoded} of {count} frames decode; damaged")


def _quarter_turns(frame: Any) -> int:
    """Quarter turns anticlockwise before the picture is shown, 0 to 3."""
    return round(frame.rotation / 90) % 4


def _to_rgb(frame: Any, size: tuple[int, int] | None) -> UInt8[np.ndarray, "H W 3"]:
    """RGB, upright; transparency is shown over white."""
    turns = _quarter_turns(frame)
    width, height = size or (None, None)
    if (
        turns % 2
    ):  # the size is that of the turned picture, scaling comes before turning
        width, height = height, width
    # A palette's colours have alpha, though its one component, the index, has not.
    layout = frame.format
    alpha = layout.name == "pal8" or any(c.is_alpha for c in layout.components)
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


def _over_white(rgba: UInt8[np.ndarray, "H W 4"]) -> UInt8[np.ndarray, "H W 3"]:
    rgb, alpha = rgba[..., :3], rgba[..., 3:].astype(np.uint16)
    if alpha.min() == 255:
        return np.ascontiguousarray(rgb)
    # 127 more than the sum rounds the quotient to the nearest level.
    return ((rgb * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
