"""Raw files as people have them, odd and hostile, and what becomes of each."""

import dataclasses
import json
import os
import struct
import unicodedata
import zlib
from pathlib import Path

import numpy as np

from tests.media import matrix, samples

CLIPS = Path(__file__).parents[2] / "data" / "clips"
COMPOSED = unicodedata.normalize("NFC", "caf\u00e9.mp4")
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


@dataclasses.dataclass(frozen=True)
class Expected:
    """What the report says of a file.

    Attributes:
      outcome: kept, rejected or failed.
      said: part of its reason, or of a note where it is kept.
      size: frames, height and width where it is read; None for any.
    """

    outcome: str
    said: str = ""
    size: tuple[int, int, int] | None = None


def texture(frames: int = 6, height: int = 48, width: int = 64) -> np.ndarray:
    """Frames that move and are like no other file's."""
    rng = np.random.default_rng(frames * 1000 + height * 10 + width)
    coarse = rng.integers(40, 216, (height // 8 + 1, width // 8 + 9, 3))
    wide = coarse.astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)[:height]
    return np.stack([wide[:, 3 * t : 3 * t + width] for t in range(frames)])


def huge_png() -> bytes:
    """A small file whose header says 16,000 x 16,000."""
    data = samples.picture("png")
    header = b"IHDR" + struct.pack(">II", 16_000, 16_000) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def huge_avi() -> bytes:
    """Uncompressed video whose header says 16,384 x 16,384."""
    rules = {"container": "avi", "codec": "rawvideo", "pixel_format": "bgr24"}
    data = samples.encode(texture(2), **rules)
    sizes = struct.pack("<ii", 64, 48)
    assert sizes in data or struct.pack("<ii", 64, -48) in data
    for found in (sizes, struct.pack("<ii", 64, -48)):
        data = data.replace(found, struct.pack("<ii", 16_384, 16_384))
    return data


def rate_of_zero() -> bytes:
    """An avi whose stream has 0 frames per second."""
    rules = {"container": "avi", "codec": "mpeg4", "pixel_format": "yuv420p"}
    data = samples.encode(texture(7), **rules)
    at = data.index(b"strh") + 8 + 20  # dwScale, dwRate
    return data[:at] + struct.pack("<II", 1, 0) + data[at + 8 :]


def no_frames() -> bytes:
    """An mp4 whose tables hold no sample."""
    data = bytearray(samples.h264(texture(8)))
    for kind in (b"stsz", b"stts", b"stsc", b"stco", b"ctts", b"stss"):
        at = data.find(kind)
        if at > 0:
            counts = 12 if kind == b"stsz" else 8
            data[at + counts : at + counts + 4] = bytes(4)
    return bytes(data)


def files() -> dict[str, tuple[bytes, Expected]]:
    """Bytes by name, and what is to become of them."""
    whole = samples.h264(texture(9))
    uneven = samples.encode(texture(10), times=[0, 1, 2, 3, 8, 9, 10, 11, 12, 13])
    turned = samples.h264(texture(12, 64, 48))
    hdr = (CLIPS / "testsrc2_12bit_hdr.mp4").read_bytes()
    odd = samples.encode(texture(11, 47, 63), pixel_format="bgr0")
    return {
        "zero_frames.mp4": (no_frames(), Expected("failed")),
        "audio_only.mp4": (samples.sound_alone("mp4"), Expected("failed", "no video")),
        "one_frame.mp4": (
            samples.h264(texture(1, 72, 56)),
            Expected("kept", size=(1, 72, 56)),
        ),
        "variable_rate.mkv": (
            uneven,
            Expected("kept", "unevenly spaced", size=(14, 48, 64)),
        ),
        "rotated.mp4": (
            samples.with_matrix(0, 1, -1, 0),
            Expected("kept", size=(12, samples.WIDTH, samples.HEIGHT)),
        ),
        "odd.mkv": (odd, Expected("kept", size=(11, 47, 63))),
        "ten_bit_hdr.mp4": (hdr, Expected("kept", "BT.2020", size=(60, 180, 320))),
        "bright.mkv": (matrix._bright(), Expected("kept", "PQ were brought to sRGB")),
        "header_16k.png": (huge_png(), Expected("failed", "max_pixels")),
        "header_16k.avi": (huge_avi(), Expected("failed")),
        "playlist.mp4": (b"#EXTM3U\nhttp://example.com/a.ts\n", Expected("failed")),
        "UPPER.MP4": (turned, Expected("kept", size=(12, 64, 48))),
        DECOMPOSED: (
            samples.h264(texture(13)),
            Expected("kept", size=(13, 48, 64)),
        ),
        "whole.mp4": (whole, Expected("rejected", "its file is again.mp4 again")),
        "cut_off.mp4": (whole[: len(whole) // 2], Expected("failed")),
        "empty.mp4": (b"", Expected("failed")),
        "rate_of_zero.avi": (rate_of_zero(), Expected("kept")),
        "again.mp4": (whole, Expected("kept", size=(9, 48, 64))),
    }


def captions() -> bytes:
    """Lines with a byte order mark, line ends of Windows, and what else people write.

    The file of a decomposed name is captioned by the composed one.
    """
    names = [n for n in files() if n not in (DECOMPOSED, "one_frame.mp4")]
    lines = [{"file": name, "caption": f"the file {name}"} for name in names]
    lines += [
        {"file": COMPOSED, "caption": "a name in two forms"},
        {"file": "one_frame.mp4", "caption": "of\0 one frame " + "ring " * 12_000},
        {"file": "again.mp4", "caption": "captioned twice"},
        {"file": "../outside.mp4", "caption": "leads out of the folder"},
        {"file": "/etc/passwd", "caption": "an absolute path"},
        {"file": "missing.mp4", "caption": "of no file"},
    ]
    text = "\r\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    return "\ufeff".encode() + text.encode() + b"\r\n{\r\n\xff\r\n"


def write(folder: Path) -> dict[str, Expected]:
    """A folder of hostile files with captions; what is to become of each."""
    folder.mkdir(parents=True, exist_ok=True)
    made = files()
    for name, (data, _) in made.items():
        (folder / name).write_bytes(data)
    (folder / "gone.mp4").symlink_to(folder / "nowhere")
    (folder / "link.mp4").symlink_to(folder / "again.mp4")
    os.mkdir(folder / "folder.mp4")
    (folder / "captions.jsonl").write_bytes(captions())
    expected = {name: found for name, (_, found) in made.items()}
    return expected | {
        "gone.mp4": Expected("failed", "No such file"),
        "link.mp4": Expected("rejected", "no caption"),
    }
