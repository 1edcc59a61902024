"""Encode frames into files and bytes."""

import io
import itertools
import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from soraflax.media import common, sound

# No random identifiers: the same frames give the same bytes.
_BITEXACT = {"fflags": "+bitexact"}
_LOSSLESS = {"qp": "0", "preset": "medium"}
_BT709 = 1
WRITABLE = (".gif", ".mkv", ".mp4", ".png")
_LIMITED_RANGE = 1
# Frames per second; viewers slow a gif of shorter delays than two hundredths down.
_SLOWEST, _FASTEST, _FASTEST_GIF = 0.01, 1000.0, 50.0
# Of all frames: a gif takes up to a byte for each, and viewers hold it in memory.
MAX_GIF_PIXELS = 2**30


def encode_lossless(frames: np.ndarray, fps: float) -> bytes:
    """Bytes from which `decode` gives back exactly these frames (H.264 RGB, mkv)."""
    buffer = io.BytesIO()
    _write_mkv(buffer, iter(_checked_video(frames, fps)), fps=fps)
    return buffer.getvalue()


def write_video(
    path: str | os.PathLike[str],
    frames: np.ndarray,
    *,
    fps: float,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write frames to a file; it appears whole or not at all.

    The suffix chooses: `.mp4` is H.264 4:2:0 that browsers play, its last column or
    row repeated where a side is odd; `.mkv` is lossless; `.gif` has 256 colours a
    frame; `.png` is one frame. Missing parent directories are made.

    Args:
      path: target file.
      frames: `[T, H, W, 3]` uint8.
      fps: frames per second.
      metadata: JSON values, stored in the file's comment; see `read_metadata`.

    Raises:
      MediaError: as in `check_target`, or the disk refuses.
    """
    frames = _checked_video(frames, fps)
    check_target(path, frames=len(frames), fps=fps, size=frames.shape[1:3])
    write_frames(path, frames, fps=fps, metadata=metadata)


def write_frames(
    path: str | os.PathLike[str],
    frames: Iterable[np.ndarray],
    *,
    fps: float,
    metadata: Mapping[str, Any] | None = None,
    sidecar: str | os.PathLike[str] | None = None,
    sounds: Sequence[sound.PlacedSound] = (),
    finish: Callable[[Path], None] | None = None,
) -> None:
    """Write frames as they come; the file appears whole or not at all.

    Formats and arguments are those of `write_video`, and so are the bytes written;
    frames are drawn one at a time and not held in memory. An exception of the iterable
    is raised here and leaves no file.

    Args:
      path: target file.
      frames: iterable of uint8 `[H, W, 3]`.
      fps: frames per second.
      metadata: as in `write_video`.
      sounds: of other files, heard beside the frames (`media.sound`); of `.mp4` and
        `.mkv` alone, and where `can_hold` says so.
      sidecar: a file in the same directory that gets the metadata too, as JSON; both
        files appear, or neither does.
      finish: changes the file in place before it appears, under a name of the same
        suffix; what it raises leaves no file.

    Raises:
      MediaError: as in `check_target`, or the disk refuses.
      ValueError: no frames, or frames of different sizes.
    """
    path = Path(path)
    check_target(path, frames=1, fps=fps)
    comment = json.dumps(metadata or {}, sort_keys=True)
    source = _validated(path, frames, fps=fps)
    others = () if sidecar is None else (Path(sidecar),)
    with common.atomic_files(path, *others) as (part, *sidecars):
        _write(part, source, fps=fps, comment=comment, sounds=sounds)
        if finish is not None:
            finish(part)
        for other in sidecars:
            text = json.dumps(metadata or {}, indent=2, ensure_ascii=False)
            # Unpaired surrogates, as of file names, become JSON's escapes of them.
            other.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def _write(
    path: Path,
    frames: Iterator[np.ndarray],
    *,
    fps: float,
    comment: str,
    sounds: Sequence[sound.PlacedSound],
) -> None:
    """In the format of its suffix; videos alone hold sounds."""
    suffix = path.suffix.lower()
    about: Any = {"fps": fps, "comment": comment}
    if suffix == ".gif":
        _write_gif(path, frames, **about)
    elif suffix == ".png":
        _write_png(path, frames, **about)
    else:
        write = _write_mp4 if suffix == ".mp4" else _write_mkv
        write(path, frames, sounds=sounds, **about)


def check_target(
    path: str | os.PathLike[str],
    *,
    frames: int,
    fps: float,
    size: tuple[int, int] | None = None,
) -> None:
    """Refuse a file that `write_video` could not write; ask before long work.

    Args:
      path: target file.
      frames: number of frames.
      fps: frames per second.
      size: (height, width) of a frame; None where not known yet.

    Raises:
      MediaError: a directory, a path below a file or where nothing may be written,
        unknown suffix, several frames to a png, too many to a gif, or a frame rate that
        the container does not take.
    """
    path = Path(path)
    common.check_writable(path)
    _check_format(path, frames, fps=fps, size=size)


def _check_format(
    path: Path, frames: int, *, fps: float, size: tuple[int, int] | None
) -> None:
    suffix = path.suffix.lower()
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
    if suffix == ".gif" and size and frames * size[0] * size[1] > MAX_GIF_PIXELS:
        max_frames = MAX_GIF_PIXELS // (size[0] * size[1])
        raise common.MediaError(
            f"{path}: {frames} frames are too many for a gif of this size: use at "
            f"most {max_frames}, or .mp4"
        )


def _validated(
    path: Path, frames: Iterable[np.ndarray], *, fps: float
) -> Iterator[np.ndarray]:
    """The same frames; raises at one too many, or of another type or size."""
    shape = None
    for number, frame in enumerate(frames):
        shape = shape or frame.shape
        if frame.dtype != np.uint8 or frame.shape != shape or shape[2:] != (3,):
            raise ValueError(
                f"frame {number} is {frame.dtype} {list(frame.shape)}: frames must be "
                f"uint8 [H, W, 3], all of one size"
            )
        _check_format(path, number + 1, fps=fps, size=frame.shape[:2])
        yield np.ascontiguousarray(frame)
    if shape is None:
        raise ValueError("no frames to write: at least one is needed")


def _even(frame: np.ndarray) -> np.ndarray:
    """The last row or column repeated where a side is odd."""
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        pad = ((0, height % 2), (0, width % 2), (0, 0))
        return np.pad(frame, pad, mode="edge")
    return frame


def _write_mp4(
    path: Path,
    frames: Iterator[np.ndarray],
    *,
    fps: float,
    comment: str,
    sounds: Sequence[sound.PlacedSound] = (),
) -> None:
    options = {"movflags": "+faststart"} | _BITEXACT
    with common.pyav().open(str(path), "w", format="mp4", options=options) as out:
        out.metadata["comment"] = comment
        # With B-frames, x264's trees of macroblocks read memory that nobody wrote: the
        # same small frames gave other bytes in one of forty encodings. Without trees,
        # what stands still would flicker.
        options = {"crf": "12", "preset": "medium", "bf": "0"}
        even = map(_even, frames)
        _encode(
            out,
            even,
            fps=fps,
            codec="libx264",
            pixel_format="yuv420p",
            options=options,
            sounds=sounds,
        )


def _write_mkv(
    path: Path | io.BufferedIOBase,
    frames: Iterator[np.ndarray],
    *,
    fps: float,
    comment: str = "",
    sounds: Sequence[sound.PlacedSound] = (),
) -> None:
    target = str(path) if isinstance(path, Path) else path
    with common.pyav().open(target, "w", format="matroska", options=_BITEXACT) as out:
        if comment:
            out.metadata["comment"] = comment
        _encode(
            out,
            frames,
            fps=fps,
            codec="libx264rgb",
            pixel_format="rgb24",
            options=_LOSSLESS,
            sounds=sounds,
        )


def _encode(
    out: Any,
    frames: Iterator[np.ndarray],
    *,
    fps: float,
    codec: str,
    pixel_format: str,
    options: dict[str, str],
    sounds: Sequence[sound.PlacedSound],
) -> None:
    """Encode RGB frames into an open container, on one thread, sound beside them."""
    pyav = common.pyav()
    first = next(frames)
    stream = out.add_stream(
        codec, rate=Fraction(fps).limit_denominator(1001), options=options
    )
    stream.height, stream.width = first.shape[:2]
    stream.pix_fmt = pixel_format
    context = stream.codec_context
    context.thread_count = 1
    if pixel_format == "yuv420p":
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE
    with sound.SoundWriter(out, sounds) as heard:
        for index, pixels in enumerate(itertools.chain((first,), frames)):
            frame = pyav.VideoFrame.from_ndarray(pixels, format="rgb24")
            if pixel_format == "yuv420p":
                frame = frame.reformat(
                    format=pixel_format,
                    dst_colorspace=_BT709,
                    interpolation=common.scaling("AREA"),
                    threads=1,
                )
            frame.pts, frame.time_base = index, 1 / stream.codec_context.framerate
            out.mux(stream.encode(frame))
            heard.write_until(index / fps)
        heard.write_until(np.inf)
        out.mux(stream.encode(None))


def _write_gif(
    path: Path, frames: Iterator[np.ndarray], *, fps: float, comment: str
) -> None:
    """Frame by frame, each with a palette of its own.

    Pillow makes one long frame of frames that are equal; here each is one, though of a
    single pixel, so that as many come back as were written.
    """
    from PIL import GifImagePlugin, Image, ImageChops

    before, end = None, 0
    with open(path, "wb") as out:
        for number, pixels in enumerate(frames, start=1):
            image = Image.fromarray(pixels).quantize(256, dither=Image.Dither.NONE)
            shown, box = image.convert("RGB"), (0, 0, *image.size)
            if before is None:
                out.write(_gif_header(image.size, comment))
            else:
                box = ImageChops.difference(shown, before).getbbox() or (0, 0, 1, 1)
            # A gif counts hundredths of a second: round the times, not each gap.
            start, end = end, round(number * 100 / fps)
            out.writelines(
                GifImagePlugin.getdata(
                    image.crop(box),
                    box[:2],
                    duration=max(2, end - start) * 10,
                    disposal=1,
                    include_color_table=True,
                )
            )
            before = shown
        out.write(b";")


def _gif_header(size: tuple[int, int], comment: str) -> bytes:
    """GIF89a: size, no palette for all frames, endless repetition, a comment."""
    header = b"GIF89a" + struct.pack("<HHBBB", *size, 0, 0, 0)
    header += b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00!\xfe"
    text = comment.encode()
    for start in range(0, len(text), 255):
        block = text[start : start + 255]
        header += bytes([len(block)]) + block
    return header + b"\x00"


def _write_png(
    path: Path, frames: Iterator[np.ndarray], *, fps: float, comment: str
) -> None:
    del fps
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_text("comment", comment)
    for frame in frames:
        Image.fromarray(frame).save(path, pnginfo=info)


def _checked_video(frames: np.ndarray, fps: float) -> np.ndarray:
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
