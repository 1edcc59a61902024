"""Parameters between files and devices, slice by slice and tensor by tensor.

Reading: a process reads the slices that its own devices hold, of one parameter at a
time, straight from `params.safetensors`. Writing: a parameter that is spread over
processes is gathered in pieces, of which one is on a device at a time, and each process
writes its part of the file. Nowhere is a model held as a whole.

`jax.device_put` of an array of the host with a sharding of several processes would
first compare it, copying all of it to every device once for each process.
"""

import contextlib
import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import NamedSharding, Sharding
from jax.sharding import PartitionSpec as P

from soraflax import buckets
from soraflax.pretrained import arrays, shared_file

Index = tuple[slice, ...]
PIECE_BYTES = 2**26  # about as much of a parameter is held beside its shards
DTYPES = {
    np.dtype(kind): name
    for kind, name in (
        (np.float64, "F64"),
        (np.float32, "F32"),
        (np.float16, "F16"),
        (ml_dtypes.bfloat16, "BF16"),
        (np.int64, "I64"),
        (np.int32, "I32"),
        (np.uint32, "U32"),
        (np.uint8, "U8"),
        (np.bool_, "BOOL"),
    )
}


def place(array: np.ndarray, sharding: Sharding) -> jax.Array:
    """An array of the host, the same in all processes, on the devices of a sharding."""
    array = np.asarray(array)
    return to_devices(array.__getitem__, array.shape, sharding=sharding)


