"""A map between the tensors of another project's checkpoint and our parameters.

An `Entry` ties one of our parameters to one of their tensors, or to one per layer where
ours is stacked for a scan. A `TensorForm` converts between the two layouts. A device
reads its shard alone: the slice of a parameter determines the slices of tensors.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np
from jax.sharding import Sharding

from soraflax.pretrained import arrays, slices
from soraflax.pretrained import io as model_io
from soraflax.weights import files

Index = slices.Index
# Dtypes of which bfloat16 holds every value.
SHORT = tuple(
    np.dtype(dtype)
    for dtype in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)
)


@dataclasses.dataclass(frozen=True)
class TensorForm:
    """The conversion between their layout of a tensor and ours.

    Attributes:
      read: their layout to ours.
      write: our layout to theirs.
      axes: for each of their axes our axis that is the same, so that a slice of it can
        be read; None for an axis that is read whole.
    """

    read: Callable[[np.ndarray], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray]
    axes: tuple[int | None, ...] = ()

    def read_part(self, tensor: files.Tensor, index: Index) -> np.ndarray:
        """The slice `index` of our parameter, read from as little of the tensor.

        Axes in common are sliced in the file, the others after conversion.
        """
        axes = self.axes or (None,) * len(tensor.shape)
        source_index = tuple(slice(None) if a is None else index[a] for a in axes)
        rest = tuple(slice(None) if a in axes else part for a, part in enumerate(index))
        with np.errstate(over="ignore"):  # overflow to inf is refused by the caller
            return self.read(tensor.read(source_index))[rest].astype(
                np.float32, copy=False
            )


def einsum(theirs: str, ours: str) -> TensorForm:
    """A permutation of axes, which letters name; every axis can be read in part."""
    return TensorForm(
        lambda a: np.einsum(f"{theirs}->{ours}", a),
        lambda a: np.einsum(f"{ours}->{theirs}", a),
        tuple(ours.index(letter) for letter in theirs),
    )


def reshape(theirs: tuple[int, ...], ours: tuple[int, ...]) -> TensorForm:
    """A reshape in which -1 is the channels, read in part, and other axes are 1."""
    axes = tuple(ours.index(-1) if size == -1 else None for size in theirs)
    return TensorForm(lambda a: a.reshape(ours), lambda a: a.reshape(theirs), axes)


VECTOR = reshape((-1,), (-1,))
KERNEL = einsum("oi", "io")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One parameter: our path, their name, and the conversion.

    Attributes:
      ours: our path, 'a/b/kernel'.
      theirs: their name; '{}' is the number of a layer, if each has a tensor.
      form: conversion of the tensor, or of the tensor of one layer.
      layers: number of layers stacked along our first axis; None without such an axis.
    """

    ours: str
    theirs: str
    form: TensorForm
    layers: int | None = None

    def names(self) -> list[str]:
        """Names of their tensors."""
        if self.layers is None:
            return [self.theirs]
        return [self.theirs.format(layer) for layer in range(self.layers)]

    def write(self, parameter: Any) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
        """Their names, with functions that compute the tensors, a layer at a time."""
        if self.layers is None:
            yield self.theirs, lambda: self.form.write(_to_host(parameter))
            return
        for layer, name in enumerate(self.names()):
            yield name, lambda layer=layer: self.form.write(_to_host(parameter[layer]))


