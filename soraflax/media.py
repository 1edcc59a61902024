"""Video files and bytes to frames and back (PyAV; the `media` extra).

Frames are uint8 RGB, `[T, H, W, 3]`; an image is a video of one frame. Whatever cannot
be read raises `MediaError`, one line that names the file and the cause.

FFmpeg returns what it could decode from a damaged file without complaint, so a full
read is held against the container: the frame count in its header, or the packets and
the duration it declares where there is no count.

A file whose frames are unevenly spaced in time is read at a constant rate: output
frame k is the last one shown at time

    t_k = t_0 + k / fps,   fps = 1 / median gap,                                  (1)

so that motion keeps its speed.
"""

import contextlib
import dataclasses
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

try:
    import av
except ImportError:  # pragma: no cover
    av = None

MAX_PIXELS = 2**26
SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".gif", ".png", ".jpg", ".jpeg")
_DEMUXERS = "mov,matroska,avi,gif,png_pipe,jpeg_pipe"
_LOSSLESS = {"qp": "0", "preset": "medium"}
_BT709 = 1
_LIMITED_RANGE = 1


class MediaError(ValueError):
    """A file that cannot be read or written; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Video:
    """Decoded frames.

    Attributes:
      frames: `[T, H, W, 3]` uint8 RGB.
      fps: frames per second; 1.0 for a still image.
    """

    frames: np.ndarray
    fps: float


@dataclasses.dataclass(frozen=True)
class Probe:
    """What a full decode of a file found; sizes are in pixels, as displayed."""

    frames: int
    height: int
    width: int
    fps: float
    container: str
    codec: str


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
    start: int = 0,
    max_frames: int | None = None,
    step: int = 1,
    size: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Video:
    """Decode a video or image file; arguments as in `decode`.

    Raises:
      MediaError: missing, unreadable, truncated, or without frames.
    """
    with _opened(path) as file:
        return _decode(
            file,
            str(path),
            start=start,
            max_frames=max_frames,
            step=step,
            size=size,
            max_pixels=max_pixels,
        )


def decode(
    data: bytes,
    *,
    name: str = "video bytes",
    start: int = 0,
    max_frames: int | None = None,
    step: int = 1,
    size: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Video:
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
    return _decode(
        io.BytesIO(data),
        name,
        start=start,
        max_frames=max_frames,
        step=step,
        size=size,
        max_pixels=max_pixels,
    )


def probe(
    source: str | os.PathLike[str] | bytes,
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Probe:
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
        return Probe(
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
    with _opened(path) as file, _stream(file, str(path), MAX_PIXELS) as stream:
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
        cause = (error.strerror or "cannot be opened").lower()
        raise MediaError(f"{os.fspath(source)}: {cause}") from error
    with file:
        yield file


@contextlib.contextmanager
def _stream(file: BinaryIO, name: str, max_pixels: int) -> Iterator[_Stream]:
    """Open, check the size, and read the packets of the first video stream."""
    pyav = _pyav()
    try:
        container = pyav.open(file, options={"format_whitelist": _DEMUXERS})
    except (pyav.FFmpegError, ValueError) as error:
        file.seek(0)
        cause = "not a video or image" if file.read(1) else "empty file"
        raise MediaError(f"{name}: {cause}") from error
    with container:
        if not container.streams.video:
            raise MediaError(f"{name}: no video stream in it")
        stream = container.streams.video[0]
        context = stream.codec_context
        if context is None:
            raise MediaError(f"{name}: its video codec is not supported")
        if context.width * context.height > max_pixels:
            raise MediaError(
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
            raise MediaError(f"{name}: {_cause(error)}") from error
        times = _times(packets, stream)
        fps, order = _timeline(times, _declared_rate(container, stream))
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
        raise MediaError(f"{name}: truncated (no end marker)")


def _times(packets: Sequence[Any], stream: Any) -> np.ndarray:
    """Presentation times of the shown frames, in seconds, sorted."""
    stamps = [p.dts if p.pts is None else p.pts for p in packets if not _is_discard(p)]
    known = [s for s in stamps if s is not None]
    base = float(stream.time_base or 1)
    return np.unique(np.asarray(known, np.float64) * base)


def _is_discard(packet: Any) -> bool:
    return bool(packet.is_discard)


def _declared_rate(container: Any, stream: Any) -> float | None:
    if container.format.name.endswith("_pipe"):
        return None
    rate = stream.guessed_rate or stream.average_rate
    return float(rate) if rate else None


def _timeline(
    times: np.ndarray, declared: float | None
) -> tuple[float, np.ndarray | None]:
    """Frame rate, and equation (1) as indices of frames where they are uneven."""
    if len(times) < 2:
        return declared or 1.0, None
    gaps = np.diff(times)
    gap = float(np.median(gaps))
    even = gaps.max() <= 1.5 * gap + 1e-3
    measured = (len(times) - 1) / float(times[-1] - times[0])
    if even:
        close = declared and abs(declared / measured - 1) < 0.02
        return (declared if close else measured) or measured, None
    if declared and abs(declared * gap - 1) < 0.05:
        gap = 1 / declared
    fps = min(1 / gap, 4 * measured, 120.0)
    count = int(round((times[-1] - times[0]) * fps)) + 1
    wanted = times[0] + np.arange(count) / fps
    return fps, np.searchsorted(times, wanted + 0.25 / fps, side="right") - 1


def _frames(stream: _Stream) -> Iterator[Any]:
    """Every frame in presentation order, then the checks of a full read.

    Raises:
      MediaError: a frame cannot be decoded, is damaged, or is missing.
    """
    pyav = _pyav()
    name, count, size = stream.name, 0, None
    try:
        for packet in (*stream.packets, None):
            for frame in stream.stream.codec_context.decode(packet):
                if frame.is_corrupt:
                    raise MediaError(f"{name}: frame {count} is damaged")
                size = size or (frame.width, frame.height)
                if size != (frame.width, frame.height):
                    raise MediaError(
                        f"{name}: frame {count} is {frame.width} x {frame.height}, "
                        f"the first is {size[0]} x {size[1]}"
                    )
                count += 1
                yield frame
    except pyav.FFmpegError as error:
        where = f"after frame {count}" if count else "at the first frame"
        raise MediaError(f"{name}: {_cause(error)} {where}") from error
    _check_whole(stream, count)


def _check_whole(stream: _Stream, count: int) -> None:
    if not count:
        raise MediaError(f"{stream.name}: no frames in it")
    skipped = sum(_is_discard(p) for p in stream.packets)
    held = max(stream.stream.frames, len(stream.packets)) - skipped
    # VP8 stores hidden reference frames as packets of their own.
    if stream.stream.codec_context.name in ("vp8", "libvpx"):
        held = stream.stream.frames
    if count < held:
        raise MediaError(
            f"{stream.name}: holds {held} frames but {count} decode; "
            "truncated or damaged"
        )
    declared = _declared_seconds(stream)
    if declared is None or len(stream.times) < 2:
        return
    gap = float(np.diff(stream.times).max())
    covered = float(stream.times[-1] - stream.times[0]) + gap
    if covered + 1.5 * gap < declared:
        raise MediaError(
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


def _decode(
    file: BinaryIO,
    name: str,
    *,
    start: int,
    max_frames: int | None,
    step: int,
    size: tuple[int, int] | None,
    max_pixels: int,
) -> Video:
    if start < 0 or step < 1 or (max_frames is not None and max_frames < 1):
        raise ValueError(
            f"start={start}, step={step}, max_frames={max_frames}: start must be at "
            "least 0, the others at least 1"
        )
    with _stream(file, name, max_pixels) as stream:
        stop = None if max_frames is None else start + step * max_frames
        kept: list[np.ndarray] = []
        if stream.order is None:
            for index, frame in enumerate(_frames(stream)):
                if stop is not None and index >= stop:
                    break
                if index >= start and (index - start) % step == 0:
                    kept.append(_to_rgb(frame, size))
        else:
            kept = _resampled(stream, stream.order[start:stop:step], size)
        if not kept:
            raise MediaError(f"{name}: no frames from frame {start} on")
        return Video(np.stack(kept), stream.fps / step)


def _resampled(
    stream: _Stream, order: np.ndarray, size: tuple[int, int] | None
) -> list[np.ndarray]:
    """The frames that `order` names, in its order (it never decreases)."""
    kept: list[np.ndarray] = []
    repeats = np.bincount(order, minlength=1)
    for index, frame in enumerate(_frames(stream)):
        if index < len(repeats) and repeats[index]:
            kept.extend([_to_rgb(frame, size)] * int(repeats[index]))
        if index >= len(repeats) and len(repeats) < len(stream.times):
            break
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


def encode_lossless(frames: np.ndarray, fps: float) -> bytes:
    """Bytes from which `decode` gives back exactly these frames (H.264 RGB, mkv)."""
    frames = _checked(frames)
    buffer = io.BytesIO()
    with _pyav().open(buffer, "w", format="matroska", options=_bitexact()) as out:
        _encode(out, frames, fps, codec="libx264rgb", form="rgb24", options=_LOSSLESS)
    return buffer.getvalue()


def write_video(
    path: str | os.PathLike[str],
    frames: np.ndarray,
    fps: float,
    *,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write frames to a file; it appears whole or not at all.

    The suffix chooses: `.mp4` is H.264 4:2:0 that browsers play, its last column or
    row repeated where a side is odd; `.mkv` is lossless; `.gif` has 256 colours a
    frame; `.png` is one frame. Missing parent directories are made.

    Args:
      path: where to.
      frames: `[T, H, W, 3]` uint8.
      fps: frames per second.
      metadata: JSON values, stored in the file's comment; see `read_metadata`.

    Raises:
      MediaError: unknown suffix, several frames to a png, or the disk refuses.
    """
    path, frames = Path(path), _checked(frames)
    writers = {
        ".mp4": _write_mp4,
        ".mkv": _write_mkv,
        ".gif": _write_gif,
        ".png": _write_png,
    }
    if path.suffix.lower() not in writers:
        known = ", ".join(sorted(writers))
        raise MediaError(
            f"{path}: cannot write {path.suffix or 'no suffix'!r}: {known}"
        )
    if path.suffix.lower() == ".png" and len(frames) > 1:
        raise MediaError(f"{path}: a png holds one frame, not {len(frames)}: use .gif")
    comment = json.dumps(metadata or {}, sort_keys=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".write-", dir=path.parent) as folder:
            part = Path(folder) / path.name
            writers[path.suffix.lower()](part, frames, fps, comment)
            os.replace(part, path)
    except OSError as error:
        raise MediaError(f"{path}: {error.strerror or error}") from error


