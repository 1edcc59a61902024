import jax
import jax.numpy as jnp
import numpy as np

from soraflax.ops import norm


def test_rms_norm_has_unit_mean_square(key):
    x = 5.0 * jax.random.normal(key, (4, 64)) + 3.0
    y = norm.rms_norm(x, jnp.ones(64))
    np.testing.assert_allclose(jnp.mean(y**2, axis=-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(norm.rms_norm(x, jnp.full(64, 2.0)), 2.0 * y, rtol=1e-6)


def test_layer_norm_standardises_then_scales(key):
    x = 5.0 * jax.random.normal(key, (4, 64)) + 3.0
    y = norm.layer_norm(x)
    np.testing.assert_allclose(jnp.mean(y, axis=-1), 0.0, atol=1e-6)
    np.testing.assert_allclose(jnp.std(y, axis=-1), 1.0, rtol=1e-5)
    z = norm.layer_norm(x, jnp.full(64, 2.0), bias=jnp.ones(64))
    np.testing.assert_allclose(z, 2.0 * y + 1.0, rtol=1e-5, atol=1e-6)


def test_low_precision_in_computes_in_float32(key):
    x = (100.0 + jax.random.normal(key, (2, 256))).astype(jnp.bfloat16)
    y = norm.layer_norm(x)
    exact = norm.layer_norm(x.astype(jnp.float32))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))


def test_the_backward_pass_keeps_the_input_alone(key):
    x = jax.random.normal(key, (4, 64))
    for f in (lambda x: norm.rms_norm(x, jnp.ones(64)), norm.layer_norm):
        residuals = jax.tree.leaves(jax.vjp(f, x)[1])
        assert sum(leaf.shape == x.shape for leaf in residuals) == 1
