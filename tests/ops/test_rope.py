import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax.ops import patch, rope


def test_axis_sizes_are_those_of_wan():
    assert rope.axis_sizes(128) == (44, 42, 42)
    assert rope.axis_sizes(64) == (24, 20, 20)
    assert rope.axis_sizes(32) == (12, 10, 10)
    assert rope.axis_sizes(4) == (4, 0, 0)
    with pytest.raises(ValueError, match="head size 7 must be even: use 8"):
        rope.axis_sizes(7)


def test_equals_multiplication_by_complex_numbers():
    """Wan's own formulation: one table per axis, laid side by side, as phases."""
    head, grid = 32, (3, 2, 4)
    positions = patch.positions(grid)
    tables = []
    for axis, size in enumerate(rope.axis_sizes(head)):
        frequencies = 1.0 / 10000.0 ** (np.arange(0, size, 2) / size)
        tables.append(np.exp(1j * np.outer(positions[:, axis], frequencies)))
    phases = np.concatenate(tables, axis=-1)
    x = np.random.default_rng(0).normal(size=(24, 2, head)).astype(np.float32)
    turned = (x[..., 0::2] + 1j * x[..., 1::2]) * phases[:, None]
    expected = np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)
    y = rope.apply_rope(jnp.asarray(x), rope.rope_angles(positions, head))
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_scores_depend_on_differences_of_position_alone(key):
    keys = jax.random.split(key, 3)
    q, k = (jax.random.normal(one, (5, 1, 16)) for one in keys[:2])
    positions = jax.random.uniform(keys[2], (5, 3), maxval=20.0)

    def scores(shift: float) -> jax.Array:
        angles = rope.rope_angles(positions + shift, 16)
        turned = [rope.apply_rope(x, angles)[:, 0] for x in (q, k)]
        return turned[0] @ turned[1].T

    np.testing.assert_allclose(scores(0.0), scores(3.5), atol=1e-4)


def test_is_a_rotation_and_keeps_the_dtype(key):
    x = jax.random.normal(key, (2, 6, 3, 12))
    angles = rope.rope_angles(jnp.ones((2, 6, 3)), 12)
    back = rope.apply_rope(rope.apply_rope(x, angles), -angles)
    np.testing.assert_allclose(back, x, atol=1e-6)
    np.testing.assert_array_equal(rope.apply_rope(x, 0.0 * angles), x)
    assert rope.apply_rope(x.astype(jnp.bfloat16), angles).dtype == jnp.bfloat16


def test_angles_are_linear_in_fractional_positions():
    position = jnp.array([[0.5, 2.0, 3.0]])
    np.testing.assert_allclose(
        2.0 * rope.rope_angles(position, 24),
        rope.rope_angles(2.0 * position, 24),
        rtol=1e-6,
    )
    assert rope.rope_angles(position, 24)[0, 0] == 0.5
