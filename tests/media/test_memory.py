"""Memory does not grow with the number of frames, nor with the size of a file."""

import gc
import os
import pathlib
import struct
import subprocess
import sys

import numpy as np
import pytest

from soraflax import media
from tests.media import samples

HOLE = 5 * 10**9  # bytes
_READ = """
import resource, sys
from soraflax import media
from soraflax.media import guard

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def read(path):
    with media.open_frames(path) as stream:
        return sum(1 for _ in stream)

small, large = sys.argv[1:]
read(small), media.probe(small)
before = peak()
print(read(large), media.probe(large).frames, (peak() - before) / 1024)
"""


def growth(small: pathlib.Path, large: pathlib.Path) -> tuple[int, float]:
    """Frames of a large file, and MiB that reading it takes beside a small one."""
    done = subprocess.run(
        [sys.executable, "-c", _READ, str(small), str(large)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    streamed, probed, megabytes = done.stdout.split()
    assert streamed == probed
    return int(streamed), float(megabytes)


def gif(frames: int, side: int) -> bytes:
    """Frames that each change a corner of a black square."""
    few = np.zeros((3, side, side, 3), np.uint8)
    few[1, :2, :2], few[2, :2, :2] = 255, 128
    data = samples.animation("gif", few)
    at = [i for i in range(len(data)) if data[i : i + 3] == b"!\xf9\x04"]
    head, first, second, end = (*at, len(data) - 1)[:4]
    pair = data[first:end]
    assert second > first > head
    return data[:first] + pair * ((frames - 1) // 2) + data[end:]


def test_a_gif_of_ten_thousand_frames(tmp_path):
    for name, count in (("small", 11), ("large", 10_001)):
        (tmp_path / name).write_bytes(gif(count, 64))
    frames, megabytes = growth(tmp_path / "small", tmp_path / "large")
    assert frames == 10_001
    assert megabytes < 24  # of 117 that its frames take


def spread(data: bytes) -> tuple[bytes, bytes]:
    """What is before and after a hole in an mp4, whose frames lie behind it."""
    at = data.index(b"mdat") - 4
    path = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stco")
    after, where, grown = bytearray(data[at:]), 0, []
    for kind in path:
        where = after.index(kind, where)
        grown.append(where - 4)
    count = struct.unpack(">I", after[where + 8 : where + 12])[0]
    places = struct.unpack(f">{count}I", after[where + 12 : where + 12 + 4 * count])
    for place in grown:
        (size,) = struct.unpack(">I", after[place : place + 4])
        after[place : place + 4] = struct.pack(">I", size + 4 * count)
    after[where : where + 4] = b"co64"
    wide = struct.pack(f">{count}Q", *(place + 16 + HOLE for place in places))
    after[where + 12 : where + 12 + 4 * count] = wide
    return data[:at] + struct.pack(">I4sQ", 1, b"free", 16 + HOLE), bytes(after)


def test_a_file_of_five_gigabytes(tmp_path):
    data = samples.h264()
    before, after = spread(data)
    (tmp_path / "small").write_bytes(data)
    with open(tmp_path / "large", "wb") as file:
        file.write(before)
        file.seek(HOLE, os.SEEK_CUR)  # takes no room on the disk
        file.write(after)
    frames, megabytes = growth(tmp_path / "small", tmp_path / "large")
    assert frames == 12 and megabytes < 16


SAMPLES = {
    "mp4": samples.h264,
    "turned mp4": lambda: samples.with_matrix(0.0, 1.0, -1.0, 0.0),
    "png": lambda: samples.picture("png"),
    "turned jpeg": lambda: samples.oriented("jpeg", 6),
    "gif": lambda: samples.animation("gif", samples.moving()),
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_frames_are_freed_without_the_collector_of_cycles(kind):
    data = SAMPLES[kind]()
    media.decode(data)
    gc.collect()
    gc.disable()
    try:
        media.decode(data)
        assert gc.collect() == 0
    finally:
        gc.enable()
