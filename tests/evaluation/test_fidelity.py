import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax.evaluation import fidelity, metrics


def test_frame_errors_average_to_the_error_of_the_video(key):
    a, b = jax.random.split(key)
    shape = (2, 5, 12, 16, 3)
    x, y = jax.random.uniform(a, shape), jax.random.uniform(b, shape)
    errors = fidelity.frame_errors(x, y)
    assert errors.shape == (2, 5)
    np.testing.assert_allclose(
        fidelity.decibels(errors.mean(-1)), metrics.psnr(x, y), rtol=1e-5
    )


def test_a_profile_finds_the_weak_frames():
    """Frame 0 is ten times as wrong, and every fourth after it a hundred times."""
    long, short = np.full((2, 9), 4e-3), np.full((1, 5), 4e-3)
    for errors in (long, short):
        errors[:, 0] = 4e-2
        errors[:, 4::4] = 4e-1
    image = np.full((3, 1), 4e-5)
    found = fidelity.frame_profile([long, image, short], temporal_ratio=4)
    np.testing.assert_allclose(found.first, 20.0)
    np.testing.assert_allclose(found.last, 10.0)
    np.testing.assert_allclose(found.images, 50.0)
    np.testing.assert_allclose(found.by_phase, [30.0, 30.0, 30.0, 10.0])
    expected = [20.0, 30.0, 30.0, 30.0, 10.0, 30.0, 30.0, 30.0, 10.0]
    np.testing.assert_allclose(found.by_frame, expected)
    # Frame 4 of the long clips and 2 of the short one: 4e-1, 4e-1, 4e-3.
    np.testing.assert_allclose(found.middle, fidelity.decibels(0.804 / 3))


def test_a_profile_of_images_has_no_frames():
    found = fidelity.frame_profile([np.zeros((2, 1))], temporal_ratio=4)
    assert found.images == np.inf and np.isnan([found.first, found.last]).all()
    assert found.by_frame.size == 0 and np.isnan(found.by_phase).all()
    with pytest.raises(ValueError, match="at least one"):
        fidelity.frame_profile([], temporal_ratio=4)


def test_a_still_through_an_identity_does_not_flicker(key):
    scene = fidelity.static_scene(jax.random.uniform(key, (2, 8, 8, 3), minval=-1.0), 5)
    found = fidelity.flicker(scene, scene)
    for value in (found.steps, found.peak, found.error, found.mean, found.relative):
        np.testing.assert_array_equal(value, 0.0)
    constant = fidelity.flicker(scene, scene + 0.1)
    np.testing.assert_allclose(constant.mean, 0.0, atol=1e-4)
    np.testing.assert_allclose(constant.error, 12.75, rtol=1e-4)


def test_flicker_is_in_levels(key):
    scene = fidelity.static_scene(jnp.zeros((1, 8, 8, 3)), 4)
    made = scene.at[:, 2].add(2 / 255)
    found = fidelity.flicker(scene, made)
    np.testing.assert_allclose(found.steps, [[0.0, 1.0, 1.0]], atol=1e-5)
    np.testing.assert_allclose(found.peak, [1.0], rtol=1e-5)
    noise = 0.1 * jax.random.normal(key, (1, 64, 32, 32, 3))
    noisy = fidelity.flicker(jnp.zeros_like(noise), noise)
    np.testing.assert_allclose(noisy.relative, np.sqrt(2.0), rtol=1e-2)


def test_impossible_pairs_are_refused():
    one = jnp.zeros((1, 1, 8, 8, 3))
    with pytest.raises(ValueError, match="needs 2 or more"):
        fidelity.flicker(one, one)
    with pytest.raises(ValueError, match="different shapes"):
        fidelity.flicker(one, one[:, :, :4])
    with pytest.raises(ValueError, match="different shapes"):
        fidelity.frame_errors(one, one[:, :, :4])
