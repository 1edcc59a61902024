"""What multistep samplers do with their state, and its weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax.diffusion import multistep, samplers
from soraflax.diffusion import process as process_lib
from tests.diffusion import sampling

MULTISTEP = (samplers.DPMSolver(), samplers.UniPC())


def wavy(x, t):
    """A velocity that is not linear in anything."""
    return jnp.sin(2 * x) + t


def test_weights_of_the_correction():
    """Equations (7) and (8), in float64 where their digits suffice."""
    h = np.geomspace(0.02, 60, 200)
    b1 = -1 / np.expm1(-h) - 1 / h
    b2 = -1 / np.expm1(-h) - 2 * b1 / h
    found = multistep._moments(jnp.asarray(h, jnp.float32))
    np.testing.assert_allclose(found[0], b1, rtol=2e-6)
    np.testing.assert_allclose(found[1], b2, rtol=4e-6)
    np.testing.assert_allclose(multistep._moments(jnp.zeros(1)), [[1 / 2], [1 / 3]])


@pytest.mark.parametrize("sampler", MULTISTEP, ids=str)
def test_the_first_step_is_ddim(sampler, key):
    process = process_lib.VariancePreserving()
    x = jax.random.normal(key, (5,))
    for ends in ((1.0, 0.4), (0.6, 0.3), (0.3, 0.0)):
        found, plain = (
            sampling.sample(
                rule, wavy, x=x, levels=jnp.asarray(ends), process=process
            ).x
            for rule in (sampler, samplers.DDIM())
        )
        np.testing.assert_allclose(found, plain, atol=1e-6)


@pytest.mark.parametrize("sampler", MULTISTEP, ids=str)
def test_a_step_of_no_length_moves_nothing(sampler, key):
    """Not even by way of a correction."""
    process = process_lib.RectifiedFlow()
    x = jax.random.normal(key, (5,))
    levels = jnp.asarray([0.9, 0.7, 0.5, 0.5, 0.5, 0.2])
    sample = functools.partial(sampling.sample, sampler, wavy, process=process)
    here = sample(x=x, levels=levels[:3])
    waited = sample(state=here, levels=levels[2:5])
    assert (waited.x == here.x).all()
    after = sample(state=waited, levels=levels[4:]).x
    assert jnp.isfinite(after).all() and (after != waited.x).all()


@pytest.mark.parametrize("sampler", MULTISTEP, ids=str)
def test_an_estimate_that_stands_still_is_solved_exactly(sampler, key):
    """Where x0 is one point, equation (2) has no error, whatever the steps."""
    process = process_lib.VariancePreserving("x0")
    point, noise = jax.random.normal(key, (2, 5))
    levels = jnp.asarray([1.0, 0.9, 0.4, 0.35, 0.1])
    x = process_lib.add_noise(process, point, noise=noise, t=levels[0])
    found = sampling.sample(
        sampler, lambda x, t: point, x=x, levels=levels, process=process
    ).x
    exact = process_lib.add_noise(process, point, noise=noise, t=levels[-1])
    np.testing.assert_allclose(found, exact, atol=1e-5)
