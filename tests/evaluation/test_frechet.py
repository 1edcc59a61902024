import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from soraflax.evaluation import frechet


def _moments(count, mean, covariance):
    mean, covariance = (np.asarray(x, np.float64) for x in (mean, covariance))
    return frechet.Moments(count, mean, covariance * (count - 1))


def test_diagonal_gaussians_have_their_closed_form():
    a = _moments(100, [0.0, 1.0, 2.0], np.diag([1.0, 4.0, 0.0]))
    b = _moments(100, [3.0, 1.0, 2.0], np.diag([9.0, 1.0, 25.0]))
    expected = 9.0 + (1 - 3) ** 2 + (2 - 1) ** 2 + (0 - 5) ** 2
    np.testing.assert_allclose(frechet.distance(a, b), expected, rtol=1e-12)


def test_a_linear_map_of_a_gaussian_has_its_closed_form():
    """For x ~ N(m, C) and y = A x, A symmetric positive, it is E |y - x|^2."""
    rng = np.random.default_rng(0)
    root = rng.standard_normal((6, 6))
    c, half = root @ root.T, rng.standard_normal((6, 6))
    a, m = half @ half.T, rng.standard_normal(6)
    step = a - np.eye(6)
    expected = np.trace(step @ c @ step.T) + np.sum((step @ m) ** 2)
    found = frechet.distance(_moments(50, m, c), _moments(50, a @ m, a @ c @ a.T))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_equal_sets_are_at_no_distance_however_ill_conditioned():
    rng = np.random.default_rng(1)
    features = rng.standard_normal((60, 20)) * np.logspace(-9, 3, 20)
    found = frechet.moments([features])
    scale = np.trace(found.covariance)
    assert frechet.distance(found, found) < 1e-9 * scale
    other = frechet.moments([rng.standard_normal((60, 20))])
    there, back = frechet.distance(found, other), frechet.distance(other, found)
    np.testing.assert_allclose(there, back, rtol=1e-9)


def test_moments_do_not_depend_on_batches():
    features = 1e3 + np.random.default_rng(2).standard_normal((37, 5))
    whole = frechet.moments([features])
    parts = frechet.moments(np.split(features, [1, 1, 8, 30]))
    assert parts.count == whole.count == 37
    np.testing.assert_allclose(parts.mean, features.mean(0), rtol=1e-14)
    for found in (whole, parts):
        expected = np.cov(features, rowvar=False)
        np.testing.assert_allclose(found.covariance, expected, rtol=1e-9, atol=1e-12)


def test_too_few_clips_are_refused_or_allowed_by_name():
    features = np.random.default_rng(3).standard_normal((6, 6))
    few, more = frechet.moments([features]), frechet.moments([features, features])
    with pytest.raises(ValueError, match=r"6 clips for 6 features.* 7 or more"):
        frechet.distance(few, more)
    assert frechet.distance(few, more, too_few="allow") >= 0.0
    one = frechet.moments([features[:1]])
    with pytest.raises(ValueError, match="1 clips"):
        frechet.distance(one, more, too_few="allow")


def test_bad_features_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        frechet.moments([])
    with pytest.raises(ValueError, match="not finite"):
        frechet.moments([np.array([[1.0, np.nan]])])
    with pytest.raises(ValueError, match="3 and 2 numbers"):
        frechet.moments([np.ones((2, 3)), np.ones((2, 2))])


@functools.cache
def _clips():
    """Sixteen smooth moving textures `[T, H, W, 3]` with edges."""
    rng = np.random.default_rng(4)
    noise = rng.standard_normal((16, 20, 24, 72, 3))
    smooth = ndimage.gaussian_filter(noise, (0, 4, 3, 3, 0), mode="wrap")
    smooth = np.tanh(40.0 * smooth) * rng.uniform(0.3, 0.8, (16, 1, 1, 1, 1))
    return np.stack([smooth[:, t, :, t : t + 48] for t in range(9)], axis=1)


def _blur(clips, strength):
    return ndimage.gaussian_filter(clips, (0, 0, strength, strength, 0))


def _noise(clips, strength):
    noise = np.random.default_rng(5).standard_normal(clips.shape)
    return clips + 0.03 * strength * noise


def _flicker(clips, strength):
    change = np.random.default_rng(6).standard_normal((*clips.shape[:2], 1, 1, 1))
    return clips + 0.03 * strength * change


def _ringing(clips, strength):
    """Overshoot beside edges, as a filter with a negative lobe leaves it."""
    detail = clips - ndimage.gaussian_filter(clips, (0, 0, 1.0, 1.0, 0))
    return clips + strength * detail


@pytest.mark.parametrize("damage", [_blur, _noise, _flicker, _ringing])
def test_band_features_see_damage_and_more_of_it(damage):
    measure = jax.jit(frechet.band_features)
    clean = frechet.moments([measure(jnp.asarray(_clips(), jnp.float32))])
    distances = [0.0]
    for strength in (0.5, 1.0, 2.0):
        videos = jnp.asarray(damage(_clips(), strength), jnp.float32)
        damaged = frechet.moments([measure(videos)])
        distances.append(frechet.distance(clean, damaged, too_few="allow"))
    assert np.all(np.diff(distances) > 0.1)


def test_band_energies_are_those_of_a_wave():
    """A wave of one coefficient has all its energy in that coefficient's band."""
    n = np.arange(8) % 4
    wave = np.sqrt(2.0) * np.cos(np.pi * 3 * (n + 0.5) / 4)
    video = np.broadcast_to(wave[:, None], (1, 4, 8, 8, 3)).transpose(0, 1, 3, 2, 4)
    found = np.asarray(frechet.band_features(jnp.asarray(0.1 * video, jnp.float32)))
    finest = found[0, 3:19].reshape(8, 2)
    quiet = np.log(frechet.FLOOR)
    # Columns (time 0, space 2-3) of brightness; grey has no colour.
    np.testing.assert_allclose(finest[1, 0], np.log(0.03 + frechet.FLOOR), rtol=1e-4)
    np.testing.assert_allclose(np.delete(finest[:, 0], 1), quiet, atol=1e-2)
    np.testing.assert_allclose(finest[:, 1], quiet, atol=1e-2)


@pytest.mark.parametrize("shape", [(2, 1, 16, 16, 3), (1, 17, 30, 50, 3)])
def test_band_features_take_any_size(shape, key):
    video = jax.random.uniform(key, shape, minval=-1.0)
    found = frechet.band_features(video)
    assert found.shape == (shape[0], frechet.FEATURES)
    assert np.all(np.isfinite(found))
