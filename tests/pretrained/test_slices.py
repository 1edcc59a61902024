"""Parameters slice by slice: the same files, digests and values as of whole ones."""

import pathlib
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from jax.sharding import PartitionSpec as P

from soraflax import sharding
from soraflax.pretrained import io as model_io
from soraflax.pretrained import slices


def _params(*, half: bool = False) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    params: dict[str, Any] = {
        "stack": {"kernel": rng.standard_normal((5, 8, 4), dtype=np.float32)},
        "bias": rng.standard_normal(4, dtype=np.float32),
        "scale": np.asarray(2.0, np.float32),
    }
    if half:
        params["half"] = np.asarray(params["bias"], ml_dtypes.bfloat16)
    return params


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("count", [2**28, 100])
def test_a_file_written_in_pieces_is_that_of_safetensors(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, half: bool, count: int
) -> None:
    monkeypatch.setattr(slices, "PIECE_BYTES", count)
    flat = model_io.flatten(_params(half=half))
    digest, bad = slices.write_tensors(tmp_path / "ours", flat)
    safetensors.numpy.save_file(flat, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert (digest, bad) == (model_io.digest(_params(half=half)), [])


def _places() -> Any:
    mesh = sharding.make_mesh(fsdp=4, tensor=2)
    specs = {
        "stack": {"kernel": P(None, "fsdp", "tensor")},
        "bias": P("tensor"),
        "scale": P(),
        "half": P("fsdp"),
    }
    return jax.tree.map(lambda spec: jax.NamedSharding(mesh, spec), specs)


def test_what_is_read_sharded_is_what_was_saved(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "PIECE_BYTES", 100)
    params = _params(half=True)
    saved = model_io.save_model(tmp_path / "model", params, config={})
    got = model_io.load_sharded(tmp_path, like=params, shardings=_places())
    for name, leaf in model_io.named_leaves(got).items():
        expected = model_io.flatten(params)[name].astype(np.float32)
        np.testing.assert_array_equal(leaf, expected)
        assert leaf.dtype == np.float32
        assert leaf.sharding == model_io.flat_shapes(_places())[name]
    again = model_io.save_model(tmp_path / "again", got, config={})
    assert again == saved == model_io.model_digest(tmp_path)


def test_damage_is_refused(tmp_path: pathlib.Path) -> None:
    params = _params(half=True)
    model_io.save_model(tmp_path / "model", params, config={})
    path = tmp_path / "model" / model_io.PARAMS
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(model_io.ModelError, match="does not match the digest"):
        model_io.load_sharded(tmp_path, like=params, shardings=_places())


def test_what_is_not_finite_is_named_and_nothing_is_left(
    tmp_path: pathlib.Path,
) -> None:
    params = _params()
    params["stack"]["kernel"][3, 1, 1] = np.nan
    with pytest.raises(model_io.ModelError, match="stack/kernel is not finite"):
        model_io.save_model(tmp_path / "model", params, config={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spec", [P(), P("fsdp"), P(None, "tensor"), P("fsdp", None)])
@pytest.mark.parametrize("count", [2**28, 100])
def test_pieces_of_an_array_are_its_rows_and_no_copy_stays(
    monkeypatch: pytest.MonkeyPatch, spec: Any, count: int
) -> None:
    monkeypatch.setattr(slices, "PIECE_BYTES", count)
    mesh = sharding.make_mesh(fsdp=4, tensor=2)
    values = np.arange(8 * 6 * 4, dtype=np.float32).reshape(8, 6, 4)
    array = slices.place(values, jax.NamedSharding(mesh, spec))
    pieces = list(slices.host_pieces(array))
    assert len(pieces) == (1 if count > values.nbytes else 8)
    np.testing.assert_array_equal(np.concatenate(pieces), values)
    assert array._npy_value is None  # pyright: ignore[reportAttributeAccessIssue]


def test_rows_are_cut_on_a_device_that_is_not_the_host() -> None:
    values = np.arange(8 * 6, dtype=np.float32).reshape(8, 6)
    cut = slices._cut(3)(jax.device_put(values), 2)
    np.testing.assert_array_equal(cut, values[2:5])
