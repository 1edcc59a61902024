import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax.evaluation import metrics


def _pair(key):
    """Two videos, the second one noisier."""
    a, b = jax.random.split(key)
    video = jax.random.uniform(a, (2, 3, 16, 20, 3), minval=-1.0, maxval=1.0)
    strength = jnp.asarray([0.05, 0.3]).reshape(2, 1, 1, 1, 1)
    return video, video + strength * jax.random.normal(b, video.shape)


def _ssim_of_window(a, b, weights):
    mean_a, mean_b = np.sum(weights * a), np.sum(weights * b)
    var_a = np.sum(weights * (a - mean_a) ** 2)
    var_b = np.sum(weights * (b - mean_b) ** 2)
    covariance = np.sum(weights * (a - mean_a) * (b - mean_b))
    c1, c2 = 0.02**2, 0.06**2
    top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def test_psnr_is_its_formula_per_video(key):
    a, b = _pair(key)
    for at in range(2):
        # On a scale of 0 to 255 the range and the error grow alike.
        error = np.mean((127.5 * (np.asarray(a[at]) - np.asarray(b[at]))) ** 2)
        expected = 10 * np.log10(255.0**2 / error)
        np.testing.assert_allclose(metrics.psnr(a, b)[at], expected, rtol=1e-5)
    assert metrics.psnr(a[0], b[0]).shape == ()
    assert np.isinf(metrics.psnr(a[0], a[0]))


def test_ssim_is_its_formula(key):
    a, b = (np.asarray(x, np.float64)[:, :1, :11, :12, :1] for x in _pair(key))
    x = np.arange(11) - 5
    weights = np.exp(-(x[:, None] ** 2 + x[None, :] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    for at in range(2):
        windows = [
            _ssim_of_window(
                a[at, 0, :, w : w + 11, 0], b[at, 0, :, w : w + 11, 0], weights
            )
            for w in range(2)
        ]
        result = metrics.ssim(jnp.asarray(a[at], "float32"), jnp.float32(b[at]))
        np.testing.assert_allclose(result, np.mean(windows), atol=1e-4)


def test_ssim_orders_and_bounds(key):
    a, b = _pair(key)
    good, bad = metrics.ssim(a, b)
    assert 1.0 > good > bad > 0.0
    np.testing.assert_allclose(metrics.ssim(a, a), 1.0, atol=1e-6)
    np.testing.assert_allclose(metrics.ssim(a, b), metrics.ssim(b, a), rtol=1e-5)


def test_impossible_pairs_are_refused(key):
    a, b = _pair(key)
    with pytest.raises(ValueError, match="different shapes"):
        metrics.psnr(a, b[:, :1])
    with pytest.raises(ValueError, match="11 or more"):
        metrics.ssim(a[:, :, :8], b[:, :, :8])


@pytest.mark.parametrize("ends", [(0, 3), (0, 1, 3), (0, 1, 2, 3)])
def test_quality_of_chunks_is_that_of_the_whole(key, ends):
    a, b = (np.asarray(x[1]) for x in _pair(key))
    quality = metrics.Quality()
    for start, end in itertools.pairwise(ends):
        quality = quality.add(a[start:end], b[start:end])
    assert quality.frames == 3
    np.testing.assert_allclose(quality.psnr, metrics.psnr(a, b), rtol=1e-5)
    assert quality.ssim is not None
    np.testing.assert_allclose(quality.ssim, metrics.ssim(a, b), rtol=1e-5)


def test_quality_of_equal_of_small_and_of_no_frames(key):
    a, b = (np.asarray(x[1]) for x in _pair(key))
    equal = metrics.Quality().add(a, a)
    assert equal.psnr == np.inf
    assert equal.ssim == pytest.approx(1.0)
    small = metrics.Quality().add(a[:, :8], b[:, :8])
    assert small.ssim is None and small.add(a, b).ssim is None
    assert np.isfinite(small.psnr)
    assert np.isnan(metrics.Quality().psnr)
    ssim = metrics.Quality().ssim
    assert ssim is not None and np.isnan(ssim)
    with pytest.raises(ValueError, match="different shapes"):
        small.add(a, b[:2])
