"""Every prediction says the same thing: converted there and back, it is unchanged."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soraflax.diffusion import process as process_lib

PREDICTIONS = ("velocity", "epsilon", "x0")
PROCESSES = tuple(process_lib.PROCESSES)
levels = st.floats(0.02, 0.98)


def draw(seed, shape=(2, 5, 3)):
    keys = jax.random.split(jax.random.key(seed))
    return jax.random.normal(keys[0], shape), jax.random.normal(keys[1], shape)


@settings(max_examples=10, deadline=None)
@given(t=levels, seed=st.integers(0, 1000))
@pytest.mark.parametrize("name", PROCESSES)
def test_conversions_there_and_back(name, t, seed):
    x0, noise = draw(seed)
    t = jnp.full((2, 5, 1), t, jnp.float32)
    x_t = process_lib.add_noise(process_lib.make(name), x0, noise=noise, t=t)
    truth = {
        p: process_lib.target(process_lib.make(name, p), x0, noise=noise, t=t)
        for p in PREDICTIONS
    }
    for source, destination in itertools.product(PREDICTIONS, repeat=2):
        process = process_lib.make(name, source)
        there = process_lib.convert(
            process, truth[source], x_t=x_t, t=t, source=source, destination=destination
        )
        np.testing.assert_allclose(there, truth[destination], rtol=1e-3, atol=1e-3)
        back = process_lib.convert(
            process, there, x_t=x_t, t=t, source=destination, destination=source
        )
        np.testing.assert_allclose(back, truth[source], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_split_recovers_what_was_mixed(name, prediction):
    process = process_lib.make(name, prediction)
    x0, noise = draw(3)
    t = jnp.linspace(0.1, 0.9, 10).reshape(2, 5, 1)
    x_t = process_lib.add_noise(process, x0, noise=noise, t=t)
    output = process_lib.target(process, x0, noise=noise, t=t)
    np.testing.assert_allclose(
        process_lib.to_x0(process, output, x_t=x_t, t=t), x0, atol=1e-4
    )
    np.testing.assert_allclose(
        process_lib.to_noise(process, output, x_t=x_t, t=t), noise, atol=1e-4
    )


@settings(max_examples=30, deadline=None)
@given(t=st.floats(0, 1))
@pytest.mark.parametrize("name", PROCESSES)
def test_unit_determinant_and_ends(name, t):
    process = process_lib.make(name)
    t = jnp.float32(t)
    determinant = process.alpha(t) * process.velocity_of_noise(t)
    determinant -= process.sigma(t) * process.velocity_of_data(t)
    np.testing.assert_allclose(determinant, 1.0, atol=1e-6)
    x0, noise = draw(0)
    zero, one = jnp.float32(0), jnp.float32(1)
    assert (process_lib.add_noise(process, x0, noise=noise, t=zero) == x0).all()
    np.testing.assert_allclose(
        process_lib.add_noise(process, x0, noise=noise, t=one), noise, atol=1e-6
    )


@pytest.mark.parametrize("name", PROCESSES)
def test_velocity_is_the_time_derivative(name):
    process = process_lib.make(name)
    x0, noise = draw(1)
    for t in (0.1, 0.5, 0.9):

        def path(t):
            return process_lib.add_noise(process, x0, noise=noise, t=t)

        _, slope = jax.jvp(path, (jnp.float32(t),), (jnp.float32(1),))
        velocity = process_lib.target(process, x0, noise=noise, t=jnp.float32(t))
        np.testing.assert_allclose(slope, process.rate * velocity, atol=1e-5)


def test_float32_whatever_comes_in():
    process = process_lib.RectifiedFlow()
    x0, noise = (a.astype(jnp.bfloat16) for a in draw(0))
    t = jnp.full((2, 5, 1), 0.5)
    x_t = process_lib.add_noise(process, x0, noise=noise, t=t)
    output = process_lib.target(process, x0, noise=noise, t=t)
    assert x_t.dtype == output.dtype == jnp.float32
    assert process_lib.to_x0(process, x0, x_t=x_t, t=t).dtype == jnp.float32


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"unknown process 'flow'.*rectified_flow"):
        process_lib.make("flow")
    with pytest.raises(ValueError, match=r"unknown prediction 'score'.*velocity"):
        process_lib.make("rectified_flow", "score")
