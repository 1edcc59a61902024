"""How tensors of another project lie there, and how our parameters lie here.

An `Entry` ties one of our parameters to one tensor there, or to one per layer where
ours is the stack of them that a scan takes. A `TensorForm` turns one into the other.
What a device does not hold is not read: from the part of a parameter that is wanted
follows the part of each tensor that has it.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from soraflax.pretrained import io as model_io
from soraflax.weights import files

Index = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class TensorForm:
    """How a tensor lies there (`read` takes it) and here (`write` takes it).

    Attributes:
      read: theirs to ours.
      write: ours to theirs.
      axes: for every axis there the axis here that it is, so that a part can be read;
        None for one that is read whole.
    """

    read: Callable[[np.ndarray], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray]
    axes: tuple[int | None, ...] = ()

    def read_part(self, tensor: files.Tensor, index: Index) -> np.ndarray:
        """Our part at `index`, of as little of the tensor as has it."""
        axes = self.axes or (None,) * len(tensor.shape)
        source_index = tuple(slice(None) if a is None else index[a] for a in axes)
        rest = tuple(slice(None) if a in axes else part for a, part in enumerate(index))
        with np.errstate(over="ignore"):  # what is too large is found not finite
            return self.read(tensor.read(source_index))[rest].astype(
                np.float32, copy=False
            )


def einsum(theirs: str, ours: str) -> TensorForm:
    """Letters name axes; each is read in part."""
    return TensorForm(
        lambda a: np.einsum(f"{theirs}->{ours}", a),
        lambda a: np.einsum(f"{ours}->{theirs}", a),
        tuple(ours.index(letter) for letter in theirs),
    )


def reshape(theirs: tuple[int, ...], ours: tuple[int, ...]) -> TensorForm:
    """-1 stands for the channels, which are read in part; all else is 1."""
    axes = tuple(ours.index(-1) if size == -1 else None for size in theirs)
    return TensorForm(lambda a: a.reshape(ours), lambda a: a.reshape(theirs), axes)


VECTOR = reshape((-1,), (-1,))
KERNEL = einsum("oi", "io")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One parameter: our path, their name, and the form between them.

    Attributes:
      ours: path, 'a/b/kernel'.
      theirs: name; where there is one of every layer, '{}' stands for its number.
      form: of the tensor, or of that of one layer.
      layers: how many our parameter stacks along its first axis; None for no such axis.
    """

    ours: str
    theirs: str
    form: TensorForm
    layers: int | None = None

    def names(self) -> list[str]:
        """Of the tensors there."""
        if self.layers is None:
            return [self.theirs]
        return [self.theirs.format(layer) for layer in range(self.layers)]

    def write(self, parameter: Any) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
        """Names there and what makes each tensor; one layer at a time is fetched."""
        if self.layers is None:
            yield self.theirs, lambda: self.form.write(_to_host(parameter))
            return
        for layer, name in enumerate(self.names()):
            yield name, lambda layer=layer: self.form.write(_to_host(parameter[layer]))


def expected(
    entries: Sequence[Entry], shapes: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Something of the shape that every tensor should have there, by its name."""
    templates = {}
    for entry in entries:
        shape = tuple(shapes[entry.ours].shape)
        shape = shape if entry.layers is None else shape[1:]
        template = entry.form.write(np.broadcast_to(np.float32(0), shape))
        templates |= dict.fromkeys(entry.names(), template)
    return templates


def read(
    tensors: Mapping[str, files.Tensor],
    entries: Sequence[Entry],
    *,
    shapes: Mapping[str, Any],
    where: Any,
    shardings: Mapping[str, Sharding] | None = None,
) -> dict[str, Any]:
    """Our parameters by their path, float32, from tensors that are still in files.

    Args:
      tensors: by their name there.
      entries: of every parameter.
      shapes: of every parameter.
      where: what errors speak of.
      shardings: where each parameter goes; none gives arrays of numpy. On the host then
        never is more than one shard of one parameter, and one tensor of the file.

    Raises:
      ModelError: a tensor is missing, unknown, of another shape or not finite.
    """
    model_io.check_like(tensors, expected(entries, shapes), where=where)
    params: dict[str, Any] = {}
    for entry in entries:
        shape = tuple(shapes[entry.ours].shape)

        def part(index: Index, entry: Entry = entry) -> np.ndarray:
            return _read_part(tensors, entry, index=index, where=where)

        if shardings is None:
            params[entry.ours] = part(tuple(slice(0, size) for size in shape))
        else:
            params[entry.ours] = _to_devices(
                part, shape, sharding=shardings[entry.ours]
            )
    return params


def _read_part(
    tensors: Mapping[str, files.Tensor], entry: Entry, *, index: Index, where: Any
) -> np.ndarray:
    """The part at `index`, whose bounds are all given, layer by layer."""
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
        raise model_io.ModelError(f"{where}: {name} is not finite")
    return part


def _finite(array: np.ndarray) -> bool:
    """From the extremes: no array of flags as long as the parameter."""
    with np.errstate(invalid="ignore"):
        return not array.size or bool(np.isfinite([array.min(), array.max()]).all())


def _to_devices(
    part: Callable[[Index], np.ndarray], shape: tuple[int, ...], *, sharding: Sharding
) -> jax.Array:
    """A sharded array; every distinct part is read once and given to its devices."""
    holders: dict[tuple[tuple[int, int], ...], list[Any]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        bounds = [s.indices(n)[:2] for s, n in zip(index or (), shape, strict=True)]
        holders.setdefault(tuple(bounds), []).append(device)
    pieces = []
    for bounds, devices in holders.items():
        values = part(tuple(slice(*pair) for pair in bounds))
        pieces += jax.block_until_ready([jax.device_put(values, d) for d in devices])
    return jax.make_array_from_single_device_arrays(shape, sharding, pieces)


def _to_host(array: Any) -> np.ndarray:
    return np.asarray(jax.device_get(array))