def _write_mp4(path: Path, frames: np.ndarray, fps: float, comment: str) -> None:
    height, width = frames.shape[1:3]
    pad = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    if height % 2 or width % 2:
        frames = np.pad(frames, pad, mode="edge")
    options = {"movflags": "+faststart"} | _bitexact()
    with _pyav().open(str(path), "w", format="mp4", options=options) as out:
        out.metadata["comment"] = comment
        options = {"crf": "16", "preset": "medium"}
        _encode(out, frames, fps, codec="libx264", form="yuv420p", options=options)


def _write_mkv(path: Path, frames: np.ndarray, fps: float, comment: str) -> None:
    with _pyav().open(str(path), "w", format="matroska", options=_bitexact()) as out:
        out.metadata["comment"] = comment
        _encode(out, frames, fps, codec="libx264rgb", form="rgb24", options=_LOSSLESS)


def _encode(
    out: Any,
    frames: np.ndarray,
    fps: float,
    *,
    codec: str,
    form: str,
    options: dict[str, str],
) -> None:
    """Encode RGB frames into an open container, on one thread."""
    pyav = _pyav()
    stream = out.add_stream(
        codec, rate=Fraction(fps).limit_denominator(1001), options=options
    )
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = form
    context = stream.codec_context
    context.thread_count = 1
    if form == "yuv420p":
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE
    for index, pixels in enumerate(frames):
        frame = pyav.VideoFrame.from_ndarray(pixels, format="rgb24")
        if form == "yuv420p":
            frame = frame.reformat(format=form, dst_colorspace=_BT709, threads=1)
        frame.pts, frame.time_base = index, 1 / stream.codec_context.framerate
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def _write_gif(path: Path, frames: np.ndarray, fps: float, comment: str) -> None:
    from PIL import Image

    images = [
        Image.fromarray(f).quantize(256, dither=Image.Dither.NONE) for f in frames
    ]
    # A gif counts hundredths of a second: round the times, not each gap.
    ends = np.round(np.arange(len(images) + 1) * 100 / fps).astype(int)
    images[0].save(
        path,
        save_all=True,
        append_images=images[1:],
        duration=[max(2, int(d)) * 10 for d in np.diff(ends)],
        loop=0,
        comment=comment.encode(),
        disposal=1,
    )


def _write_png(path: Path, frames: np.ndarray, fps: float, comment: str) -> None:
    del fps
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_text("comment", comment)
    Image.fromarray(frames[0]).save(path, pnginfo=info)


def _bitexact() -> dict[str, str]:
    """No random identifiers: the same frames give the same bytes."""
    return {"fflags": "+bitexact"}


def _checked(frames: np.ndarray) -> np.ndarray:
    frames = np.asarray(frames)
    shape = frames.shape
    if frames.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
        raise ValueError(
            f"frames must be uint8 [T, H, W, 3], not empty; got {frames.dtype} "
            f"{list(shape)}"
        )
    return np.ascontiguousarray(frames)


def _cause(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return str(text).lower()


def _pyav() -> Any:
    if av is None:
        raise ImportError("video files need PyAV: pip install 'soraflax[media]'")
    return av
