import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soraflax.ops import patch

size = st.integers(1, 3)


@settings(max_examples=25, deadline=None)
@given(
    grid=st.tuples(size, size, size),
    cut=st.tuples(size, size, size),
    z=st.integers(1, 4),
    batch=st.sampled_from([(), (2,), (2, 1)]),
)
def test_unpatchify_undoes_patchify(grid, cut, z, batch):
    sides = [g * c for g, c in zip(grid, cut, strict=True)]
    latent = np.random.default_rng(0).normal(size=(*batch, *sides, z))
    tokens = patch.patchify(latent, cut)
    assert tokens.shape == (*batch, np.prod(grid), np.prod(cut) * z)
    np.testing.assert_array_equal(patch.unpatchify(tokens, grid, patch=cut), latent)


def test_numpy_stays_numpy_and_equals_jax():
    latent = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
    tokens = patch.patchify(latent, (1, 2, 2))
    on_device = jax.jit(lambda x: patch.patchify(x, (1, 2, 2)))(latent)
    assert isinstance(tokens, np.ndarray) and isinstance(on_device, jax.Array)
    np.testing.assert_array_equal(on_device, tokens)


def test_order_of_tokens_and_of_what_they_hold():
    latent = np.arange(2 * 2 * 4).reshape(2, 2, 4, 1)
    tokens = patch.patchify(latent, (1, 2, 2))
    expected = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    np.testing.assert_array_equal(tokens, expected)


def test_gradient_is_the_inverse_rearrangement():
    latent = jnp.ones((2, 4, 4, 3))
    weights = jax.random.normal(jax.random.key(0), (8, 12))
    g = jax.grad(lambda x: jnp.vdot(patch.patchify(x, (1, 2, 2)), weights))(latent)
    expected = patch.unpatchify(weights, (2, 2, 2), patch=(1, 2, 2))
    np.testing.assert_array_equal(g, expected)


def test_positions_follow_the_tokens():
    grid = (2, 2, 3)
    positions = patch.positions(grid, time_step=2.0)
    assert positions.dtype == np.float32
    np.testing.assert_array_equal(
        positions[:4], [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0]]
    )
    np.testing.assert_array_equal(positions[-1], [2.0, 1, 2])
    cells = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), axis=-1)
    tokens = patch.patchify(cells.astype(np.float32), (1, 1, 1))
    np.testing.assert_array_equal(patch.positions(grid), tokens)


def test_impossible_sizes_name_the_nearest_legal_one():
    with pytest.raises(
        ValueError, match="height 5 is not a multiple of the patch 2: use 4"
    ):
        patch.patchify(np.zeros((1, 5, 4, 3)), (1, 2, 2))
    with pytest.raises(ValueError, match="5 tokens do not fill a grid of 1 x 2 x 2"):
        patch.unpatchify(np.zeros((5, 12)), (1, 2, 2), patch=(1, 2, 2))
    with pytest.raises(ValueError, match="width 13 is not a multiple of the patch's 4"):
        patch.unpatchify(np.zeros((4, 13)), (1, 2, 2), patch=(1, 2, 2))
