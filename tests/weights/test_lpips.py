import functools
import pathlib

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from soraflax.pretrained import io as model_io
from soraflax.weights import lpips
from tests.nn import lpips_params


@functools.cache
def _params():
    return lpips_params.random()


def _tensors(prefixed=False):
    return lpips_params.tensors(_params(), prefixed=prefixed)


def _write(path: pathlib.Path, tensors) -> pathlib.Path:
    safetensors.numpy.save_file(tensors, path)
    return path


def _same(params) -> None:
    assert jax.tree.structure(params) == jax.tree.structure(_params())
    jax.tree.map(np.testing.assert_array_equal, params, _params())
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}


@pytest.mark.parametrize("prefixed", [False, True])
def test_both_layouts_of_one_file_are_read(tmp_path, prefixed):
    unused = {
        "classifier.0.weight": np.zeros((2, 2), np.float32),
        "scaling_layer.shift": np.zeros((1, 3, 1, 1), np.float32),
    }
    path = _write(tmp_path / "all.safetensors", _tensors(prefixed) | unused)
    _same(lpips.load_lpips(path))


def test_a_directory_of_two_files_is_read(tmp_path):
    tensors = _tensors()
    heads = {k: v for k, v in tensors.items() if k.startswith("lin")}
    doubled = {k.replace("lin", "lins."): v for k, v in heads.items()}
    _write(tmp_path / "heads.safetensors", heads | doubled)
    convolutions = {k: v for k, v in tensors.items() if k not in heads}
    _write(tmp_path / "vgg16.safetensors", convolutions)
    (tmp_path / "vgg.pth").write_bytes(b"not read")
    _same(lpips.load_lpips(tmp_path))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32(tmp_path, dtype):
    tensors = {k: v.astype(dtype) for k, v in _tensors().items()}
    params = lpips.load_lpips(_write(tmp_path / "half.safetensors", tensors))
    for found, true in zip(
        jax.tree.leaves(params), jax.tree.leaves(_params()), strict=True
    ):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, true.astype(dtype).astype(np.float32))


def _without(name):
    return {k: v for k, v in _tensors().items() if k != name}


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        (lambda: _without("features.28.bias"), "features.28.bias is missing"),
        (lambda: _without("lin4.model.1.weight"), "lin4.model.1.weight is missing"),
        (
            lambda: _tensors() | {"features.30.bias": np.zeros(3, np.float32)},
            "features.30.bias is unknown",
        ),
        (
            lambda: _tensors() | {"features.0.bias": np.zeros(32, np.float32)},
            "features.0.bias has shape (32,), not (64,)",
        ),
        (
            lambda: _tensors() | {"features.0.bias": np.full(64, np.nan, np.float32)},
            "features.0.bias is not finite",
        ),
        (
            lambda: _tensors() | {"net.slice1.0.bias": np.ones(64, np.float32)},
            "features.0.bias is given twice, and differs",
        ),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path, tensors, complaint):
    path = _write(tmp_path / "bad.safetensors", tensors())
    with pytest.raises(model_io.ModelError) as error:
        lpips.load_lpips(path)
    assert complaint in str(error.value) and "\n" not in str(error.value)


def test_pickled_and_damaged_files_are_refused_with_a_hint(tmp_path):
    with pytest.raises(model_io.ModelError, match=r"not read; .*'vgg\.safetensors'"):
        lpips.load_lpips("vgg.pth")
    (tmp_path / "weights.pt").write_bytes(b"\x80\x02")
    with pytest.raises(model_io.ModelError, match=r"weights\.pt: .*safetensors"):
        lpips.load_lpips(tmp_path)
    (tmp_path / "broken.safetensors").write_bytes(b"12345678")
    with pytest.raises(model_io.ModelError, match="not a readable safetensors"):
        lpips.load_lpips(tmp_path)


def test_a_path_without_weights_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        lpips.load_lpips(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"no \.safetensors files"):
        lpips.load_lpips(tmp_path)
