"""Decoded frames to RGB as they are shown: upright, over white, in the colours of sRGB.

A frame is stored in another shape than it is shown in: with pixels that are not square,
a clean aperture, an orientation. They are applied in this order: cut, stretched to
square pixels, oriented.

Wide colours (BT.2020, P3) and high dynamic range (PQ, HLG) are brought to BT.709 and
sRGB by FFmpeg's scaler, relative to a white of 203 cd/m2 (ITU-R BT.2408).
"""

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import UInt8, UInt16

from soraflax.media import common, orientation, source

# ITU-T H.273: primaries and transfer characteristics.
_WIDE = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
_HDR = {16: "PQ", 18: "HLG"}
_BT709, _UNKNOWN, _BT2020, _SRGB = 1, 2, 9, 13
_HD_ROWS = 720
_TILE = 256
# A table of colours takes seconds to make: those of the last few kinds are kept.
_SCALERS = threading.local()
_MOST_SCALERS = 4


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How the frames of a stream are shown.

    Attributes:
      aspect: width of a pixel over its height.
      aperture: width, height and offsets of the centre of what is shown; None for all.
      turn: orientation of all frames; None to read it from each.
    """

    aspect: Fraction = Fraction(1)
    aperture: tuple[float, ...] | None = None
    turn: orientation.Orientation | None = None

    def box(self, size: source.Size) -> tuple[int, int, int, int]:
        """Left, top, width and height of what is shown of a stored frame."""
        whole = (0, 0, *size)
        if self.aperture is None:
            return whole
        width, height = (round(side) for side in self.aperture[:2])
        left, top = (
            round((side - part) / 2 + offset)
            for side, part, offset in zip(
                size, (width, height), self.aperture[2:], strict=True
            )
        )
        inside = (
            0 <= left < left + width <= size[0] and 0 <= top < top + height <= size[1]
        )
        return (left, top, width, height) if inside else whole

    def square(self, size: source.Size) -> source.Size:
        """Width and height in square pixels, before orientation."""
        if self.aspect == 1:
            return size
        return max(1, round(size[0] * self.aspect)), size[1]


@contextlib.contextmanager
def conversion(name: str) -> Iterator[None]:
    """Errors of FFmpeg's scaler, for colours that it does not know, in one line."""
    try:
        yield
    except common.pyav().FFmpegError as error:
        raise common.MediaError(
            f"{name}: its colours cannot be converted: {common.cause(error)}"
        ) from error


def picture(
    frame: Any, geometry: Geometry, *, name: str, still: Any = None
) -> source.Picture:
    """A frame as it will be shown.

    Args:
      frame: of PyAV.
      geometry: of its stream.
      name: of its file, in errors.
      still: packet that the frame was decoded from, or None: it may be a file of its
        own, with EXIF.

    Raises:
      ValueError: a display matrix that is no orientation.
    """
    turn = geometry.turn or _orientation(frame, still)
    box = geometry.box((frame.width, frame.height))
    shown = turn.size(geometry.square(box[2:]))

    def convert(size: source.Size | None) -> Any:
        stored = None if size is None else turn.size(size)
        square = turn.size(shown)
        with conversion(name):
            return turn.apply(to_rgb(frame, box, stored=stored, square=square))

    def fit(out: UInt8[np.ndarray, "h w 3"]) -> None:
        with conversion(name):
            planes = _planes(frame, turn.size((out.shape[1], out.shape[0])))
        for channel, plane in enumerate(planes):
            out[..., channel] = turn.apply(plane[..., None])[..., 0]

    whole = box[2:] == (frame.width, frame.height)
    opaque_yuv = _channels(frame.format.name) == (True, False)
    plain = whole and opaque_yuv and wide_colours(frame) is None
    return source.Picture(shown, convert, fit if plain else None)


def _planes(frame: Any, size: source.Size) -> list[UInt8[np.ndarray, "h w"]]:
    """Red, green and blue of a whole frame of YUV, by one pass of FFmpeg's scaler.

    Luma is resized by a cubic filter and chroma, which is coarser as stored, by a
    linear one, both antialiased. Nothing is rounded in between, and planes of RGB,
    unlike packed RGB, have chroma for every pixel.
    """
    scalers = _SCALERS.__dict__
    if "fit" not in scalers:  # it keeps its filters from frame to frame
        scalers["fit"] = common.pyav().video.reformatter.VideoReformatter()
    width, height = size
    shown = scalers["fit"].reformat(
        frame,
        width=width,
        height=height,
        format="gbrp",
        interpolation=common.scaling("BICUBLIN"),
        threads=1,
    )
    green, blue, red = (
        np.frombuffer(plane, np.uint8).reshape(height, plane.line_size)[:, :width]
        for plane in shown.planes
    )
    return [red, green, blue]