def expected(
    entries: Sequence[Entry], shapes: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """An array of the expected shape of each of their tensors, by its name."""
    templates = {}
    for entry in entries:
        shape = tuple(shapes[entry.ours].shape)
        shape = shape if entry.layers is None else shape[1:]
        template = entry.form.write(np.broadcast_to(np.float32(0), shape))
        templates |= dict.fromkeys(entry.names(), template)
    return templates


def lazy_tensors(
    params: Any, entries: Sequence[Entry], *, shapes: Any
) -> list[files.LazyTensor]:
    """Their tensors to write, in the dtypes of ours, each computed then.

    Args:
      params: our parameters, of numpy or JAX; sharded ones are fetched a layer at a
        time.
      entries: entries of every parameter.
      shapes: tree of the shapes that parameters must have.

    Raises:
      ModelError: parameters are missing, unknown or of another shape.
    """
    leaves = model_io.flat_shapes(params)
    model_io.check_like(leaves, shapes, origin="parameters")
    found = []
    for entry in entries:
        leaf = leaves[entry.ours]
        size = leaf.size * leaf.dtype.itemsize // (entry.layers or 1)
        found += [
            files.LazyTensor(name, size, make) for name, make in entry.write(leaf)
        ]
    return found


def read(
    tensors: Mapping[str, files.Tensor],
    entries: Sequence[Entry],
    *,
    shapes: Mapping[str, Any],
    origin: Any,
    shardings: Mapping[str, Sharding] | None = None,
) -> dict[str, Any]:
    """Our parameters by their path, float32, from tensors that are still in files.

    Args:
      tensors: tensors by their names.
      entries: entries of every parameter.
      shapes: shapes of every parameter, by path.
      origin: name of the source in errors.
      shardings: sharding of each parameter, by path; None gives arrays of numpy. With
        shardings the host holds one shard of one parameter at a time.

    Raises:
      ModelError: a tensor is missing, unknown, of another shape or not finite.
    """
    model_io.check_like(tensors, expected(entries, shapes), origin=origin)
    params: dict[str, Any] = {}
    for entry in entries:
        shape = tuple(shapes[entry.ours].shape)

        def part(index: Index, entry: Entry = entry) -> np.ndarray:
            return _read_part(tensors, entry, index=index, origin=origin)

        if shardings is None:
            params[entry.ours] = part(tuple(slice(0, size) for size in shape))
        else:
            params[entry.ours] = slices.to_devices(
                part, shape, sharding=shardings[entry.ours]
            )
    return params


def lazy(
    tensors: Mapping[str, files.Tensor],
    entries: Sequence[Entry],
    *,
    shapes: Mapping[str, Any],
    origin: Any,
) -> dict[str, arrays.LazyArray]:
    """Our parameters by their path, each read, a layer at a time, when it is written.

    They are bfloat16 where all of their tensors have no more digits, else float32.

    Args:
      tensors, entries, shapes, origin: as of `read`.

    Raises:
      ModelError: a tensor is missing, unknown or of another shape; when it is read,
        that it is not finite.
    """
    model_io.check_like(tensors, expected(entries, shapes), origin=origin)
    params = {}
    for entry in entries:
        shape = tuple(shapes[entry.ours].shape)
        short = all(tensors[name].dtype in SHORT for name in entry.names())
        dtype = np.dtype(ml_dtypes.bfloat16 if short else np.float32)

        def parts(
            entry: Entry = entry, shape: tuple[int, ...] = shape, dtype: Any = dtype
        ) -> Iterator[np.ndarray]:
            rest = tuple(slice(0, size) for size in shape[1:])
            rows = [slice(0, shape[0])]
            if entry.layers is not None:
                rows = [slice(layer, layer + 1) for layer in range(entry.layers)]
            for row in rows:
                index = (row, *rest)
                part = _read_part(tensors, entry, index=index, origin=origin)
                yield part.astype(dtype, copy=False)

        params[entry.ours] = arrays.LazyArray(shape, dtype, parts)
    return params


def _read_part(
    tensors: Mapping[str, files.Tensor], entry: Entry, *, index: Index, origin: Any
) -> np.ndarray:
    """The slice `index`, with all bounds given, of a parameter, layer by layer."""
    part = np.empty([s.stop - s.start for s in index], np.float32)
    if entry.layers is None:
        part[...] = entry.form.read_part(tensors[entry.theirs], index)
        names = [entry.theirs]
    else:
        names = entry.names()[index[0]]
        for layer, name in enumerate(names):
            part[layer] = entry.form.read_part(tensors[name], index[1:])
    rows = [part] if entry.layers is None else part
    bad = (name for name, row in zip(names, rows, strict=True) if not _finite(row))
    if (name := next(bad, None)) is not None:
        raise model_io.ModelError(f"{origin}: {name} is not finite")
    return part


def _finite(array: np.ndarray) -> bool:
    """Whether all values are finite, by the extremes: `isfinite` would need memory."""
    with np.errstate(invalid="ignore"):
        return not array.size or bool(np.isfinite([array.min(), array.max()]).all())


def _to_host(array: Any) -> np.ndarray:
    return np.asarray(jax.device_get(array) if isinstance(array, jax.Array) else array)
