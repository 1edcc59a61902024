"""TFRecord files without TensorFlow: what was written is read, and damage is told."""

import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from data_pipelines import records
from data_pipelines.builders import tfrecords


def bytes_field(number: int, value: bytes) -> bytes:
    """A field of bytes in a proto; lengths up to 2 ** 28."""
    size, out = len(value), bytearray([number << 3 | 2])
    while size >= 0x80:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*out, size]) + value


def int_field(number: int, value: int) -> bytes:
    assert value < 0x80
    return bytes([number << 3, value])


def tensor(array: np.ndarray, kind: int) -> bytes:
    """As `tf.io.serialize_tensor` writes it: type, shape, contents."""
    dims = b"".join(bytes_field(2, int_field(1, size)) for size in array.shape)
    return int_field(1, kind) + bytes_field(2, dims) + bytes_field(4, array.tobytes())


def example(**features: bytes) -> bytes:
    entries = b"".join(
        bytes_field(
            1,
            bytes_field(1, name.encode())
            + bytes_field(2, bytes_field(1, bytes_field(1, value))),
        )
        for name, value in features.items()
    )
    return bytes_field(1, entries)


@pytest.mark.parametrize("size", [0, 1, 9, 4095, 4096, 5000, 100_003])
def test_checksums_are_those_of_the_polynomial(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    state = 0xFFFFFFFF
    for byte in data[:5000] if size <= 5000 else b"":
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    if size <= 5000:
        assert tfrecords.crc32c(data) == state ^ 0xFFFFFFFF
    flipped = bytes([*data[:-1], data[-1] ^ 1]) if data else b"x"
    assert tfrecords.crc32c(flipped) != tfrecords.crc32c(data)


def test_the_check_value_of_the_standard() -> None:
    assert tfrecords.crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize(
    ("kind", "dtype"), [(1, np.float32), (19, np.float16), (14, ml_dtypes.bfloat16)]
)
def test_examples_and_tensors_come_back(kind: int, dtype: type) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    features = tfrecords.read_example(
        example(latents=tensor(array, kind), other=b"\x00text")
    )
    np.testing.assert_array_equal(tfrecords.read_tensor(features["latents"]), array)
    assert features["other"] == b"\x00text"


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x0b", example(a=b"x")[:-1]])
def test_what_is_no_example_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        tfrecords.read_example(data)


def test_tensors_of_other_kinds_or_sizes_are_refused() -> None:
    good = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="floating point"):
        tfrecords.read_tensor(tensor(good, 3))
    with pytest.raises(ValueError, match="reshape"):
        tfrecords.read_tensor(tensor(good, 1).replace(b"\x08\x03", b"\x08\x04"))


def test_damage_ends_a_file_after_what_is_good(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    whole = tfrecords.frame(b"first") + tfrecords.frame(b"second" * 2000)
    path.write_bytes(whole)
    assert [len(record) for record in tfrecords.read_frames(path)] == [5, 12000]
    long = struct.pack("<Q", 2**40)
    cases = {
        "cut off after 1 records": whole[:-1],
        "record 1 is damaged": whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:],
        "not a TFRecord file": b"\x00" * 40,
        "damaged after 1 records": tfrecords.frame(b"first")
        + long
        + struct.pack("<I", tfrecords.mask(tfrecords.crc32c(long))),
    }
    for message, data in cases.items():
        path.write_bytes(data)
        with pytest.raises(records.DatasetError, match=message):
            list(tfrecords.read_frames(path))
