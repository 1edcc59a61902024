"""Damage that FFmpeg passes over: what a file holds is counted by its own structure."""

import io
import pathlib
import struct

import numpy as np
import pytest

from soraflax import media
from soraflax.media import gif
from tests.media import samples

FAULTS = pathlib.Path(__file__).parents[1] / "data" / "faults"
EVERY_RED = samples.clear_but_red(samples.moving(6, 16, 16))


def replaced(data: bytes, old: bytes, new: bytes, *, nth: int = 0) -> bytes:
    """Bytes of which the nth occurrence of some is others of as many."""
    at = -1
    for _ in range(nth + 1):
        at = data.index(old, at + 1)
    return data[:at] + new + data[at + len(old) :]


@pytest.fixture(scope="module")
def webm() -> bytes:
    """Without checksums."""
    return samples.encode(
        samples.moving(6),
        container="webm",
        codec="libvpx-vp9",
        pixel_format="yuv420p",
        options={"cpu-used": "8"},
    )


@pytest.fixture(scope="module")
def mp4() -> bytes:
    return samples.h264()


def block(data: bytes, number: int) -> int:
    """Where a simple block of a file of 24 frames a second begins."""
    milliseconds = round(number * 1000 / 24)
    for size in range(9, 127):
        head = bytes([0xA3, 0x80 | size, 0x81]) + struct.pack(">h", milliseconds)
        if head in data:
            return data.index(head)
    raise AssertionError("no such block")


def test_a_block_of_another_length_is_damage(webm):
    at = block(webm, 3)
    for size in (webm[at + 1] - 1, webm[at + 1] + 1, 0xFF):
        data = webm[: at + 1] + bytes([size]) + webm[at + 2 :]
        with pytest.raises(media.MediaError, match=r"damaged: .* at byte"):
            media.probe(data)


def test_a_block_of_no_track_is_damage(webm):
    at = block(webm, 3)
    data = webm[: at + 2] + b"\x82" + webm[at + 3 :]
    with pytest.raises(media.MediaError, match="a block of a track that is not there"):
        media.probe(data)


def test_an_element_of_no_known_kind_is_said(webm):
    at = block(webm, 3)
    data = webm[:at] + b"\xa5" + webm[at + 1 :]
    found = media.probe(data)
    assert "of no known kind: left out" in found.notes[0] and found.frames == 6


def test_a_checksum_is_held_against_its_cluster():
    data = samples.encode(samples.moving(4))
    at = data.index(b"\x1f\x43\xb6\x75") + 60
    changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    with pytest.raises(media.MediaError, match="its checksum does not fit"):
        media.probe(changed)


@pytest.mark.parametrize("live", [{}, {"live": "1"}])
def test_a_matroska_that_is_cut_is_refused(live):
    data = samples.encode(samples.moving(6, 16, 16), muxer=live)
    end = data.index(b"\x1c\x53\xbb\x6b") if not live else len(data)
    for cut in (end - 1, end - 40, 300, 60, 41, 20):
        with pytest.raises(media.MediaError, match=r"truncated|damaged"):
            media.probe(data[:cut])


def test_bytes_after_the_end_are_said(webm, mp4):
    found = samples.animation("gif", EVERY_RED)
    for data in (webm, mp4, found):
        whole, longer = media.probe(data), media.probe(data + b"further" * 9)
        assert longer.frames == whole.frames
        assert len(longer.notes) == 1 and "left out" in longer.notes[0]


@pytest.mark.parametrize(
    "kind", [b"mdhd", b"stsd", b"stts", b"stsc", b"stsz", b"stco", b"hdlr", b"tkhd"]
)
def test_a_table_that_is_gone_is_damage(mp4, kind):
    with pytest.raises(media.MediaError, match=f"box '{kind.decode()}' .*is missing"):
        media.probe(replaced(mp4, kind, b"gone"))


def test_frames_have_to_lie_within_the_file(mp4):
    at = mp4.index(b"stsz") + 16 + 4 * 3  # the size of the fourth
    data = mp4[:at] + b"\x40\0\0\0" + mp4[at + 4 :]
    with pytest.raises(media.MediaError, match="frames lie outside of the file"):
        media.probe(data)
    at = mp4.index(b"stsz") + 12
    with pytest.raises(media.MediaError, match="table 'stsz' is cut"):
        media.probe(mp4[:at] + b"\x40\0\0\0" + mp4[at + 4 :])


def test_tables_that_do_not_agree_are_said(mp4):
    at = mp4.index(b"stts") + 12  # how many frames its first row is for
    data = mp4[: at + 3] + b"\x0d" + mp4[at + 4 :]
    assert "tables do not agree: 12 frames, 13 by stts" in media.probe(data).notes[0]


def test_what_an_edit_list_hides_is_said():
    hidden = (FAULTS / "trimmed_tail.mp4").read_bytes()
    found = media.probe(hidden)
    (note,) = [n for n in found.notes if "edit list" in n]
    left_out, count = (int(word) for word in note.split() if word.isdigit())
    assert count - left_out == found.frames


def test_a_fragment_whose_table_is_gone_is_said():
    options = samples.X264 | {"bf": "0", "g": "4"}
    fragments = {"movflags": "frag_keyframe+empty_moov"}
    data = samples.h264(samples.moving(12), options=options, muxer=fragments)
    found = media.probe(replaced(data, b"trun", b"gone", nth=1))
    assert "1 of its boxes are of no known kind: left out" in found.notes


def test_an_image_that_swallows_others_is_damage():
    data = samples.animation("gif", EVERY_RED)
    at = data.index(b"\x2c\0\0\0\0") + 11
    for size in (data[at] + 47, 200):
        changed = data[:at] + bytes([size]) + data[at + 1 :]
        with pytest.raises(media.MediaError, match="image 1 ends before its data do"):
            media.probe(changed)
    control = data.index(b"!\xf9\x04") + 2
    with pytest.raises(media.MediaError, match="damaged: a control of"):
        media.probe(data[:control] + b"\x60" + data[control + 1 :])


@pytest.mark.parametrize("colours", [2, 16, 256])
@pytest.mark.parametrize("side", [1, 7, 150])
def test_the_end_of_an_image_is_that_of_its_codes(colours, side):
    rng = np.random.default_rng(colours + side)
    frames = rng.integers(0, colours, (2, side, side, 1)).repeat(3, 3) * (
        255 // colours
    )
    data = samples.animation("gif", frames.astype(np.uint8))
    assert gif.walk(io.BytesIO(data), "x").notes == ()
    reader = gif._Window(io.BytesIO(data))
    at = data.index(b"\x2c\0\0\0\0") + 10
    at += gif._colours(data[at - 1])
    after, _, _ = gif._blocks(reader, at + 1)
    last = gif._end_of_codes(reader, at + 1, width=data[at], pixels=side * side)
    assert after - 4 <= last <= after - 2
