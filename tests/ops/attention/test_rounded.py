import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax.ops import attention
from tests.ops.attention import cases

LENGTHS = [(1, 13), (2, 10), (3, 9)]


def run(arrays, query, key, *, bias=None, causal=False, **options):
    """The output and the gradients of vdot(output, w), of the bias too."""
    plan = attention.make_plan(query, key, block=8, causal=causal)
    *inputs, w = arrays

    def value(q, k, v, bias):
        out = attention.attention(
            q, k, v, plan=plan, implementation="reference", bias=bias, **options
        )
        return jnp.vdot(out, w), out

    numbers = (0, 1, 2) if bias is None else (0, 1, 2, 3)
    gradient = jax.grad(value, argnums=numbers, has_aux=True)
    grads, out = jax.jit(gradient)(*inputs, bias)
    return out, *grads


def distances(actual, expected):
    return [
        np.linalg.norm(a - b) / np.linalg.norm(b)
        for a, b in zip(actual, expected, strict=True)
    ]


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_values_and_gradients_are_those_of_the_reference_within_rounding(
    biased, causal
):
    row = np.stack([cases.ids(LENGTHS, 36)] * cases.ROWS)
    arrays = cases.inputs(36, 36)
    bias = jax.random.normal(jax.random.key(3), (cases.HEADS, 71)) if biased else None
    given = {"bias": bias, "causal": causal}
    expected = run(arrays, row, row, **given)
    actual = run(arrays, row, row, round_products=True, **given)
    assert all(x.dtype == jnp.float32 for x in actual)
    assert min(distances(actual, expected)) > 0
    assert max(distances(actual, expected)) < 0.01


def test_a_query_without_keys_has_output_and_gradient_zero():
    query = np.stack([cases.ids([(1, 8), (2, 8)], 20)] * cases.ROWS)
    key = np.stack([cases.ids([(1, 12)], 16)] * cases.ROWS)
    out, *grads = run(cases.inputs(20, 16), query, key, round_products=True)
    assert out[:, :8].all() and not out[:, 8:].any()
    assert not grads[0][:, 8:].any()
    assert all(np.isfinite(x).all() for x in grads)


def test_padding_holds_what_it_likes():
    row = np.stack([cases.ids([(1, 9), (2, 6)], 20), cases.ids([], 20)])
    *inputs, w = cases.inputs(20, 20)
    spoilt = [jnp.where((row > 0)[:, :, None, None], x, jnp.nan) for x in inputs]
    expected = run([*inputs, w], row, row, round_products=True)
    actual = run([*spoilt, w], row, row, round_products=True)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)
