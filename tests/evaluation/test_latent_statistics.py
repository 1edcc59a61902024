import numpy as np
import pytest
import scipy.stats

from soraflax.evaluation import latent_statistics


def _normal(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def test_statistics_are_those_of_all_cells_together():
    """Against scipy, over parts of several sizes, far from zero."""
    parts = [_normal((3, 2, 5, 4, 3), 1) ** 3 + 1e3, _normal((1, 7, 3, 3), 2) + 1e3]
    flat = np.concatenate([part.reshape(-1, 3) for part in parts])
    found = latent_statistics.channel_statistics(parts)
    assert found.cells == len(flat)
    np.testing.assert_allclose(found.mean, flat.mean(0))
    np.testing.assert_allclose(found.std, flat.std(0))
    np.testing.assert_allclose(found.skewness, scipy.stats.skew(flat), atol=1e-9)
    np.testing.assert_allclose(found.kurtosis, scipy.stats.kurtosis(flat))
    np.testing.assert_allclose(found.correlation, np.corrcoef(flat.T), atol=1e-9)


def test_neighbour_correlation_is_that_of_an_autoregression():
    noise, x = _normal((4000, 1, 6, 2), 3), np.zeros((4000, 1, 6, 2))
    for t in range(1, len(x)):
        x[t] = np.array([0.9, -0.5]) * x[t - 1] + noise[t]
    found = latent_statistics.channel_statistics([x]).neighbours
    np.testing.assert_allclose(found["time"], [0.9, -0.5], atol=0.03)
    np.testing.assert_allclose(found["width"], 0.0, atol=0.05)
    assert np.all(np.isnan(found["height"]))


def test_pairs_do_not_cross_clips():
    a, b = np.zeros((2, 1, 1, 1)), np.ones((2, 1, 1, 1))
    found = latent_statistics.channel_statistics([a, b]).neighbours["time"]
    np.testing.assert_allclose(found, 1.0)


def test_dead_and_copied_channels_are_counted():
    x = _normal((2, 3, 4, 5, 4), 4)
    x[..., 2] = 7.0
    x[..., 3] *= 1e-3
    found = latent_statistics.channel_statistics([x])
    assert found.dead == (2, 3)
    assert found.kurtosis[2] == found.skewness[2] == 0.0
    assert np.isfinite(found.correlation).all()
    np.testing.assert_allclose(found.variance_fraction.sum(), 1.0)
    assert 1.9 < found.effective_channels < 2.0
    copies = np.repeat(x[..., :1], 5, axis=-1)
    one = latent_statistics.channel_statistics([copies])
    np.testing.assert_allclose(one.effective_channels, 1.0)
    np.testing.assert_allclose(one.correlation, 1.0)


def test_bad_latents_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        latent_statistics.channel_statistics([])
    with pytest.raises(ValueError, match="not finite"):
        latent_statistics.channel_statistics([np.full((1, 1, 1, 2), np.inf)])
    with pytest.raises(ValueError, match="2 and 3 channels"):
        latent_statistics.channel_statistics(
            [np.ones((1, 1, 1, 2)), np.ones((1, 1, 1, 3))]
        )
