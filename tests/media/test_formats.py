"""What a file is, by its bytes: what is read, and what is refused by its name."""

import io

import pytest

from soraflax import media
from soraflax.media import formats
from tests.media import samples

TS = {"container": "mpegts", "codec": "mpeg2video", "pixel_format": "yuv420p"}


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        (TS, r"MPEG transport stream .*ffmpeg -i FILE -c copy FILE\.mp4"),
        (TS | {"container": "mpeg"}, "MPEG program stream"),
        (TS | {"container": "mxf"}, "MXF"),
        (TS | {"container": "flv", "codec": "flv"}, "Flash video"),
        (TS | {"container": "ogg", "codec": "libvpx"}, "Ogg"),
        (TS | {"container": "asf", "codec": "wmv2"}, "Windows media"),
        (TS | {"container": "ivf", "codec": "libvpx"}, "IVF"),
    ],
)
def test_containers_that_are_not_read_are_named(keywords, says):
    data = samples.encode(samples.moving(12), **keywords)
    with pytest.raises(media.MediaError, match=f"^a.mp4: .*{says}"):
        media.decode(data, name="a.mp4")


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL.*save it as"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"II*\0\x08\0\0\0", "TIFF or a raw photo"),
        (b"BM\x36\0\0\0", "a bitmap"),
        (b"%PDF-1.7", "PDF"),
        (b"<svg xmlns=", "SVG"),
        (b"ID3\x03", "audio"),
        (b"RIFF\0\0\0\0WAVE", "audio"),
        (b"\0\0\0\x18ftypcrx \0\0\0\x01", "a raw photo"),
        (b"<html>", "not a video or image: use mp4"),
    ],
)
def test_others_are_named_by_their_first_bytes(head, says):
    with pytest.raises(media.MediaError, match=says) as error:
        media.decode(head + bytes(400))
    assert "\n" not in str(error.value)


def test_an_m2ts_has_times_between_its_packets():
    data = samples.encode(samples.moving(12), **TS)
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    with pytest.raises(media.MediaError, match="transport stream"):
        media.decode(b"".join(b"\0\0\0\0" + packet for packet in packets))


def test_a_name_is_not_believed():
    for kind in ("png", "jpeg", "webp", "gif"):
        assert len(media.decode(samples.picture(kind), name="a.mp4")) == 1
    file = io.BytesIO(samples.h264())
    assert formats.kind(file, "a.png") == "mov" and file.tell() == 0
