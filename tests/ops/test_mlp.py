import jax
import jax.numpy as jnp
import numpy as np

from soraflax.ops import mlp


def arguments(key):
    keys = jax.random.split(key, 6)
    x = jax.random.normal(keys[0], (2, 5, 16))
    up = jax.random.normal(keys[1], (16, 24)) / 4
    down = jax.random.normal(keys[2], (24, 16)) / 5
    biases = jax.random.normal(keys[3], (24,)), jax.random.normal(keys[4], (16,))
    return (x, up, biases[0], down, biases[1]), jax.random.normal(keys[5], x.shape)


def plain(x, up, up_bias, down, down_bias):
    return jax.nn.gelu(x @ up + up_bias, approximate=True) @ down + down_bias


def test_values_and_gradients_are_those_of_the_plain_form_within_rounding(key):
    values, g = arguments(key)

    def run(function):
        y, pull = jax.vjp(function, *values)
        return y, *pull(g)

    for a, b in zip(run(mlp.rounded_mlp), run(plain), strict=True):
        assert a.shape == b.shape and a.dtype == jnp.float32
        assert np.linalg.norm(a - b) < 0.01 * np.linalg.norm(b)


def test_inputs_of_products_are_rounded_and_results_are_not(key):
    values, _ = arguments(key)
    y = mlp.rounded_mlp(*values)
    assert not np.array_equal(y, plain(*values))
    assert not np.array_equal(y, y.astype(jnp.bfloat16).astype(jnp.float32))
