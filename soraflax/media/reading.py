"""Decode video files and bytes; see the package's docstring for equation (1).

What reads a file follows from its first bytes: `stills` for png, jpg and webp, `heif`
for heic and avif, `movies` for the rest. Each gives a `source.Source`, whose pictures
come one at a time and end in an error unless the file was whole.
"""

import contextlib
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from soraflax.media import (
    boxes,
    common,
    formats,
    heif,
    movies,
    pixels,
    source,
    stills,
    video,
)


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
    size: source.Size | source.Fit | None = None,
    max_pixels: int = common.MAX_PIXELS,
) -> video.Video:
    """Decode the bytes of a video or image file.

    Args:
      data: bytes of a whole file, of a kind of `formats.READ`.
      name: name of the file in errors.
      start: index of the first frame.
      max_frames: limit of frames; the rest is neither decoded nor checked.
      step: stride in frames; `fps` is divided by it.
      size: (width, height) to resize to while decoding, area-averaged, or a `Fit`.
      max_pixels: refuse frames of more pixels than this.

    Raises:
      MediaError: unreadable, truncated, no frames at `start` and after, or frames that
        are not those of a `Fit`.
    """
    if start < 0 or step < 1 or (max_frames is not None and max_frames < 1):
        raise ValueError(
            f"start={start}, step={step}, max_frames={max_frames}: start must be at "
            "least 0, the others at least 1"
        )
    stop = None if max_frames is None else start + step * max_frames
    rules: Any = {"max_pixels": max_pixels, "keep": True, "partly": stop is not None}
    with _source(io.BytesIO(data), name, **rules) as found:
        selection = slice(start, stop, step)
        if isinstance(size, source.Fit):
            frames = _fitted(found, selection, size=size, most=max_frames)
        else:
            frames = _stacked(_select(found, selection, size=size), name=name)
        if not len(frames):
            raise common.MediaError(f"{name}: no frames from frame {start} on")
        return video.Video(frames, found.fps / step, notes=tuple(found.notes))


@contextlib.contextmanager
def open_frames(
    path: str | os.PathLike[str],
    *,
    max_pixels: int = common.MAX_PIXELS,
    measure: bool = False,
) -> Iterator[common.FrameStream]:
    """A video or image file whose frames are decoded one at a time.

        with open_frames("long.mp4") as stream:
            for frame in stream: ...                       # [H, W, 3] uint8

    The frames are those of `read_video`; memory does not grow with their number. What
    the header and the packets tell of a damaged file is refused at once, the rest when
    its frame is due; the last frame is followed by the checks of a full read. With
    `measure` the stream has the frames' displacements at its end.

    Raises:
      MediaError: unreadable, truncated, or frames of more than `max_pixels`, of a
        side of one pixel, or of one longer than `common.MAX_SIDE`.
    """
    name = os.fspath(path)
    with (
        _opened(path) as file,
        _source(file, name, max_pixels=max_pixels, measure=measure) as found,
    ):
        width, height = found.size
        common.check_sides(name, height, width=width)
        displacements: list[float] = []
        pixels = _exactly(_select(found, slice(0, None, 1)), found.frames, name=name)
        pixels = _measured(pixels, found, displacements=displacements)
        first = next(pixels)
        height, width = first.shape[:2]
        common.check_sides(name, height, width=width)
        yield common.FrameStream(
            name=name,
            frames=found.frames,
            height=height,
            width=width,
            fps=found.fps,
            pixels=itertools.chain((first,), pixels),
            notes=found.notes,
            displacements=displacements,
        )


def probe(
    path_or_bytes: str | os.PathLike[str] | bytes,
    *,
    name: str | None = None,
    max_pixels: int = common.MAX_PIXELS,
    progress: Callable[[], None] = lambda: None,
) -> common.VideoInfo:
    """Decode every frame of a file or of its bytes; returns the facts alone.

    `progress` is called after each frame.

    Raises:
      MediaError: as `read_video` would.
    """
    name = name or (
        "video bytes" if isinstance(path_or_bytes, bytes) else str(path_or_bytes)
    )
    with (
        _opened(path_or_bytes) as file,
        _source(file, name, max_pixels=max_pixels) as found,
    ):
        sizes = set()
        count = 0
        for count, picture in enumerate(found.pictures, start=1):
            sizes.add(picture.size)
            if count == 1:  # frames of one file are of one kind
                picture.convert(None)
            progress()
        if len(sizes) != 1:
            raise common.MediaError(f"{name}: turns its picture: cut it there")
        width, height = sizes.pop()
        return common.VideoInfo(
            frames=count if found.order is None else len(found.order),
            height=height,
            width=width,
            fps=found.fps,
            container=found.container,
            codec=found.codec,
            notes=tuple(found.notes),
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
        _source(file, str(path), max_pixels=common.MAX_PIXELS) as found,
    ):
        tags = found.metadata
        if not tags.get("comment") and not tags.get("COMMENT"):
            next(iter(found.pictures), None)  # a frame of a gif has some
    try:
        metadata = json.loads(tags.get("comment") or tags.get("COMMENT") or "{}")
    except json.JSONDecodeError:
        return {}
    return metadata if isinstance(metadata, dict) else {}


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str] | bytes) -> Iterator[io.BufferedIOBase]:
    if isinstance(path, bytes):
        yield io.BytesIO(path)
        return
    with common.open_regular(path) as file:
        yield file


