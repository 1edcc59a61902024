"""What a file is, by its first bytes; its name is not believed.

Demuxers are chosen here and not by probing, which guesses: a jpeg with a second picture
behind the first, as phones write, is then no jpeg, and a container that is not read is
nothing at all.
"""

import os
from typing import Any

from soraflax.media import common

READ = "mp4, mov, mkv, webm, avi, gif, png, apng, jpg, webp, avif or heic"
# Boxes that a movie may begin with; a file type box comes first in nearly all.
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
# Brands of pictures (ISO/IEC 23008-12, AV1 Image File Format).
_PICTURES = (b"mif1", b"heic", b"heix", b"heim", b"heis", b"avif", b"mif2", b"miaf")
_READ = (
    (b"\x1aE\xdf\xa3", "matroska"),
    (b"GIF8", "gif"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
)
# First bytes of what is not read: its name, and what to do about it.
_REMUX = "ffmpeg -i FILE -c copy FILE.mp4 keeps its frames"
_REENCODE = "ffmpeg -i FILE FILE.mp4 makes one"
_SAVE = "save it as .png or .jpg"
_NO_PICTURE = "a video or an image is needed"
_REFUSED = (
    (b"\x00\x00\x01\xba", "an MPEG program stream (.mpg, .vob)", _REMUX),
    (b"\x06\x0e\x2b\x34", "MXF", _REMUX),
    (b"FLV\x01", "Flash video", _REMUX),
    (b"OggS", "Ogg", _REENCODE),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows media (.wmv, .asf)", _REENCODE),
    (b"\x00\x00\x00\x01", "a raw stream without container", _REMUX),
    (b"\x00\x00\x01\xb3", "a raw stream without container", _REMUX),
    (b"DKIF", "IVF", _REMUX),
    (b"YUV4MPEG2", "raw YUV (.y4m)", _REENCODE),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL", _SAVE),
    (b"\xff\x0a", "JPEG XL", _SAVE),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000", _SAVE),
    (b"II*\x00", "TIFF or a raw photo", _SAVE),
    (b"MM\x00*", "TIFF or a raw photo", _SAVE),
    (b"BM", "a bitmap (.bmp)", _SAVE),
    (b"8BPS", "Photoshop", _SAVE),
    (b"%PDF", "PDF", _SAVE),
    (b"<svg", "SVG", _SAVE),
    (b"ID3", "audio (.mp3)", _NO_PICTURE),
    (b"fLaC", "audio (.flac)", _NO_PICTURE),
)
_TRANSPORT = 188  # bytes of a packet; cameras put a time of four bytes before each


def kind(file: Any, name: str) -> str:
    """One of mov, heif, matroska, avi, gif, or of `stills.KINDS`; leaves `file` at 0.

    Raises:
      MediaError: anything else, by its name where it is known.
    """
    file.seek(0)
    head = file.read(4 * _TRANSPORT)
    file.seek(0)
    if not head:
        raise common.MediaError(f"{name}: empty file")
    for magic, found in _READ:
        if head.startswith(magic):
            return found
    if head[:4] == b"RIFF":
        return _riff(head, name)
    if head[4:8] in _BOXES:
        return _boxed(head, name)
    for magic, what, advice in _REFUSED:
        if head.startswith(magic):
            raise _refusal(name, what, advice=advice)
    for first in (0, 4):
        if head[first : first + 1] == head[first + _TRANSPORT + first :][:1] == b"G":
            raise _refusal(name, "an MPEG transport stream (.ts, .mts)", advice=_REMUX)
    raise common.MediaError(f"{name}: not a video or image: use {READ}")


def _refusal(name: str, what: str, *, advice: str) -> common.MediaError:
    return common.MediaError(f"{name}: {what}, which is not read: {advice}")


def _riff(head: bytes, name: str) -> str:
    form = head[8:12]
    if form in (b"AVI ", b"AVIX"):
        return "avi"
    if form == b"WEBP":
        return "webp"
    if form == b"WAVE":
        raise _refusal(name, "audio (.wav)", advice=_NO_PICTURE)
    raise common.MediaError(f"{name}: not a video or image: use {READ}")


def _boxed(head: bytes, name: str) -> str:
    brand = head[8:12]
    if head[4:8] != b"ftyp":
        return "mov"
    if brand == b"crx ":
        raise _refusal(name, "a raw photo (.cr3)", advice=_SAVE)
    if brand == b"avis":
        return "avif animation"
    return "heif" if brand in _PICTURES else "mov"


def length(file: Any) -> int:
    """Bytes of a file; its position stays."""
    position = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(position)
    return end