@functools.lru_cache(maxsize=64)
def _channels(layout: str) -> tuple[bool, bool]:
    """Whether a format has chroma, and whether it has alpha."""
    components = common.pyav().VideoFormat(layout).components
    # A palette's colours have alpha, though its one component, the index, has not.
    alpha = layout == "pal8" or any(c.is_alpha for c in components)
    return any(c.is_chroma for c in components), alpha


def bicubic(
    rgb: UInt8[np.ndarray, "H W 3"], size: source.Size
) -> UInt8[np.ndarray, "h w 3"]:
    """A picture resized to a width and height, antialiased (Pillow)."""
    from soraflax.media import stills

    module = stills.Image()
    image = module.fromarray(np.ascontiguousarray(rgb))
    return np.asarray(image.resize(size, module.Resampling.BICUBIC))


def to_rgb(
    frame: Any,
    box: tuple[int, int, int, int],
    *,
    stored: source.Size | None,
    square: source.Size,
) -> UInt8[np.ndarray, "H W 3"]:
    """RGB of a part of a frame, over white, not yet oriented.

    Args:
      frame: of PyAV.
      box: left, top, width and height of the part.
      stored: width and height to average to by area; None for `square`.
      square: width and height in square pixels.
    """
    left, top, width, height = box
    whole = (width, height) == (frame.width, frame.height)
    target = stored or square
    # Averaging makes pixels larger as steps.
    method = "AREA" if stored else "BICUBIC"
    if whole:
        pixels = _scaled(frame, target, method=method)
    else:
        pixels = _scaled(frame, (frame.width, frame.height), method=method)
        pixels = pixels[top : top + height, left : left + width]
        if target != (width, height):
            layout = "rgba" if pixels.shape[2] == 4 else "rgb24"
            part = common.pyav().VideoFrame.from_ndarray(
                np.ascontiguousarray(pixels), format=layout
            )
            pixels = _scaled(part, target, method=method)
    return over_white(pixels) if pixels.shape[2] == 4 else np.ascontiguousarray(pixels)


def _scaled(
    frame: Any, size: source.Size, *, method: str
) -> UInt8[np.ndarray, "H W C"]:
    _, alpha = _channels(frame.format.name)
    if size == (frame.width, frame.height):
        method = "BILINEAR"
    wide = wide_colours(frame) is not None
    formats = ("rgb48le", "rgba64le") if wide else ("rgb24", "rgba")
    pixels = frame.reformat(
        width=size[0],
        height=size[1],
        format=formats[alpha],
        interpolation=common.scaling(method),
        threads=1,
    ).to_ndarray()
    if not wide:
        return pixels
    transfer = int(frame.color_trc)
    tags = (_BT709 if transfer == _UNKNOWN else transfer, int(frame.color_primaries))
    rgb = _narrowed(pixels[..., :3], tags)
    return np.concatenate([rgb, (pixels[..., 3:] >> 8).astype(np.uint8)], axis=2)


def _narrowed(
    rgb: UInt16[np.ndarray, "H W 3"], tags: tuple[int, int]
) -> UInt8[np.ndarray, "H W 3"]:
    """Colours of a transfer and primaries as those of sRGB.

    Pixels are converted in tiles of one size, so that one table serves all sizes.
    """
    pyav = common.pyav()
    transfer, primaries = tags
    count = rgb.shape[0] * rgb.shape[1]
    flat = rgb.reshape(count, 3)
    flat = np.pad(flat, ((0, -count % _TILE**2), (0, 0)))
    result = np.empty((len(flat), 3), np.uint8)
    for start in range(0, len(flat), _TILE**2):
        part = flat[start : start + _TILE**2].reshape(_TILE, _TILE, 3)
        tile = pyav.VideoFrame.from_ndarray(
            np.ascontiguousarray(part), format="rgb48le"
        )
        tile.color_trc, tile.color_primaries = transfer, primaries
        shown = _scaler(tags).reformat(
            tile,
            format="rgb24",
            threads=1,
            dst_color_trc=_SRGB if transfer in _HDR else transfer,
            dst_color_primaries=_BT709,
        )
        result[start : start + _TILE**2] = shown.to_ndarray().reshape(-1, 3)
    return result[:count].reshape(rgb.shape)