@contextlib.contextmanager
def _source(
    file: io.BufferedIOBase,
    name: str,
    *,
    max_pixels: int,
    keep: bool = False,
    partly: bool = False,
    measure: bool = False,
) -> Iterator[source.Source]:
    """An open file; `keep`, `partly` and `measure` as in `movies.open_movie`."""
    common.pyav()
    kind = formats.kind(file, name)
    if kind in stills.KINDS:
        yield stills.open_still(file, kind, name=name, max_pixels=max_pixels)
        return
    if kind == "heif" and boxes.first(file, (b"moov",)) is None:
        with heif.open_heif(file, name=name, max_pixels=max_pixels) as found:
            yield found
        return
    kind = "mov" if kind == "heif" else kind
    rules: Any = {"name": name, "max_pixels": max_pixels}
    rules |= {"keep": keep, "partly": partly, "measure": measure}
    with movies.open_movie(file, kind, **rules) as found:
        yield found


def _select(
    found: source.Source, selection: slice, *, size: source.Size | None = None
) -> Iterator[np.ndarray]:
    """The frames of a slice, converted."""
    for picture, repeats in _selected(found, selection):
        yield from itertools.repeat(picture.convert(size), repeats)


def _selected(
    found: source.Source, selection: slice
) -> Iterator[tuple[source.Picture, int]]:
    """The pictures of a slice, and how often each; decoding stops after the last.

    The slice is of output frames. Where frames are uneven in time, `counts[i]` says how
    often decoded frame i is among them: 0, once, or several times if it stands still.
    """
    counts, order = None, found.order
    if order is not None:
        counts = np.bincount(order[selection], minlength=1)
    stop = selection.stop if counts is None else len(counts)
    # To the end of the file: the pictures are exhausted, so that it is checked whole.
    if order is not None and stop == int(order.max()) + 1:
        stop = None
    for index, picture in enumerate(found.pictures):
        if stop is not None and index >= stop:
            break
        if counts is not None:
            repeats = int(counts[index]) if index < len(counts) else 0
        else:
            offset = index - selection.start
            repeats = int(offset >= 0 and offset % selection.step == 0)
        if repeats:
            yield picture, repeats


def _stacked(frames: Iterator[np.ndarray], *, name: str) -> np.ndarray:
    """Frames of one size as an array; an empty one of none."""
    kept = list(frames)
    if any(frame.shape != kept[0].shape for frame in kept):
        raise common.MediaError(f"{name}: turns its picture: cut it there")
    return np.stack(kept) if kept else np.empty((0, 0, 0, 3), np.uint8)


def _fitted(
    found: source.Source,
    selection: slice,
    *,
    size: source.Fit,
    most: int | None,
) -> UInt8[np.ndarray, "T h w 3"]:
    """The frames of a slice, at most `most`, each resized where it is to lie."""
    width, height = size.size
    expected = min(found.frames, found.frames if most is None else most)
    frames = np.empty((max(1, expected), height, width, 3), np.uint8)
    count = 0
    for picture, repeats in _selected(found, selection):
        if picture.size != size.native:
            own, announced = (f"{w}x{h}" for w, h in (picture.size, size.native))
            raise common.MediaError(
                f"{found.name}: frames of {announced} were announced, {own} decode"
            )
        while count + repeats > len(frames):  # more than the packets promise
            frames = np.concatenate([frames, np.empty_like(frames)])
        if picture.size == size.size:
            frames[count] = picture.convert(None)
        elif picture.fit is not None:
            picture.fit(frames[count])
        else:
            frames[count] = pixels.bicubic(picture.convert(None), size.size)
        frames[count + 1 : count + repeats] = frames[count]
        count += repeats
    return frames[:count]


def _measured(
    pixels: Iterator[np.ndarray], found: source.Source, *, displacements: list[float]
) -> Iterator[np.ndarray]:
    """The same frames, and after them their displacements."""
    yield from pixels
    displacements[:] = found.shown_displacements


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
