import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax.diffusion import loss
from soraflax.diffusion import process as process_lib

COUNTED = jnp.asarray([[True, True, True, True, True, False, False]])
TOKENS = jnp.asarray([[4.0, 4, 4, 4, 1, 0, 0]])


def test_segment_weighting_counts_every_clip_alike():
    weights = loss.token_weights(COUNTED, TOKENS, weighting="segment")
    np.testing.assert_allclose(
        weights, [[0.125, 0.125, 0.125, 0.125, 0.5, 0, 0]], rtol=1e-6
    )


def test_token_weighting_counts_every_token_alike():
    weights = loss.token_weights(COUNTED, TOKENS, weighting="token")
    np.testing.assert_allclose(weights, [[0.2] * 5 + [0, 0]], rtol=1e-6)


def test_nothing_to_denoise_weighs_nothing():
    weights = loss.token_weights(
        jnp.zeros((1, 7), bool), jnp.zeros((1, 7)), weighting="segment"
    )
    assert (weights == 0).all()


def test_unknown_weighting_is_refused():
    with pytest.raises(ValueError, match="unknown weighting 'clip'"):
        loss.token_weights(COUNTED, TOKENS, weighting="clip")


def test_uncounted_tokens_do_not_matter(key):
    prediction = jax.random.normal(key, (1, 7, 3))
    weights = loss.token_weights(COUNTED, TOKENS, weighting="segment")

    def value(prediction):
        return loss.weighted_mse(
            prediction, jnp.zeros_like(prediction), weights=weights
        )

    broken = prediction.at[:, 5:].set(jnp.nan)
    assert value(prediction) == value(broken)
    gradient = jax.grad(value)(broken)
    assert jnp.isfinite(gradient).all()
    assert (gradient[:, 5:] == 0).all()


@pytest.mark.parametrize("name", tuple(process_lib.PROCESSES))
@pytest.mark.parametrize("weight", (loss.MinSNR(), loss.DataError()))
def test_the_same_error_weighs_alike_in_every_prediction(name, weight, key):
    """An error of x0 costs the same whichever prediction it is expressed in."""
    t = jnp.linspace(0.1, 0.9, 5)[:, None]
    x0, noise, wrong = (jax.random.normal(k, (5, 3)) for k in jax.random.split(key, 3))
    costs = []
    for prediction in ("velocity", "epsilon", "x0"):
        process = process_lib.make(name, prediction)
        x_t = process_lib.add_noise(process, x0, noise=noise, t=t)
        output = process_lib.convert(
            process, x0 + 0.1 * wrong, x_t=x_t, t=t, source="x0", destination=prediction
        )
        error = output - process_lib.target(process, x0, noise=noise, t=t)
        costs.append(weight(process, t) * jnp.square(error))
    np.testing.assert_allclose(costs[0], costs[2], rtol=2e-2, atol=1e-5)
    np.testing.assert_allclose(costs[1], costs[2], rtol=2e-2, atol=1e-5)


def test_unweighted_is_one():
    t = jnp.linspace(0, 1, 5)
    assert (loss.Unweighted()(process_lib.RectifiedFlow(), t) == 1).all()


@pytest.mark.parametrize("prediction", ["velocity", "epsilon", "x0"])
def test_the_velocity_error_of_any_prediction_is_one_error(key, prediction):
    """Equations (4) to (6): whatever is predicted, lambda makes the same loss of it."""
    velocity_process = process_lib.make("variance_preserving", "velocity")
    process = process_lib.make("variance_preserving", prediction)
    keys = jax.random.split(key, 3)
    x0, noise, wrong = (jax.random.normal(k, (5, 3)) for k in keys)
    t = jnp.asarray([0.1, 0.3, 0.5, 0.7, 0.9])[:, None]
    x_t = process_lib.add_noise(process, x0, noise=noise, t=t)
    target = process_lib.target(velocity_process, x0, noise=noise, t=t)
    expected = jnp.square(target + wrong - target)

    def convert(velocity):
        return process_lib.convert(
            process, velocity, x_t=x_t, t=t, source="velocity", destination=prediction
        )

    error = jnp.square(convert(target + wrong) - convert(target))
    weight = loss.VelocityError(floor=0.1)(process, t)
    np.testing.assert_allclose(weight * error, expected, rtol=1e-4)


def test_the_velocity_error_stops_growing_at_the_floor():
    process = process_lib.make("rectified_flow", "x0")
    weight = loss.VelocityError(floor=0.1)(process, jnp.asarray([0.0, 0.05, 0.1, 0.5]))
    np.testing.assert_allclose(weight, [100.0, 100.0, 100.0, 4.0], rtol=1e-5)


def test_what_differs_from_its_clip_weighs_more_up_to_a_limit():
    """Equation (7): distances of 0, 1 and 9 times the mean, with k = 2."""
    factors = loss.foreground_weights(
        jnp.asarray([[0.0, 3.0, 27.0, 0.0]]), jnp.asarray([[3.0, 3.0, 3.0, 0.0]]), k=2.0
    )
    np.testing.assert_allclose(factors, [[1.0, 3.0, 9.0, 1.0]])
