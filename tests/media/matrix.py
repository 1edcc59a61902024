"""What is read, for the page docs/formats.md: container, codec, property, outcome.

    python -m tests.media.matrix > docs/formats.md

Every row is a file that is made here, or lies in tests/data/faults, and is read; the
page says what came of it, in the words that a user gets.
"""

import io
import pathlib
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from soraflax import media
from tests.media import samples

FAULTS = pathlib.Path(__file__).parents[1] / "data" / "faults"
_HEAD = """# Formats

What soraflax reads: clips and images for every command, for `prepare` and for the page
in the browser. A file is what its first bytes say, whatever it is called.

Each row is a small file that the tests make and read; the last column is what came of
it (`python -m tests.media.matrix` writes this page). **Read** is as it is shown: every
frame, upright, in square pixels, over white, in the colours of sRGB. Where reading did
more than that, a note says what: commands print it and keep it in the record of what
they make, and `soraflax prepare` puts it into report.jsonl.
**Refused** is one line that names the file and this cause.

| container | codec | property | |
|---|---|---|---|
"""
_FOOT = """
A file that was cut off, or that holds fewer frames than it says, is refused whatever it
is; so is one whose structure does not hold: an element of an mkv that is larger than
what holds it, a table of an mp4 that is missing or points out of it, an image of a gif
that swallows the next one. What of a file belongs to nothing is left out with a note,
and so is what an edit list hides. Film among 30 frames a second is said, and not
undone. Colours without a matrix are those of BT.709 from 720 rows on and of BT.601
below, as players have them; wide colours without a tag are not told. Alpha is straight,
not premultiplied.

Files that nobody vouches for, in `prepare` and on the page, are decoded in a process of
their own, within bounds of time and memory: one that ends it is refused, and a new one
takes its place. `make fuzz` damages ten thousand files in many ways and holds reading
to that.
"""
_420 = "yuv420p"


def rows() -> Iterator[tuple[str, str, str, bytes]]:
    """Container, codec, property, and the bytes of a file."""
    yield from _codecs()
    yield from _properties()
    yield from _stills()
    yield from _refused()


def _codecs() -> Iterator[tuple[str, str, str, bytes]]:
    x265 = {"x265-params": "log-level=none", "preset": "ultrafast"}
    fast = {"cpu-used": "8"}
    frames, large = samples.moving(6), samples.moving(6, 64, 96)
    for container, codec, encoder, layout, options in (
        ("mp4", "H.264", "libx264", _420, samples.X264),
        ("mp4", "H.265", "libx265", _420, x265),
        ("mp4", "VP9", "libvpx-vp9", _420, fast),
        ("mp4", "MPEG-4", "mpeg4", _420, {}),
        ("mov", "ProRes", "prores_ks", "yuv422p10le", {}),
        ("mov", "DNxHD", "dnxhd", "yuv422p", {"profile": "dnxhr_sq"}),
        ("mov", "Motion JPEG", "mjpeg", "yuvj420p", {}),
        ("mkv", "H.264", "libx264", _420, samples.X264),
        ("mkv", "H.265", "libx265", _420, x265),
        ("mkv", "FFV1", "ffv1", "yuv444p", {}),
        ("mkv", "MPEG-2", "mpeg2video", _420, {}),
        ("webm", "VP8", "libvpx", _420, fast),
        ("webm", "VP9", "libvpx-vp9", _420, fast),
        ("avi", "MPEG-4", "mpeg4", _420, {}),
        ("avi", "Motion JPEG", "mjpeg", "yuvj420p", {}),
        ("avi", "HuffYUV", "huffyuv", "rgb24", {}),
        ("avi", "uncompressed", "rawvideo", "bgr24", {}),
    ):
        name = "matroska" if container == "mkv" else container
        pictures = large if codec == "H.265" else frames
        if codec == "DNxHD":
            pictures = samples.moving(2, 128, 256)
        data = samples.encode(
            pictures,
            container=name,
            codec=encoder,
            pixel_format=layout,
            options=options,
        )
        yield container, codec, "", data
    yield "gif", "", "", samples.animation("gif", frames)
    yield "gif", "", "delays of 1/100 s", samples.animation("gif", frames, duration=10)
    for kind in ("png", "webp", "avif"):
        yield kind, "", "animated", samples.animation(kind, frames)