def to_devices(
    part: Callable[[Index], np.ndarray], shape: tuple[int, ...], *, sharding: Sharding
) -> jax.Array:
    """A sharded array; every distinct shard is read once and copied to its devices."""
    holders: dict[tuple[tuple[int, int], ...], list[Any]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        bounds = [s.indices(n)[:2] for s, n in zip(index or (), shape, strict=True)]
        holders.setdefault(tuple(bounds), []).append(device)
    pieces: list[jax.Array] = []
    for bounds, devices in holders.items():
        values = part(tuple(slice(*pair) for pair in bounds))
        copies = [jax.device_put(values, d, may_alias=False) for d in devices]
        pieces += jax.block_until_ready(copies)
    return jax.make_array_from_single_device_arrays(shape, sharding, pieces)


def host_pieces(leaf: Any) -> Iterator[np.ndarray]:
    """An array in pieces along its first axis, on the host; alike in all processes.

    Nothing of a JAX array stays on the host, where `device_get` would keep all of it.
    """
    if isinstance(leaf, arrays.LazyArray):
        yield from map(np.ascontiguousarray, leaf.parts())
        return
    if not isinstance(leaf, jax.Array) or not leaf.ndim:
        yield np.ascontiguousarray(jax.device_get(leaf))
        return
    if leaf.is_fully_addressable or leaf.is_fully_replicated:
        yield from _pieces_held(leaf)
        return
    count, size = leaf.shape[0], _rows_of_piece(leaf)
    if leaf.sharding.shard_shape(leaf.shape)[0] != count:
        size = count  # a slice of a sharded axis would gather it all the same
    replicated = NamedSharding(leaf.sharding.mesh, P())  # pyright: ignore[reportAttributeAccessIssue]
    for start in range(0, count, size):
        piece = _gather(replicated, min(size, count - start))(leaf, start)
        yield np.ascontiguousarray(piece)


def _rows_of_piece(leaf: jax.Array) -> int:
    """Entries of the first axis in a piece of about `PIECE_BYTES`."""
    return max(1, PIECE_BYTES * leaf.shape[0] // max(1, leaf.nbytes))


def _pieces_held(leaf: jax.Array) -> Iterator[np.ndarray]:
    """The pieces of an array that this process holds all of, put together by shards."""
    count, size = leaf.shape[0], _rows_of_piece(leaf)
    shards = {}
    for shard in leaf.addressable_shards:
        bounds = [
            s.indices(n)[:2] for s, n in zip(shard.index, leaf.shape, strict=True)
        ]
        shards[tuple(bounds)] = shard.data
    for start in range(0, count, size):
        stop = min(start + size, count)
        piece = np.empty((stop - start, *leaf.shape[1:]), leaf.dtype)
        for ((first, last), *others), data in shards.items():
            low, high = max(start, first), min(stop, last)
            if low < high:
                place = (slice(low - start, high - start), *(slice(*o) for o in others))
                piece[place] = rows(data, low - first, stop=high - first)
        yield piece


def rows(data: jax.Array, start: int, *, stop: int) -> np.ndarray:
    """Entries of the first axis of an array on one device, which keeps no copy."""
    if data.device.platform == "cpu":  # pyright: ignore[reportAttributeAccessIssue]
        return np.asarray(data)[start:stop]  # of its own memory
    return np.asarray(_cut(stop - start)(data, start))


@functools.lru_cache
def _cut(size: int) -> Any:
    """Compiled: `size` entries of the first axis, from a start on."""
    return jax.jit(lambda x, start: jax.lax.dynamic_slice_in_dim(x, start, size))


@functools.lru_cache
def _gather(replicated: NamedSharding, size: int) -> Any:
    """Compiled: `size` entries of the first axis, from a start on, on every device."""
    return jax.jit(
        lambda x, start: jax.lax.dynamic_slice_in_dim(x, start, size),
        out_shardings=replicated,
    )


def write_tensors(
    path: buckets.Folder | None, leaves: Mapping[str, Any]
) -> tuple[str, list[str]]:
    """Write a safetensors file, one tensor after the other.

    Where parameters are spread over processes that see the file, each writes a part of
    its bytes (`shared_file`).

    Args:
      path: the file; None in all processes but the first.
      leaves: arrays by name, of numpy or of JAX, lazy ones too.

    Returns:
      Their digest (`io.digest`), and the names of those that are not finite.

    Raises:
      OSError: this process, or another, cannot write its part.
    """
    header, offset = {}, 0
    for name in sorted(leaves, key=lambda name: (-leaves[name].dtype.itemsize, name)):
        leaf = leaves[name]
        end = offset + math.prod(leaf.shape) * leaf.dtype.itemsize
        kind = DTYPES[np.dtype(leaf.dtype)]
        header[name] = {"dtype": kind, "shape": list(leaf.shape)}
        header[name]["data_offsets"] = [offset, end]
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    total, bad = hashlib.sha256(), []
    # Of one dtype, they are written in the order of the file.
    seeks = len({entry["dtype"] for entry in header.values()}) > 1
    with _writer(path, size=start + offset, leaves=leaves, seeks=seeks) as write:
        write(len(text).to_bytes(8, "little") + text, 0)
        for name in sorted(leaves):
            total.update(
                digest_line(name, dtype=leaves[name].dtype, shape=leaves[name].shape)
            )
            place = start + header[name]["data_offsets"][0]
            for piece in host_pieces(leaves[name]):
                total.update(widened(piece).data)
                if not is_finite(piece) and name not in bad:
                    bad.append(name)
                write(piece.view(np.uint8).data, place)
                place += piece.nbytes
    return total.hexdigest(), bad


@contextlib.contextmanager
def _writer(
    path: buckets.Folder | None,
    *,
    size: int,
    leaves: Mapping[str, Any],
    seeks: bool,
) -> Iterator[shared_file.Write]:
    """What writes this process's part of a file of `size` bytes."""
    if jax.process_count() > 1 and any(map(_is_spread, leaves.values())):
        shared = shared_file.seen_by_all(path, size=size)
        if shared is not None:
            with shared_file.writing(shared, size=size) as write_part:
                yield write_part
            return
    if path is None:
        yield lambda data, offset: None
        return
    with buckets.writing(path, seeks=seeks) as file:

        def write(data: Any, offset: int) -> None:
            if seeks:
                file.seek(offset)
            file.write(data)

        yield write


def _is_spread(leaf: Any) -> bool:
    """Whether all processes have to take part where an array is written."""
    if isinstance(leaf, arrays.LazyArray):
        return True
    return isinstance(leaf, jax.Array) and not leaf.is_fully_addressable


def read_part(part: Any, index: Index) -> np.ndarray:
    """A slice of a tensor in a file (of safetensors), float32 where it is bfloat16."""
    return widened(np.asarray(part[index] if index else part[...], order="C"))


def stored_digest(parts: Mapping[str, Any]) -> str:
    """The digest of tensors in a file (slices of safetensors), read in pieces."""
    total = hashlib.sha256()
    for name in sorted(parts):
        shape = tuple(parts[name].get_shape())
        row = 4 * math.prod(shape[1:])
        size = max(1, PIECE_BYTES // max(1, row))
        starts = range(0, shape[0], size) if shape else ()
        rows = (slice(start, min(start + size, shape[0])) for start in starts)
        pieces = (read_part(parts[name], (part,)) for part in rows)
        pieces = pieces if shape else (read_part(parts[name], ()),)
        for number, piece in enumerate(pieces):
            if number == 0:
                total.update(digest_line(name, dtype=piece.dtype, shape=shape))
            total.update(piece.data)
    return total.hexdigest()


def digest_line(name: str, *, dtype: Any, shape: Sequence[int]) -> bytes:
    """What the digest of a parameter has before its values."""
    wide = np.dtype(np.float32) if dtype == ml_dtypes.bfloat16 else np.dtype(dtype)
    return f"{name} {wide.str} {tuple(shape)}\n".encode()


def widened(array: np.ndarray) -> np.ndarray:
    """Without loss, bfloat16 as float32; others as they are."""
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array


def is_finite(array: np.ndarray) -> bool:
    """Whether all values are finite; integers are."""
    floating = jnp.issubdtype(array.dtype, np.floating)
    return not floating or bool(np.isfinite(array).all())
