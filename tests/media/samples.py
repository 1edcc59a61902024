"""Small files of many containers, codecs and properties, made with PyAV."""

import io
import struct
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from PIL import Image

BLUE, RED = (40, 90, 200), (220, 40, 30)
HEIGHT, WIDTH = 32, 48


# Streams of containers have the types of every kind of stream, which tests do not need.
opened: Any = av.open


def moving(frames: int = 12, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A red square that moves right on blue, and a white corner at the top left."""
    video = np.full((frames, height, width, 3), BLUE, np.uint8)
    for t in range(frames):
        at = 8 + 2 * t % (width - 20)
        video[t, 12:24, at : at + 12] = RED
    video[:, :6, :6] = 255
    return video


def encode(
    frames: np.ndarray,
    *,
    container: str = "matroska",
    codec: str = "ffv1",
    pixel_format: str = "bgr0",
    options: dict[str, str] | None = None,
    times: Iterable[int] | None = None,
    edit: Callable[[Any], None] = lambda stream: None,
    edit_frame: Callable[[Any], None] = lambda frame: None,
    muxer: dict[str, str] | None = None,
) -> bytes:
    """Frames `[T, H, W, 3 or 4]` as the bytes of a file of 24 frames per second.

    `edit` gets the stream before encoding, `edit_frame` each frame; `times` count
    24ths of a second.
    """
    buffer = io.BytesIO()
    layout = "rgba" if frames.shape[3] == 4 else "rgb24"
    with opened(buffer, "w", format=container, options=muxer or {}) as out:
        stream: Any = out.add_stream(codec, rate=24, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        stream.codec_context.thread_count = 1
        edit(stream)
        for time, pixels in zip(times or range(len(frames)), frames, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format=layout)
            frame = frame.reformat(format=pixel_format, threads=1)
            frame.pts, frame.time_base = time, Fraction(1, 24)
            edit_frame(frame)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return buffer.getvalue()


X264 = {"preset": "ultrafast", "crf": "10"}


def h264(frames: np.ndarray | None = None, **keywords: Any) -> bytes:
    """mp4 of H.264, 4:2:0, unless told otherwise."""
    keywords = {"container": "mp4", "codec": "libx264", "pixel_format": "yuv420p"} | {
        "options": X264,
        **keywords,
    }
    return encode(moving() if frames is None else frames, **keywords)


def open_gop(codec: str, container: str) -> bytes:
    """A stream copy from the second group of pictures on, which is open."""
    rules = "keyint=8:min-keyint=8:bframes=3:scenecut=0:open-gop=1"
    options = {"libx264": {"x264-params": rules}}
    options["libx265"] = {"x265-params": f"{rules}:log-level=none"}
    whole = encode(
        moving(24, 64, 96),
        codec=codec,
        pixel_format="yuv420p",
        options=options[codec] | {"preset": "medium"},
    )
    return copied(whole, container, after=7.5 / 24)


def copied(data: bytes, container: str, *, after: float = 0.0) -> bytes:
    """The packets of a file from the first key frame after so many seconds on."""
    buffer = io.BytesIO()
    with opened(io.BytesIO(data)) as source:
        stream = source.streams.video[0]
        with opened(buffer, "w", format=container) as out:
            copy = out.add_stream_from_template(stream)
            begun = False
            for packet in source.demux(stream):
                if packet.size:
                    late = packet.is_keyframe and packet.pts * stream.time_base > after
                    begun = begun or bool(late)
                    if begun:
                        packet.stream = copy
                        out.mux(packet)
    return buffer.getvalue()


def picture(kind: str, rgb: np.ndarray | None = None, **keywords: Any) -> bytes:
    """A still of Pillow's, of any kind that it writes."""
    rgb = moving(1)[0] if rgb is None else rgb
    buffer = io.BytesIO()
    if kind in ("jpeg", "webp", "avif"):
        keywords = {"quality": 95} | keywords
    Image.fromarray(rgb).save(buffer, kind, **keywords)
    return buffer.getvalue()


def oriented(kind: str, number: int) -> bytes:
    """A still with an orientation of EXIF."""
    exif = Image.Exif()
    exif[0x0112] = number
    return picture(kind, exif=exif.tobytes())


def with_matrix(a: float, b: float, c: float, d: float) -> bytes:
    """mp4 with a display matrix: (x, y) is shown at (a x + c y, b x + d y)."""
    values = [int(65536 * v) for v in (a, b, 0, c, d, 0, 0, 0)] + [1 << 30]

    def edit(stream: Any) -> None:
        stream.set_display_matrix(values)

    return h264(edit=edit)


def box(kind: bytes, *parts: bytes) -> bytes:
    """A box of an ISO base media file."""
    data = b"".join(parts)
    return struct.pack(">I", 8 + len(data)) + kind + data


def full_box(kind: bytes, *parts: bytes, version: int = 0, flags: int = 0) -> bytes:
    """A box with a version and flags."""
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


def heic(
    tiles: list[np.ndarray],
    *,
    grid: tuple[int, int, int, int] | None = None,
    properties: list[bytes] | None = None,
) -> bytes:
    """A heic picture: one, or a grid (rows, columns, width, height) of tiles.

    Args:
      tiles: pictures of one size, `[H, W, 3]`.
      grid: how they lie; None for the first alone.
      properties: boxes of the primary item, such as `irot`.
    """
    params = "lossless=1:log-level=none:keyint=1"
    coded = [
        encode(
            tile[None],
            container="mp4",
            codec="libx265",
            pixel_format="yuv444p",
            options={"x265-params": params, "preset": "ultrafast"},
        )
        for tile in tiles
    ]
    payloads, configs = [], []
    for data in coded:
        with opened(io.BytesIO(data)) as file:
            stream = file.streams.video[0]
            configs.append(bytes(stream.codec_context.extradata or b""))
            payloads.append(bytes(next(iter(file.demux(stream)))))
    count, primary = len(tiles), 1
    first = 2 if grid else 1
    items = [(first + i, b"hvc1") for i in range(count)]
    if grid:
        rows, columns, width, height = grid
        layout = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
        items.insert(0, (1, b"grid"))
        payloads.insert(0, layout)
    height, width = (grid[3], grid[2]) if grid else tiles[0].shape[:2]
    whole = full_box(b"ispe", struct.pack(">II", width, height))
    part = full_box(b"ispe", struct.pack(">II", *tiles[0].shape[1::-1]))
    shared = [whole, part, box(b"hvcC", configs[0]), *(properties or [])]
    extra = list(range(4, 4 + len(properties or [])))
    # (item, its properties by number, from 1 on)
    owned = [(1, [1, *extra] if grid else [1, 3, *extra])]
    owned += [(first + i, [2, 3]) for i in range(count) if grid or i]
    ipma = struct.pack(">I", len(owned)) + b"".join(
        struct.pack(">HB", item, len(own)) + bytes(0x80 | n for n in own)
        for item, own in owned
    )
    infe = b"".join(
        full_box(b"infe", struct.pack(">HH", i, 0), kind, b"\0", version=2)
        for i, kind in items
    )
    parts = [
        full_box(b"hdlr", b"\0" * 4, b"pict", b"\0" * 13),
        full_box(b"pitm", struct.pack(">H", primary)),
        full_box(b"iinf", struct.pack(">H", len(items)), infe),
        box(b"iprp", box(b"ipco", *shared), full_box(b"ipma", ipma)),
    ]
    if grid:
        numbers = b"".join(struct.pack(">H", first + i) for i in range(count))
        dimg = box(b"dimg", struct.pack(">HH", 1, count), numbers)
        parts.append(full_box(b"iref", dimg))

    def meta(start: int) -> bytes:
        places = b""
        for (item, _), payload in zip(items, payloads, strict=True):
            places += struct.pack(">HHHII", item, 0, 1, start, len(payload))
            start += len(payload)
        iloc = full_box(b"iloc", b"\x44\0", struct.pack(">H", len(items)), places)
        return full_box(b"meta", *parts, iloc)

    brands = box(b"ftyp", b"heic", b"\0" * 4, b"mif1heic")
    start = len(brands) + len(meta(0)) + 8
    return brands + meta(start) + box(b"mdat", *payloads)


def jpegs_in_a_movie(*jpegs: bytes, frames: int) -> bytes:
    """avi of these pictures, so many times over."""
    buffer = io.BytesIO()
    with opened(buffer, "w", format="avi") as out:
        stream: Any = out.add_stream("mjpeg", rate=24)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuvj420p"
        for time, jpeg in enumerate(jpegs * frames):
            packet = av.Packet(jpeg)
            packet.pts = packet.dts = time
            packet.time_base, packet.stream = Fraction(1, 24), stream
            packet.is_keyframe = True
            out.mux(packet)
    return buffer.getvalue()


def animation(kind: str, frames: np.ndarray, **keywords: Any) -> bytes:
    """An animation of Pillow's; `duration` in milliseconds, one or one a frame."""
    buffer = io.BytesIO()
    images = [Image.fromarray(frame) for frame in frames]
    rules = {"save_all": True, "append_images": images[1:], "duration": 100}
    if kind in ("webp", "avif"):
        rules["quality"] = 100
    images[0].save(buffer, kind, **(rules | keywords))
    return buffer.getvalue()


def clear_but_red(frames: np.ndarray) -> np.ndarray:
    """Frames with alpha: opaque where they are red."""
    alpha = 255 * (frames == RED).all(-1, keepdims=True)
    return np.concatenate([frames, alpha.astype(np.uint8)], axis=3)


def with_clap(data: bytes, aperture: tuple[int, int, int, int]) -> bytes:
    """mp4 whose frames are shown in part: width, height, and offsets of the centre."""
    width, height, across, down = aperture
    numbers = (width, 1, height, 1, across, 1, down, 1)
    added = box(b"clap", struct.pack(">IIIIiIiI", *numbers))
    path = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1")
    grown, at = bytearray(data), 0
    for kind in path:
        at = data.index(kind, at)
        (size,) = struct.unpack(">I", data[at - 4 : at])
        grown[at - 4 : at] = struct.pack(">I", size + len(added))
    end = at - 4 + size
    return bytes(grown[:end]) + added + bytes(grown[end:])


def with_cover(container: str, *, video: bool) -> bytes:
    """A picture as first stream, then silence, then a video if asked for."""
    buffer = io.BytesIO()
    with opened(buffer, "w", format=container) as out:
        cover = out.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = HEIGHT, WIDTH, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        sound = out.add_stream("aac", rate=8000, layout="mono")
        stream = out.add_stream("libx264", rate=24, options=X264) if video else None
        if stream is not None:
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        packet = av.Packet(picture("jpeg"))
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = cover, 0, 0, True
        out.mux(packet)
        if stream is not None:
            for pixels in moving():
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        silence = np.zeros((1, 4000), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    return buffer.getvalue()


def with_words_first(container: str) -> bytes:
    """Subtitles as first stream, then a video."""
    buffer = io.BytesIO()
    with opened(buffer, "w", format=container) as out:
        codec = "mov_text" if container == "mp4" else "ass"
        words = out.add_stream(codec)
        words.codec_context.subtitle_header = b""
        stream = out.add_stream("libx264", rate=24, options=X264)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        packet = av.Packet(b"\0\5words" if container == "mp4" else b"0,0,words")
        packet.stream, packet.pts, packet.dts, packet.duration = words, 0, 0, 500
        packet.time_base = Fraction(1, 1000)
        out.mux(packet)
        for pixels in moving():
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def sound_alone(container: str) -> bytes:
    """Silence of half a second."""
    buffer = io.BytesIO()
    with opened(buffer, "w", format=container) as out:
        sound = out.add_stream("aac", rate=8000, layout="mono")
        silence = np.zeros((1, 4000), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    return buffer.getvalue()


def two_videos() -> bytes:
    """mp4 of a video and a larger one."""
    buffer = io.BytesIO()
    with opened(buffer, "w", format="mp4") as out:
        pairs = []
        for scale in (1, 2):
            stream = out.add_stream("libx264", rate=24, options=X264)
            stream.height, stream.width = scale * HEIGHT, scale * WIDTH
            stream.pix_fmt = "yuv420p"
            pairs.append((stream, moving(12, scale * HEIGHT, scale * WIDTH)))
        for stream, video in pairs:
            for pixels in video:
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return buffer.getvalue()


def pulled_down(frames: np.ndarray) -> np.ndarray:
    """Film telecined by fields, 3:2: AA BB BC CD DD of every four frames."""
    pairs = [(0, 0), (1, 1), (1, 2), (2, 3), (3, 3)]
    result = []
    for at in range(0, len(frames) // 4 * 4, 4):
        for top, bottom in pairs:
            result.append(frames[at + top].copy())
            result[-1][1::2] = frames[at + bottom][1::2]
    return np.stack(result)


def woven(frames: np.ndarray) -> np.ndarray:
    """Interlaced frames: even rows of one time, odd rows of the next."""
    frames = frames[: len(frames) // 2 * 2]
    result = frames[::2].copy()
    result[:, 1::2] = frames[1::2, 1::2]
    return result


def profile(primaries: dict[bytes, tuple[float, float, float]]) -> bytes:
    """A colour profile (ICC) of three primaries, XYZ for D50, and a gamma of 2.2."""

    def xyz(values: tuple[float, float, float]) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * v) for v in values))

    text = b"wide"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + b"\0" * 80
    tags = {b"desc": description, b"wtpt": xyz((0.9642, 1.0, 0.8249))}
    tags |= {kind: xyz(values) for kind, values in primaries.items()}
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    tags |= {kind: curve for kind in (b"rTRC", b"gTRC", b"bTRC")}
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for kind, value in tags.items():
        value += b"\0" * (-len(value) % 4)
        table += kind + struct.pack(">II", start + len(data), len(value))
        data += value
    header = struct.pack(">I", start + len(data)) + b"\0" * 4
    header += b"\x02\x40\0\0mntrRGB XYZ " + b"\0" * 12 + b"acsp"
    header = header.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + data


# Display P3 adapted to D50.
P3 = {
    b"rXYZ": (0.5151, 0.2412, -0.0011),
    b"gXYZ": (0.2920, 0.6922, 0.0419),
    b"bXYZ": (0.1571, 0.0666, 0.7841),
}


def with_frames_not_coded(container: str, *indices: int) -> bytes:
    """MPEG-4 of twelve frames, these of which only say that the one before stays."""
    whole = encode(
        moving(), container="avi", codec="mpeg4", pixel_format="yuv420p", options={}
    )
    buffer = io.BytesIO()
    with opened(io.BytesIO(whole)) as source:
        stream = source.streams.video[0]
        with opened(buffer, "w", format=container) as out:
            copy = out.add_stream_from_template(stream)
            for index, packet in enumerate(source.demux(stream)):
                if not packet.size:
                    continue
                if index in indices:
                    # P, no second, marker, five bits of time, marker, not coded.
                    bits = f"0101{index % 24:05b}10".ljust(16, "1")
                    code = b"\0\0\1\xb6" + int(bits, 2).to_bytes(2, "big")
                    empty = av.Packet(code)
                    empty.pts, empty.dts = packet.pts, packet.dts
                    empty.time_base = packet.time_base
                    packet = empty
                packet.stream = copy
                out.mux(packet)
    return buffer.getvalue()
