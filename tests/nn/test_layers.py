"""The layers against their formulas, in both dtypes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from soraflax.nn import layers


def run(module, x, key) -> tuple[Any, Any]:
    params = meta.unbox(module.init(key, x)).get("params", {})
    return params, module.apply({"params": params}, x)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_linear_keeps_float32_parameters(key, dtype):
    x = jax.random.normal(key, (2, 3, 4))
    module = layers.Linear(5, dtype=dtype, bias_init=jax.nn.initializers.normal())
    params, y = run(module, x, key)
    assert y.dtype == dtype
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    expected = np.asarray(x) @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
    tolerance = 1e-6 if dtype == jnp.float32 else 5e-2
    np.testing.assert_allclose(y.astype(jnp.float32), expected, atol=tolerance)


def test_linear_without_bias_has_none(key):
    params, _ = run(layers.Linear(5, use_bias=False), jnp.ones((1, 4)), key)
    assert list(params) == ["kernel"]


def test_linear_names_its_axes(key):
    module = layers.Linear(6, axes=("heads", "embed"))
    boxed: Any = module.init(key, jnp.ones((1, 4)))["params"]
    assert boxed["kernel"].names == ("heads", "embed")
    assert boxed["bias"].names == ("embed",)


def test_norms_start_as_the_plain_norm(key):
    x = 3 + 2 * jax.random.normal(key, (5, 64))
    _, rms = run(layers.RMSNorm(), x, key)
    np.testing.assert_allclose(np.mean(np.square(rms), -1), 1, rtol=1e-4)
    plain, layer = run(layers.LayerNorm(), x, key)
    assert not plain
    _, affine = run(layers.LayerNorm(affine=True), x, key)
    np.testing.assert_array_equal(layer, affine)
    np.testing.assert_allclose(np.mean(layer, -1), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(layer, -1), 1, rtol=1e-4)


def test_norms_compute_in_float32(key):
    x = 100 + jax.random.normal(key, (5, 64))
    half = x.astype(jnp.bfloat16)
    _, y = run(layers.LayerNorm(), half, key)
    _, expected = run(layers.LayerNorm(), half.astype(jnp.float32), key)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, expected.astype(jnp.bfloat16))


def test_embed_looks_up_rows(key):
    ids = jnp.array([[0, 3], [3, 1]])
    params, y = run(layers.Embed(4, 6), ids, key)
    np.testing.assert_array_equal(y, np.asarray(params["table"])[np.asarray(ids)])


def test_bfloat16_on_a_cpu_is_in_products_alone(key):
    assert layers.compute_dtype("bfloat16") == layers.ROUNDED
    assert layers.compute_dtype("float32") == jnp.float32
    x = jax.random.normal(key, (3, 8))
    params, y = run(layers.Linear(5, dtype=layers.ROUNDED), x, key)
    rounded = [
        a.astype(jnp.bfloat16).astype(jnp.float32) for a in (x, params["kernel"])
    ]
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, rounded[0] @ rounded[1], rtol=1e-5, atol=1e-6)
