"""Safetensors files of other projects; pickled checkpoints are named and refused.

A large model is several files, shards, and an index, STEM.safetensors.index.json, that
maps each tensor to its file. Tensors can be read part by part.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from soraflax.pretrained import io as model_io

SAFE = ".safetensors"
INDEX = ".safetensors.index.json"
MAX_SHARD_BYTES = 5 * 2**30
DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}
# Those that safetensors' own reader for numpy does not know.
MAPPED = ("F8_E4M3", "F8_E5M2")
PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
CONVERT = (
    'convert it once, where PyTorch is: python -c "import torch, safetensors.torch as '
    "s; w = torch.load('{name}', weights_only=True, map_location='cpu'); s.save_file("
    "{{k: v.clone().contiguous() for k, v in w.items()}}, '{stem}.safetensors')\""
)


def find_files(path: str | os.PathLike[str]) -> list[pathlib.Path]:
    """The safetensors files at a path: itself, or all of a directory, by name.

    Raises:
      FileNotFoundError: nothing there.
      ModelError: only pickled files, with a way to convert them.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() in PICKLED:
        raise model_io.ModelError(f"{path}: {_pickled(path)}")
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or directory")
    if files := sorted(path.glob(f"*{SAFE}")):
        return files
    for file in sorted(path.iterdir()):
        if file.suffix.lower() in PICKLED:
            raise model_io.ModelError(f"{file}: {_pickled(file)}")
    raise FileNotFoundError(f"{path}: no {SAFE} files in it")


def read(file: pathlib.Path) -> dict[str, np.ndarray]:
    """Every tensor of one file, in the dtype it has.

    Raises:
      ModelError: it is damaged, or no safetensors file.
    """
    try:
        return safetensors.numpy.load_file(file)
    except (safetensors.SafetensorError, OSError, KeyError) as error:
        raise _unreadable(file, error) from None


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that is still in its file.

    Attributes:
      shape: shape of the whole tensor.
      dtype: dtype in the file.
      source: array, or slice object of safetensors, that is indexed for a part.
    """

    shape: tuple[int, ...]
    dtype: Any
    source: Any

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        """The part at `index`, one slice for every axis; the rest is not read."""
        return self.source[index] if index else self.source[...]


def in_memory(tensors: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Arrays in memory as tensors."""
    return {name: Tensor(a.shape, a.dtype, a) for name, a in tensors.items()}


def open_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Every tensor at a path, by name; only headers are read.

    Args:
      path: a safetensors file, or a directory of them. If the directory has an index,
        the model is the files that the index names.

    Raises:
      FileNotFoundError: nothing there, or a file of the index is missing.
      ModelError: a damaged file, a tensor twice or of integers, an index that differs
        from the contents of its files, or only pickled files.
    """
    folder = pathlib.Path(path)
    indices = sorted(folder.glob(f"*{INDEX}")) if folder.is_dir() else []
    if len(indices) > 1:
        names = " and ".join(index.name for index in indices[:2])
        raise model_io.ModelError(f"{folder}: has {names}; remove all but one")
    weight_map = _read_index(indices[0]) if indices else {}
    tensors: dict[str, Tensor] = {}
    named = sorted({folder / name for name in weight_map.values()})
    for file in named or find_files(path):
        for name, tensor in _open(file).items():
            if name in tensors:
                raise model_io.ModelError(f"{file}: {name} is in another file as well")
            if weight_map and weight_map.get(name) != file.name:
                raise model_io.ModelError(
                    f"{indices[0]}: says nothing of {name} in {file.name}"
                )
            tensors[name] = tensor
    if absent := sorted(weight_map.keys() - tensors.keys()):
        file = folder / weight_map[absent[0]]
        raise model_io.ModelError(
            f"{file}: {absent[0]} is missing, which {INDEX} names"
        )
    return tensors


def _open(file: pathlib.Path) -> dict[str, Tensor]:
    """The tensors of one file."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: missing, though the index names it")
    try:
        source = safetensors.safe_open(file, "np")
        slices = {name: source.get_slice(name) for name in source.offset_keys()}
        kinds = {name: part.get_dtype() for name, part in slices.items()}
    except (safetensors.SafetensorError, OSError, KeyError) as error:
        raise _unreadable(file, error) from None
    for name, kind in kinds.items():
        if kind not in DTYPES:
            raise model_io.ModelError(
                f"{file}: {name} is of {kind}; those read: {', '.join(DTYPES)}"
            )
    offsets = _offsets(file) if set(kinds.values()) & set(MAPPED) else {}
    tensors = {}
    for name, part in slices.items():
        shape, dtype = tuple(part.get_shape()), np.dtype(DTYPES[kinds[name]])
        if kinds[name] in MAPPED:
            values = np.memmap(file, np.uint8, "r", offsets[name], shape or (1,))
            part = values.view(dtype).reshape(shape)
        tensors[name] = Tensor(shape, dtype, part)
    return tensors


