"""Errors fall at the order that each sampler claims.

The data is a mixture of two normal distributions, whose best prediction is known in
closed form and whose flow is not linear. The reference is Heun's with 1,000 steps, a
thousand levels closer than anything measured here.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax.diffusion import convergence, samplers
from soraflax.diffusion import process as process_lib
from tests.diffusion import sampling

MEANS, SPREADS, SHARES = np.asarray([[-1, 0.8], [0.5, 0.4], [0.4, 0.6]], np.float32)
PROCESSES = tuple(process_lib.PROCESSES)
INSIDE, WHOLE = (0.95, 0.05), (1.0, 0.0)
REFERENCE_STEPS = 1000


def mixture(process):
    """The ideal model of the mixture."""

    def denoise(x, t):
        alpha, sigma = process.alpha(t), process.sigma(t)
        away = x[:, None] - alpha * MEANS
        variance = alpha**2 * SPREADS**2 + sigma**2
        logits = jnp.log(SHARES) - jnp.log(variance) / 2 - away**2 / variance / 2
        share = jax.nn.softmax(logits, axis=-1) / variance
        x0 = jnp.sum(share * (MEANS * variance + alpha * SPREADS**2 * away), axis=-1)
        return process_lib.target(
            process, x0, noise=jnp.sum(share * sigma * away, axis=-1), t=t
        )

    return denoise


@functools.cache
def compiled(sampler, name):
    process = process_lib.make(name)
    x = jnp.linspace(-2, 2, 17, dtype=jnp.float32)

    def sample(levels):
        return sampling.sample(
            sampler, mixture(process), x=x, levels=levels, process=process
        ).x

    return jax.jit(sample)


def sampled(sampler, name, span, steps):
    """As many entries for all numbers of steps, so one program: the last ones wait."""
    levels = np.full(REFERENCE_STEPS + 1, span[1], np.float32)
    levels[: steps + 1] = np.linspace(span[0], span[1], steps + 1)
    return np.asarray(compiled(sampler, name)(levels))


def measured(sampler, name, span, counts):
    reference = sampled(samplers.Heun(), name, span, REFERENCE_STEPS)
    errors = [
        float(np.sqrt(np.mean((sampled(sampler, name, span, n) - reference) ** 2)))
        for n in counts
    ]
    return convergence.convergence_order(counts, errors)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize(
    ("rule", "order"),
    [("euler", 1), ("ddim", 1), ("heun", 2), ("dpm++", 2), ("unipc", 3)],
)
def test_order(rule, order, name):
    found = measured(samplers.SAMPLERS[rule], name, INSIDE, (32, 64, 128))
    assert abs(found - order) < 0.3, found


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize(
    ("rule", "order"),
    [("euler", 1), ("ddim", 1), ("heun", 2), ("dpm++", 1.7), ("unipc", 2)],
)
def test_order_from_noise_to_data(rule, order, name):
    """The whole way, where log-SNR is infinite at both ends."""
    found = measured(samplers.SAMPLERS[rule], name, WHOLE, (128, 256, 512))
    assert abs(found - order) < 0.3, found


def test_an_order_is_a_slope():
    steps = (10, 20, 40)
    errors = [3.0 * n**-2.5 for n in steps]
    np.testing.assert_allclose(convergence.convergence_order(steps, errors), 2.5)
    with pytest.raises(ValueError, match="two different numbers or more"):
        convergence.convergence_order((8, 8), (1.0, 2.0))
    with pytest.raises(ValueError, match="finite ones above 0"):
        convergence.convergence_order((8, 16), (1.0, 0.0))