def _properties() -> Iterator[tuple[str, str, str, bytes]]:
    def fault(name: str) -> bytes:
        return (FAULTS / name).read_bytes()

    def wide(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    frames = samples.moving(6)
    woven = samples.woven(samples.moving(12, 64, 96))
    fields = {"x264-params": "interlaced=1:tff=1", "preset": "ultrafast"}
    yield (
        "mp4",
        "H.264",
        "fragmented",
        samples.h264(frames, muxer={"movflags": "frag_keyframe+empty_moov"}),
    )
    live = {"movflags": "frag_keyframe+empty_moov+skip_trailer"}
    yield (
        "mp4",
        "H.264",
        "fragmented, without an index",
        samples.h264(frames, muxer=live),
    )
    yield (
        "mkv",
        "FFV1",
        "of unknown length",
        samples.encode(frames, muxer={"live": "1"}),
    )
    yield "mp4", "H.264", "an edit list that hides its end", fault("trimmed_tail.mp4")
    yield "mp4", "H.264", "turned by a quarter", samples.with_matrix(0, 1, -1, 0)
    yield "mp4", "H.264", "mirrored", fault("mat_hflip.mp4")
    yield (
        "mp4",
        "H.264",
        "turned by 30 degrees",
        samples.with_matrix(0.866, 0.5, -0.5, 0.866),
    )
    yield (
        "mp4",
        "H.264",
        "clean aperture",
        samples.with_clap(samples.h264(frames), (24, 16, 0, 0)),
    )
    yield "mp4", "H.264", "pixels that are not square", samples.h264(edit=wide)
    yield "mp4", "H.264", "interlaced", samples.h264(woven, options=fields)
    film = samples.moving(20, 64, 96)
    film[(film == samples.RED).all(-1)] = 255
    pulled = samples.pulled_down(film)
    yield "mp4", "H.264", "telecined, its fields not marked", samples.h264(pulled)
    repeats = np.repeat(film, [1, 2, 1, 1] * 5, axis=0)
    yield "mp4", "H.264", "telecined by whole frames", samples.h264(repeats)
    tall = np.broadcast_to(np.array(samples.BLUE, np.uint8), (1, 720, 64, 3))
    yield "mp4", "H.264", "720 rows, without a matrix", samples.h264(tall.copy())
    yield (
        "mp4",
        "H.264",
        "a cover as first stream",
        samples.with_cover("mp4", video=True),
    )
    yield "mp4", "", "audio with a cover", samples.with_cover("mp4", video=False)
    yield "mp4", "H.264", "two videos", samples.two_videos()
    yield "mp4", "", "audio alone", samples.sound_alone("mp4")
    for kind, container in (("mp4", "mp4"), ("mkv", "matroska")):
        words = samples.with_words_first(container)
        yield kind, "H.264", "subtitles as first stream", words
    yield "mkv", "H.264", "starts later than its sound", fault("late_start.mkv")
    yield (
        "mkv",
        "H.264",
        "cut in an open group",
        samples.open_gop("libx264", "matroska"),
    )
    yield (
        "mkv",
        "H.265",
        "cut in an open group",
        samples.open_gop("libx265", "matroska"),
    )
    yield (
        "mkv",
        "FFV1",
        "frames unevenly spaced",
        samples.encode(frames, times=[0, 1, 2, 3, 8, 9]),
    )
    yield (
        "mkv",
        "FFV1",
        "times that jump by minutes",
        samples.encode(frames, times=[0, 1, 2, 9000, 9001, 9002]),
    )
    yield "mkv", "FFV1", "high dynamic range (PQ, BT.2020)", _bright()
    yield "webm", "VP9", "transparent", fault("alpha_vp9.webm")
    yield (
        "mov",
        "ProRes",
        "transparent",
        samples.encode(
            samples.clear_but_red(frames),
            container="mov",
            codec="prores_ks",
            pixel_format="yuva444p10le",
            options={"profile": "4"},
        ),
    )
    yield "avi", "MPEG-4", "empty chunks", fault("null_frames.avi")
    small, large = (
        samples.picture("jpeg", samples.moving(1, 32, w)[0]) for w in (48, 64)
    )
    yield (
        "avi",
        "Motion JPEG",
        "a size that changes",
        samples.jpegs_in_a_movie(small, large, frames=1),
    )
    yield (
        "avi",
        "Motion JPEG",
        "mirrored by EXIF",
        samples.jpegs_in_a_movie(samples.oriented("jpeg", 2), frames=2),
    )


def _bright() -> bytes:
    def tag(stream: Any) -> None:
        context = stream.codec_context
        context.color_trc, context.color_primaries = 16, 9
        context.colorspace, context.color_range = 9, 1

    frames = samples.moving(2)
    return samples.encode(frames, pixel_format="yuv420p10le", edit=tag)


def _stills() -> Iterator[tuple[str, str, str, bytes]]:
    p3 = samples.profile(samples.P3)
    tiles = [samples.moving(1, 64, 64)[0]] * 4
    turn = samples.box(b"irot", b"\1")
    for kind in ("png", "jpeg", "webp", "avif"):
        yield kind, "", "", samples.picture(kind)
    for kind in ("png", "jpeg", "webp"):
        yield kind, "", "mirrored by EXIF", samples.oriented(kind, 2)
        profiled = samples.picture(kind, icc_profile=p3)
        yield kind, "", "colours of Display P3", profiled
    yield "png", "", "bytes after its end", (FAULTS / "trail.png").read_bytes()
    gray = np.zeros((8, 8), np.uint16)
    yield "png", "", "16 bits", samples.picture("png", gray)
    buffer = io.BytesIO()
    Image.fromarray(samples.moving(1)[0]).convert("CMYK").save(buffer, "jpeg")
    yield "jpeg", "", "CMYK", buffer.getvalue()
    parts = (FAULTS / "mpo_small.jpg").read_bytes()
    yield "jpeg", "", "several pictures, a motion photo", parts
    yield "avif", "", "transparent", (FAULTS / "alpha.avif").read_bytes()
    yield "avif", "", "a grid of tiles", (FAULTS / "grid.avif").read_bytes()
    yield "heic", "H.265", "", samples.heic(tiles[:1])
    grid = samples.heic(tiles, grid=(2, 2, 100, 90))
    yield "heic", "H.265", "a grid of tiles", grid
    yield "heic", "H.265", "turned (irot)", samples.heic(tiles[:1], properties=[turn])
    mirror = samples.box(b"imir", b"\1")
    yield (
        "heic",
        "H.265",
        "mirrored (imir)",
        samples.heic(tiles[:1], properties=[mirror]),
    )
    aperture = struct.pack(">IIIIiIiI", 40, 1, 20, 1, 0, 1, 0, 1)
    clap = samples.box(b"clap", aperture)
    yield "heic", "H.265", "clean aperture", samples.heic(tiles[:1], properties=[clap])
    yield "heic", "", "an overlay", grid.replace(b"grid\0", b"iovl\0")


def _refused() -> Iterator[tuple[str, str, str, bytes]]:
    frames = samples.moving(12)
    for container, name, encoder in (
        ("mpegts", "ts, mts", "mpeg2video"),
        ("mpeg", "mpg, vob", "mpeg2video"),
        ("mxf", "mxf", "mpeg2video"),
        ("flv", "flv", "flv"),
        ("ogg", "ogg", "libvpx"),
        ("asf", "wmv", "wmv2"),
        ("ivf", "ivf", "libvpx"),
    ):
        data = samples.encode(
            frames, container=container, codec=encoder, pixel_format=_420
        )
        yield name, "", "", data
    for name, head in (
        ("jxl", b"\0\0\0\x0cJXL "),
        ("jp2", b"\0\0\0\x0cjP  "),
        ("tiff, dng", b"II*\0"),
        ("cr3", b"\0\0\0\x18ftypcrx "),
        ("bmp", b"BM"),
        ("pdf", b"%PDF"),
        ("svg", b"<svg"),
        ("mp3", b"ID3"),
        ("wav", b"RIFF\0\0\0\0WAVE"),
    ):
        yield name, "", "", head + bytes(400)
    yield "anything else", "", "", b"text" * 99


def outcome(data: bytes) -> str:
    """What comes of a file, in words."""
    try:
        found = media.probe(data, name="FILE")
        video = media.decode(data, name="FILE")
    except media.MediaError as error:
        return f"refused: {str(error).removeprefix('FILE: ')}"
    shape = (found.frames, found.height, found.width, 3)
    assert video.frames.shape == shape, "readers disagree"
    return "; ".join(("read", *found.notes))


def page() -> str:
    """The page."""
    lines = (
        f"| {container} | {codec} | {prop} | {outcome(data)} |"
        for container, codec, prop, data in rows()
    )
    return _HEAD + "\n".join(lines) + "\n" + _FOOT


if __name__ == "__main__":
    print(page(), end="")
