"""Parameters that are not in memory: to be computed, or still in their file."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import safetensors


@dataclasses.dataclass(frozen=True)
class LazyArray:
    """A parameter that is computed when it is written.

    Attributes:
      shape: shape of the whole.
      dtype: dtype in the file.
      parts: gives its parts along the first axis, in order.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    parts: Callable[[], Iterator[np.ndarray]]

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """A parameter that is still in its file; numpy takes it as an array.

    Attributes:
      path: the safetensors file.
      name: name in the file.
      shape: shape of the whole.
      dtype: dtype in the file.
    """

    path: pathlib.Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def read(self, index: tuple[slice, ...] | None = None) -> np.ndarray:
        """The part at `index`, one slice for every axis; all of it without."""
        with safetensors.safe_open(self.path, "np") as source:
            return source.get_slice(self.name)[index or ...]

    def __getitem__(self, row: int) -> np.ndarray:
        """Of a stack of layers, one."""
        rest = tuple(slice(None) for _ in self.shape[1:])
        return self.read((slice(row, row + 1), *rest))[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy
        return self.read() if dtype is None else self.read().astype(dtype)


@dataclasses.dataclass(frozen=True)
class LowRank:
    """What is added to a kernel `[in, out]`: `a @ b`, of `[in, r]` and `[r, out]`."""

    a: np.ndarray
    b: np.ndarray

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        """The part at `index`."""
        return self.a[index[0]] @ self.b[:, index[1]]


@dataclasses.dataclass(frozen=True)
class UpdatedArray:
    """A kernel, or a stack of them, to which something is added when it is read.

    Attributes:
      base: array of numpy, stored or updated.
      updates: by the number of a kernel in the stack; by None, where it is no stack.
    """

    base: Any
    updates: Mapping[int | None, LowRank]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.base.shape)

    @property
    def dtype(self) -> np.dtype:
        return self.base.dtype

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def read(self, index: tuple[slice, ...] | None = None) -> np.ndarray:
        """The part at `index`, one slice for every axis; all of it without."""
        index = index or tuple(slice(None) for _ in self.shape)
        lazy = isinstance(self.base, StoredArray | UpdatedArray)
        part = self.base.read(index) if lazy else np.asarray(self.base)[index]
        part = np.array(part, np.float32)
        if None in self.updates:
            part += self.updates[None].read(index)
        else:
            for row, number in enumerate(range(self.shape[0])[index[0]]):
                if number in self.updates:
                    part[row] += self.updates[number].read(index[1:])
        return part.astype(self.dtype)

    def __getitem__(self, row: int) -> np.ndarray:
        """Of a stack of layers, one."""
        rest = tuple(slice(None) for _ in self.shape[1:])
        return self.read((slice(row, row + 1), *rest))[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy
        return self.read() if dtype is None else self.read().astype(dtype)


def to_devices(params: Any, shardings: Any = None) -> Any:
    """Parameters on the default device, or in `shardings`; stored ones shard by shard.

    Args:
      params: tree of arrays of numpy or JAX, or stored.
      shardings: tree of their shardings; None for the default device.
    """

    def place(leaf: Any, sharding: Any = None) -> jax.Array:
        if not isinstance(leaf, StoredArray | UpdatedArray):
            return jax.device_put(leaf, sharding)
        if sharding is None:
            return jax.device_put(leaf.read())
        return jax.make_array_from_callback(leaf.shape, sharding, leaf.read)

    if shardings is None:
        return jax.tree.map(place, params)
    return jax.tree.map(place, params, shardings)
