"""A bias of relative positions: by visited blocks what the reference makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax import sharding
from soraflax.ops import attention
from soraflax.ops.attention import reference
from tests.ops.attention import cases

LENGTH, BLOCK = 75, 16
ROWS = np.stack(
    [
        # Segments of all lengths, one that fills blocks, gaps, and a last part block.
        cases.ids([(1, 3), (2, 13), (3, 32), (0, 5), (4, 20)], LENGTH),
        cases.ids([(1, 75)], LENGTH),
    ]
)


def arrays():
    q, k, v, d_out = cases.inputs(LENGTH, LENGTH)
    bias = jax.random.normal(jax.random.key(5), (cases.HEADS, 2 * LENGTH - 1))
    return (q, k, v, bias), d_out


def run(implementation, rows=ROWS):
    """Output, and gradients of queries, keys, values and bias."""
    inputs, d_out = arrays()
    plan = attention.make_plan(rows, rows, block=BLOCK)

    def attend(q, k, v, bias):
        return attention.attention(
            q, k, v, plan=plan, implementation=implementation, scale=0.3, bias=bias
        )

    def both(*inputs):
        out, pull = jax.vjp(attend, *inputs)
        return out, *pull(d_out)

    return jax.jit(both)(*inputs)


@pytest.fixture(scope="module")
def expected():
    return run("reference")


def test_blocks_equal_the_reference_in_output_and_gradients(expected):
    for found, wanted in zip(run("blocks"), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5)
    assert np.any(expected[4]) and not np.any(expected[0][0, 48:53])


def test_rows_and_heads_over_a_mesh_equal_one_device(expected):
    mesh = sharding.make_mesh(fsdp=2, tensor=2, devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        for found, wanted in zip(run("blocks"), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5)


def test_the_dense_bias_is_that_of_every_distance():
    line = jnp.arange(10.0)[None]
    found = reference.dense_bias(line, 4, keys=7)
    distance = np.arange(7)[None, :] - np.arange(4)[:, None]
    np.testing.assert_array_equal(found[0], distance + 3)


def test_only_touching_blocks_are_visited():
    """A NaN in a block of a segment reaches that segment alone."""
    (q, k, v, bias), _ = arrays()
    k = k.at[0, 20].set(jnp.nan)
    plan = attention.make_plan(ROWS, ROWS, block=BLOCK)
    out = attention.attention(q, k, v, plan=plan, implementation="blocks", bias=bias)
    assert np.isnan(out[0, 16:48]).all() and np.isfinite(out[0, 53:]).all()


@pytest.mark.parametrize(("keys", "blocks"), [(40, "16 and 16"), (8, "16 and 8")])
def test_other_keys_than_the_row_s_own_are_refused(keys, blocks):
    (q, k, v, bias), _ = arrays()
    plan = attention.make_plan(ROWS, ROWS[:, :keys], block=BLOCK)
    message = f"75 queries to {keys} keys in blocks of {blocks} on .* to itself"
    with pytest.raises(ValueError, match=message):
        attention.attention(
            q, k[:, :keys], v[:, :keys], plan=plan, implementation="blocks", bias=bias
        )
