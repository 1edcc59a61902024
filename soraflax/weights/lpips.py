"""LPIPS weights from safetensors files, onto the parameters of `nn.perceptual`.

Two things are needed: the convolutions of a VGG16 and the five linear heads. They may
be in one file or in several of one directory, under the names that are in use:

    features.N.weight, features.N.bias          VGG16 as torchvision names it; or
    net.sliceK.N.weight, net.sliceK.N.bias      inside the lpips package; N is the same
    lin{k}.model.1.weight                       heads k = 0..4; or lins.{k}.model.1...

A classifier's last layers and the package's own constants may be there and are not
needed; anything else is refused. Pickled checkpoints are never read.
"""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from soraflax.nn import perceptual
from soraflax.pretrained import io as model_io
from soraflax.weights import files

_CONVOLUTION = re.compile(r"(?:features|net\.slice\d)\.(\d+)\.(weight|bias)")
_HEAD = re.compile(r"(?:lin|lins\.)(\d)\.model\.1\.weight")
_UNUSED = re.compile(r"(classifier|pre_logits|head|scaling_layer)\..*")


def load_lpips(path: str | os.PathLike[str]) -> Any:
    """Read LPIPS parameters, float32 numpy arrays, as `perceptual.distance` takes them.

    Args:
      path: a safetensors file, or a directory of such files.

    Raises:
      FileNotFoundError: nothing there.
      ModelError: pickled or damaged files, or tensors missing, unknown, given twice
        and unequal, of another shape, or not finite; the first few are named.
    """
    tensors: dict[str, np.ndarray] = {}
    for file in files.find_files(path):
        for name, tensor in _canonical(files.read(file)):
            earlier = tensors.setdefault(name, tensor)
            if earlier is not tensor and not np.array_equal(earlier, tensor):
                raise model_io.ModelError(f"{file}: {name} is given twice, and differs")
    model_io.check_like(tensors, _expected(), origin=path)
    model_io.check_finite(tensors, origin=path)
    stages = [
        [
            {
                "kernel": np.ascontiguousarray(
                    np.einsum("oihw->hwio", tensors[f"features.{index}.weight"])
                ),
                "bias": tensors[f"features.{index}.bias"],
            }
            for index in stage
        ]
        for stage in _positions()
    ]
    heads = [tensors[f"lin{k}.model.1.weight"].reshape(-1) for k in range(len(stages))]
    return {"stages": stages, "heads": heads}


def _positions() -> list[list[int]]:
    """N of each convolution, stage by stage.

    torchvision counts layers: a convolution and its rectifier are two, a pool is one.
    """
    stages, index = [], 0
    for widths in perceptual.STAGES:
        stages.append([index + 2 * k for k in range(len(widths))])
        index += 2 * len(widths) + 1
    return stages


def _expected() -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of all tensors, by the first of the names in the module docstring."""

    def leaf(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, np.float32)

    expected, channels = {}, 3
    for k, (widths, stage) in enumerate(
        zip(perceptual.STAGES, _positions(), strict=True)
    ):
        for index, width in zip(stage, widths, strict=True):
            expected[f"features.{index}.weight"] = leaf(width, channels, 3, 3)
            expected[f"features.{index}.bias"] = leaf(width)
            channels = width
        expected[f"lin{k}.model.1.weight"] = leaf(1, channels, 1, 1)
    return expected


def _canonical(
    tensors: Mapping[str, np.ndarray],
) -> Iterator[tuple[str, np.ndarray]]:
    """Tensors under the first of the names in the module docstring, in float32."""
    for name, tensor in tensors.items():
        if _UNUSED.fullmatch(name):
            continue
        if match := _CONVOLUTION.fullmatch(name):
            name = f"features.{match[1]}.{match[2]}"
        elif match := _HEAD.fullmatch(name):
            name = f"lin{match[1]}.model.1.weight"
        yield name, tensor.astype(np.float32)
