"""Encode frames into files and bytes."""

import io
import json
import os
import tempfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from soraflax.media import common

# No random identifiers: the same frames give the same bytes.
_BITEXACT = {"fflags": "+bitexact"}
_LOSSLESS = {"qp": "0", "preset": "medium"}
_BT709 = 1
WRITABLE = (".gif", ".mkv", ".mp4", ".png")
_LIMITED_RANGE = 1
# Frames per second; viewers slow a gif of shorter delays than two hundredths down.
_SLOWEST, _FASTEST, _FASTEST_GIF = 0.01, 1000.0, 50.0


def encode_lossless(frames: np.ndarray, fps: float) -> bytes:
    """Bytes from which `decode` gives back exactly these frames (H.264 RGB, mkv)."""
    buffer = io.BytesIO()
    _write_mkv(buffer, _checked(frames, fps), fps, "")
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
      MediaError: as in `check_target`, or the disk refuses.
    """
    path, frames = Path(path), _checked(frames, fps)
    check_target(path, frames=len(frames), fps=fps)
    writers = {
        ".mp4": _write_mp4,
        ".mkv": _write_mkv,
        ".gif": _write_gif,
        ".png": _write_png,
    }
    comment = json.dumps(metadata or {}, sort_keys=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".write-", dir=path.parent) as folder:
            part = Path(folder) / path.name
            writers[path.suffix.lower()](part, frames, fps, comment)
            os.replace(part, path)
    except OSError as error:
        raise common.MediaError(f"{path}: {common.cause(error)}") from error


def check_target(path: str | os.PathLike[str], *, frames: int, fps: float) -> None:
    """Refuse a file that `write_video` could not write; ask before long work.

    Raises:
      MediaError: a directory, a path below a file, unknown suffix, several frames to
        a png, or a frame rate that the container does not take.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if path.is_dir():
        raise common.MediaError(f"{path}: is a directory; name a file")
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise common.MediaError(f"{path}: {parent} is a file, not a directory")
    if suffix not in WRITABLE:
        raise common.MediaError(
            f"{path}: cannot write {suffix or 'no suffix'!r}: {', '.join(WRITABLE)}"
        )
    if suffix == ".png" and frames > 1:
        raise common.MediaError(
            f"{path}: a png holds one frame, not {frames}: use .gif"
        )
    moving_gif = suffix == ".gif" and frames > 1
    _check_rate(fps, fastest=_FASTEST_GIF if moving_gif else _FASTEST)


def _write_mp4(path: Path, frames: np.ndarray, fps: float, comment: str) -> None:
    height, width = frames.shape[1:3]
    pad = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    if height % 2 or width % 2:
        frames = np.pad(frames, pad, mode="edge")
    options = {"movflags": "+faststart"} | _BITEXACT
    with common.pyav().open(str(path), "w", format="mp4", options=options) as out:
        out.metadata["comment"] = comment
        options = {"crf": "12", "preset": "medium"}
        _encode(out, frames, fps, codec="libx264", form="yuv420p", options=options)


def _write_mkv(
    path: Path | BinaryIO, frames: np.ndarray, fps: float, comment: str
) -> None:
    target = str(path) if isinstance(path, Path) else path
    with common.pyav().open(target, "w", format="matroska", options=_BITEXACT) as out:
        if comment:
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
    pyav = common.pyav()
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


def _checked(frames: np.ndarray, fps: float) -> np.ndarray:
    frames = np.asarray(frames)
    shape = frames.shape
    if frames.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
        raise ValueError(
            f"frames must be uint8 [T, H, W, 3], not empty; got {frames.dtype} "
            f"{list(shape)}"
        )
    _check_rate(fps, fastest=_FASTEST)
    return np.ascontiguousarray(frames)


def _check_rate(fps: float, *, fastest: float) -> None:
    if not _SLOWEST <= fps <= fastest:
        nearest = _SLOWEST if fps < _SLOWEST else fastest
        raise common.MediaError(
            f"fps={fps}: use {nearest:g}, the nearest from {_SLOWEST:g} to {fastest:g}"
        )
