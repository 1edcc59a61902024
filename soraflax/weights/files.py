"""Safetensors files of other projects; pickled checkpoints are named and refused."""

import json
import os
import pathlib

import numpy as np
import safetensors
import safetensors.numpy

from soraflax import model_io

SAFE = ".safetensors"
PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
CONVERT = (
    'convert it once, where PyTorch is: python -c "import torch, safetensors.torch as '
    "s; w = torch.load('{name}', weights_only=True, map_location='cpu'); s.save_file("
    "{{k: v.clone().contiguous() for k, v in w.items()}}, '{stem}.safetensors')\""
)


def find(path: str | os.PathLike[str]) -> list[pathlib.Path]:
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
    if found := sorted(path.glob(f"*{SAFE}")):
        return found
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
        raise model_io.ModelError(
            f"{file}: not a readable safetensors file ({error})"
        ) from None


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
    except ValueError as error:
        raise model_io.ModelError(f"{path}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise model_io.ModelError(f"{path}: not a JSON object")
    return values


def _pickled(path: pathlib.Path) -> str:
    hint = CONVERT.format(name=path, stem=path.with_suffix(""))
    return f"pickled files can run code and are not read; {hint}"
