import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax.nn import perceptual
from tests.nn import lpips_params


@functools.cache
def _params():
    return lpips_params.random()


@jax.jit
def _distance(params, a, b):
    return perceptual.distance(a, b, params=params)


def _videos(key, frames=2, height=16, width=24):
    a, b = jax.random.split(key)
    video = jax.random.uniform(a, (2, frames, height, width, 3), minval=-1.0)
    strength = jnp.asarray([0.05, 0.3]).reshape(2, 1, 1, 1, 1)
    return video, video + strength * jax.random.normal(b, video.shape)


def test_it_is_a_symmetric_distance_that_grows_with_noise(key):
    a, b = _videos(key)
    near, far = _distance(_params(), a, b)
    assert 0.0 < near < far
    np.testing.assert_allclose(_distance(_params(), a, a), 0.0)
    np.testing.assert_allclose(
        _distance(_params(), a, b), _distance(_params(), b, a), rtol=1e-6
    )


def test_a_video_is_the_mean_of_its_frames(key):
    a, b = _videos(key)
    frames = [_distance(_params(), a[:, [t]], b[:, [t]]) for t in range(2)]
    np.testing.assert_allclose(
        _distance(_params(), a, b), np.mean(frames, axis=0), rtol=1e-5
    )


def test_gradients_reach_the_videos_only_and_are_finite_without_features(key):
    a, b = _videos(key, frames=1)
    dead = jax.tree.map(np.copy, _params())
    dead["stages"][4][2]["bias"][:] = -1e4

    def total(params, a):
        return jnp.sum(perceptual.distance(a, b, params=params))

    frozen, moved = jax.jit(jax.grad(total, argnums=(0, 1)))(dead, a)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(frozen))
    assert np.all(np.isfinite(moved)) and np.any(moved)


def test_a_step_down_the_gradient_comes_nearer(key):
    a, b = _videos(key, frames=1)

    def total(a, params):
        return jnp.sum(perceptual.distance(a, b, params=params))

    value = jax.jit(jax.value_and_grad(total))
    before, slope = value(a, _params())
    after, _ = value(a - 0.05 * slope / jnp.max(jnp.abs(slope)), _params())
    assert after < before


def test_bfloat16_videos_are_measured_in_float32(key):
    a, b = (x.astype(jnp.bfloat16) for x in _videos(key, frames=1))
    result = _distance(_params(), a, b)
    assert result.dtype == jnp.float32
    expected = _distance(_params(), a.astype(jnp.float32), b.astype(jnp.float32))
    np.testing.assert_allclose(result, expected)


def test_impossible_pairs_are_refused(key):
    a, b = _videos(key)
    with pytest.raises(ValueError, match="different shapes"):
        perceptual.distance(a, b[:, :1], params=_params())
    with pytest.raises(ValueError, match="needs 16 or more"):
        perceptual.distance(a[:, :, :15], b[:, :, :15], params=_params())
