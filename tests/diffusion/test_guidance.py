import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax.diffusion import guidance
from soraflax.diffusion import process as process_lib


def test_ends_and_extrapolation(key):
    a, b = (jax.random.normal(k, (2, 4, 3)) for k in jax.random.split(key))

    def combine(scale):
        return guidance.classifier_free(a, b, jnp.float32(scale))

    np.testing.assert_allclose(combine(1.0), a, atol=1e-6)
    np.testing.assert_allclose(combine(0.0), b, atol=1e-6)
    np.testing.assert_allclose(combine(3.0), b + 3 * (a - b), atol=1e-5)


def test_scale_per_token(key):
    a, b = (jax.random.normal(k, (2, 4, 3)) for k in jax.random.split(key))
    scale = jnp.asarray([[1.0, 1, 0, 0], [0, 0, 1, 1]])[..., None]
    found = guidance.classifier_free(a, b, scale)
    np.testing.assert_allclose(found, jnp.where(scale == 1, a, b), atol=1e-6)


@pytest.mark.parametrize("prediction", ("epsilon", "x0"))
def test_guides_every_prediction_alike(prediction, key):
    process = process_lib.VariancePreserving()
    a, b, x = (jax.random.normal(k, (2, 4, 3)) for k in jax.random.split(key, 3))
    t, scale = jnp.full((2, 4, 1), 0.4), jnp.float32(2.5)

    def convert(v):
        return process_lib.convert(
            process, v, x, t, source="velocity", destination=prediction
        )

    np.testing.assert_allclose(
        convert(guidance.classifier_free(a, b, scale)),
        guidance.classifier_free(convert(a), convert(b), scale),
        atol=1e-4,
    )