def to_rgba(frame: Any) -> UInt8[np.ndarray, "H W 4"]:
    """A frame as stored; opaque where it has no alpha."""
    pixels = _scaled(frame, (frame.width, frame.height), method="BILINEAR")
    if pixels.shape[2] == 4:
        return pixels.copy()
    opaque = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    return np.concatenate([pixels, opaque], axis=2)


def resized(
    rgb: UInt8[np.ndarray, "H W 3"], size: source.Size
) -> UInt8[np.ndarray, "h w 3"]:
    """A picture averaged by area to a width and height."""
    if size == (rgb.shape[1], rgb.shape[0]):
        return rgb
    frame = common.pyav().VideoFrame.from_ndarray(rgb, format="rgb24")
    return np.ascontiguousarray(_scaled(frame, size, method="AREA"))


def _scaler(key: tuple[int, int]) -> Any:
    """A scaler that keeps its table, for one transfer and primaries."""
    known = _SCALERS.__dict__.setdefault("known", {})
    if key not in known:
        while len(known) >= _MOST_SCALERS:
            known.pop(next(iter(known)))
        known[key] = common.pyav().video.reformatter.VideoReformatter()
    return known[key]


def wide_colours(frame: Any) -> str | None:
    """Name of colours that sRGB has not; None where there are none."""
    transfer, primaries = int(frame.color_trc), int(frame.color_primaries)
    if transfer in _HDR:
        return f"{_WIDE.get(primaries, 'BT.709')} {_HDR[transfer]}"
    return _WIDE.get(primaries)


def complete_matrix(frame: Any) -> None:
    """Choose the matrix of a movie's frame that does not say it, as players do.

    That of its primaries where they are wide; else BT.709 from 720 rows on, and the
    scaler's BT.601 below.
    """
    is_yuv, _ = _channels(frame.format.name)
    if not is_yuv or int(frame.colorspace) != _UNKNOWN:
        return
    if int(frame.color_primaries) == _BT2020:
        frame.colorspace = _BT2020
    elif frame.height >= _HD_ROWS:
        frame.colorspace = _BT709


def _orientation(frame: Any, still: Any) -> orientation.Orientation:
    try:
        # Not `frame.side_data`, which the frame keeps and which keeps the frame: pixels
        # of every frame would wait for Python's collector of cycles.
        data = common.pyav().sidedata.sidedata.SideDataContainer(frame)
    except ValueError:  # EXIF, which PyAV does not know; it is in the file's bytes
        from soraflax.media import stills

        data = bytes(still or b"")
        return (
            stills.orientation_of(data)
            if frame.rotation or data
            else orientation.UPRIGHT
        )
    for one in data:
        if one.type.name == "DISPLAYMATRIX":
            return orientation.from_matrix(bytes(one))
    return orientation.UPRIGHT


def over_white(rgba: UInt8[np.ndarray, "H W 4"]) -> UInt8[np.ndarray, "H W 3"]:
    """Colours with alpha, not premultiplied, over white."""
    rgb, alpha = rgba[..., :3], rgba[..., 3:].astype(np.uint16)
    if alpha.min() == 255:
        return np.ascontiguousarray(rgb)
    # 127 more than the sum rounds the quotient to the nearest level.
    return ((rgb * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def progressive(frames: Iterator[Any], notes: list[str]) -> Iterator[Any]:
    """Frames whose interlaced ones are deinterlaced; as many, with their times."""
    frames = iter(frames)
    for frame in frames:
        if frame.interlaced_frame:
            notes.append("interlaced: both fields of each frame were made one (bwdif)")
            yield from _deinterlaced(frame, frames)
            return
        yield frame


def _deinterlaced(first: Any, others: Iterator[Any]) -> Iterator[Any]:
    pyav = common.pyav()
    graph = pyav.filter.Graph()
    entry = graph.add_buffer(
        width=first.width,
        height=first.height,
        format=first.format,
        time_base=first.time_base or Fraction(1, 1000),
    )
    weave = graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
    exit_ = graph.add("buffersink")
    entry.link_to(weave)
    weave.link_to(exit_)
    graph.configure()

    def ready() -> Iterator[Any]:
        with contextlib.suppress(pyav.BlockingIOError, pyav.EOFError):
            while True:
                yield graph.pull()

    graph.push(first)
    yield from ready()
    for frame in others:
        graph.push(frame)
        yield from ready()
    graph.push(None)
    yield from ready()
