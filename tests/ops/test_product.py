import jax
import jax.numpy as jnp
import numpy as np

from soraflax.ops import product


def inputs(key):
    keys = jax.random.split(key, 3)
    x = jax.random.normal(keys[0], (2, 5, 32))
    return x, jax.random.normal(keys[1], (32, 7)), jax.random.normal(keys[2], (2, 5, 7))


def rounded(x):
    return x.astype(jnp.bfloat16).astype(jnp.float32)


def test_results_are_sums_of_rounded_inputs_not_rounded_themselves(key):
    x, kernel, _ = inputs(key)
    y = product.rounded_matmul(x, kernel)
    assert y.dtype == jnp.float32
    exact = np.asarray(rounded(x), np.float64) @ np.asarray(rounded(kernel), np.float64)
    np.testing.assert_allclose(y, exact, rtol=1e-5, atol=1e-5)
    assert not np.array_equal(y, rounded(y))


def test_gradients_are_those_of_the_product_within_rounding(key):
    x, kernel, g = inputs(key)

    def gradients(function):
        return jax.vjp(function, x, kernel)[1](g)

    found = gradients(product.rounded_matmul)
    expected = gradients(jnp.matmul)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=0.02, atol=0.05)


def test_gradients_are_sums_of_rounded_inputs_not_rounded_themselves(key):
    x, kernel, g = inputs(key)
    found = jax.vjp(product.rounded_matmul, x, kernel)[1](g)
    x, kernel, g = (np.asarray(rounded(a), np.float64) for a in (x, kernel, g))
    expected = g @ kernel.T, np.einsum("abd,abf->df", x, g)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        assert not np.array_equal(a, rounded(a))
