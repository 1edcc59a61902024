"""TFRecord files and the protos in them, read without TensorFlow.

A record is framed by its length and two checksums (CRC-32C, masked):

    length  uint64, its checksum uint32, bytes, their checksum uint32 (little-endian)

An `Example` maps names to lists of values; a `TensorProto`, as
`tf.io.serialize_tensor` writes it, holds a type, a shape and the numbers' bytes.
"""

import functools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Shaped, UInt32

from data_pipelines import records

MAX_RECORD = 2**31  # bytes; a damaged length is not believed
_MASK = 0xA282EAD8
_LANES = 1024
_DTYPES = {1: np.float32, 2: np.float64, 14: ml_dtypes.bfloat16, 19: np.float16}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_frames(path: Path) -> Iterator[bytes]:
    """The records of a file.

    Raises:
      DatasetError: it is damaged or cut off, after the records that are not.
    """
    number = 0
    with path.open("rb") as file:
        while head := file.read(12):
            length = _checked_length(head)
            if length is None:
                raise records.DatasetError(
                    f"{path}: not a TFRecord file, or damaged after {number} records"
                )
            data, tail = file.read(length), file.read(4)
            if len(data) < length or len(tail) < 4:
                raise records.DatasetError(f"{path}: cut off after {number} records")
            if struct.unpack("<I", tail)[0] != mask(crc32c(data)):
                raise records.DatasetError(f"{path}: record {number} is damaged")
            yield data
            number += 1


def frame(data: bytes) -> bytes:
    """A record as it lies in a file."""
    length = struct.pack("<Q", len(data))
    sums = (struct.pack("<I", mask(crc32c(part))) for part in (length, data))
    return length + next(sums) + data + next(sums)


def _checked_length(head: bytes) -> int | None:
    if len(head) < 12:
        return None
    length, checksum = struct.unpack("<QI", head)
    good = checksum == mask(crc32c(head[:8])) and length <= MAX_RECORD
    return length if good else None


def mask(checksum: int) -> int:
    """A checksum as TFRecord files hold it."""
    return ((checksum >> 15 | checksum << 17) + _MASK) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of bytes.

    Many lanes advance together; two neighbours are joined by shifting the left one's
    state over the bytes of the right one, which is linear in its bits.
    """
    if len(data) < 4 * _LANES:
        state = np.full(1, 0xFFFFFFFF, np.uint32)
        for byte in data:
            state = _step(state, np.uint32(byte))
        return int(state[0]) ^ 0xFFFFFFFF
    length = -(-len(data) // _LANES)
    padded = np.zeros(length * _LANES, np.uint8)  # zeros before leave a state of 0
    start = len(padded) - len(data)
    padded[start:] = np.frombuffer(data, np.uint8)
    padded[start : start + 4] ^= 0xFF  # the state that it begins with
    state = np.zeros(_LANES, np.uint32)
    shift = np.left_shift(np.uint32(1), np.arange(32, dtype=np.uint32))
    for column in padded.reshape(_LANES, length).T:
        state = _step(state, column)
        shift = _step(shift, np.uint32(0))
    while len(state) > 1:
        state = _shifted(state[0::2], shift) ^ state[1::2]
        shift = _shifted(shift, shift)
    return int(state[0]) ^ 0xFFFFFFFF


@functools.cache
def _table() -> UInt32[np.ndarray, "256"]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(0x82F63B78), table >> 1)
    return table


def _step(state: UInt32[np.ndarray, "n"], byte: Any) -> UInt32[np.ndarray, "n"]:
    return _table()[(state ^ byte) & np.uint32(0xFF)] ^ state >> np.uint32(8)


def _shifted(
    state: UInt32[np.ndarray, "n"], shift: UInt32[np.ndarray, "32"]
) -> UInt32[np.ndarray, "n"]:
    """The states after zero bytes, given what becomes of each bit."""
    out = np.zeros_like(state)
    for bit in range(32):
        out ^= np.where(state >> np.uint32(bit) & 1, shift[bit], np.uint32(0))
    return out


def read_fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of every field of a proto; ints, or bytes.

    Raises:
      ValueError: it is no proto.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
        else:
            size = {_FIXED64: 8, _FIXED32: 4}.get(kind, 0)
            if kind == _BYTES:
                size, at = _varint(data, at)
            elif not size:
                raise ValueError(f"wire type {kind}")
            value, at = data[at : at + size], at + size
        if at > len(data):
            raise ValueError("a field is cut off")
        yield number, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a number is cut off")


def read_example(data: bytes) -> dict[str, bytes]:
    """The features of an `Example` that are single byte strings; ValueError if none."""
    found = {}
    for _, features in _fields(data, 1):
        for _, entry in _fields(features, 1):
            values = dict(read_fields(entry))
            for _, values_list in _fields(values.get(2, b""), 1):
                for _, value in _fields(values_list, 1):
                    if isinstance(value, bytes):
                        found[values[1].decode("utf-8")] = value
    if not found:
        raise ValueError("not an Example")
    return found


def _fields(data: bytes, number: int) -> Iterator[tuple[int, Any]]:
    return (field for field in read_fields(data) if field[0] == number)


def read_tensor(data: bytes) -> Shaped[np.ndarray, "..."]:
    """The array of a `TensorProto`.

    Raises:
      ValueError: it is none, of another type, or its bytes are not those of its shape.
    """
    fields = dict(read_fields(data))
    if fields.get(1) not in _DTYPES or not isinstance(fields.get(4), bytes):
        raise ValueError("not a tensor of floating point numbers")
    shape = [
        dict(read_fields(dim)).get(1, 0) for _, dim in _fields(fields.get(2, b""), 2)
    ]
    values = np.frombuffer(fields[4], np.dtype(_DTYPES[fields[1]]))
    return values.reshape(shape)