def _offsets(file: pathlib.Path) -> dict[str, int]:
    """Where in a safetensors file each tensor begins."""
    with open(file, "rb") as source:
        size = int.from_bytes(source.read(8), "little")
        header = json.loads(source.read(size))
    return {
        name: 8 + size + entry["data_offsets"][0]
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _read_index(path: pathlib.Path) -> dict[str, str]:
    """The map from tensors to names of files in the folder of the index."""
    weight_map = read_config(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise model_io.ModelError(f"{path}: has no weight_map")
    for name in weight_map.values():
        if not isinstance(name, str) or pathlib.PurePath(name).name != name:
            raise model_io.ModelError(f"{path}: {name!r} is no file beside it")
    return weight_map


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor to write, computed when its file is written.

    Attributes:
      name: name in the file.
      size: in bytes.
      make: function that computes it; called once.
    """

    name: str
    size: int
    make: Callable[[], np.ndarray]


def write(
    folder: pathlib.Path,
    stem: str,
    *,
    tensors: Iterable[LazyTensor],
    max_shard_bytes: int,
) -> list[pathlib.Path]:
    """Write tensors to one file, or to several and an index.

    Args:
      folder: an existing folder.
      stem: stem of the files' names.
      tensors: tensors in order; those of one file are in memory at a time.
      max_shard_bytes: most bytes of a file, unless one tensor is larger.

    Returns:
      The files, without the index.
    """
    parts: list[list[LazyTensor]] = [[]]
    for tensor in tensors:
        if parts[-1] and sum(t.size for t in parts[-1]) + tensor.size > max_shard_bytes:
            parts.append([])
        parts[-1].append(tensor)
    count = len(parts)
    names = [
        f"{stem}-{number:05d}-of-{count:05d}{SAFE}" for number in range(1, count + 1)
    ]
    if count == 1:
        names = [f"{stem}{SAFE}"]
    for name, part in zip(names, parts, strict=True):
        arrays = {t.name: np.ascontiguousarray(t.make()) for t in part}
        safetensors.numpy.save_file(arrays, folder / name, {"format": "pt"})
    if count > 1:
        weight_map = {
            t.name: n for n, part in zip(names, parts, strict=True) for t in part
        }
        total = sum(t.size for part in parts for t in part)
        values = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / f"{stem}{INDEX}").write_text(json.dumps(values, indent=2) + "\n")
    return [folder / name for name in names]


def read_config(path: pathlib.Path) -> dict[str, object]:
    """A JSON object.

    Raises:
      FileNotFoundError: no such file.
      ModelError: it holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it belongs to the weights")
    try:
        values = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise model_io.ModelError(f"{path}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise model_io.ModelError(f"{path}: not a JSON object")
    return values


def _unreadable(file: pathlib.Path, error: Exception) -> model_io.ModelError:
    return model_io.ModelError(f"{file}: not a readable safetensors file ({error})")


def _pickled(path: pathlib.Path) -> str:
    hint = CONVERT.format(name=path, stem=path.with_suffix(""))
    return f"pickled files can run code and are not read; {hint}"
