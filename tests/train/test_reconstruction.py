import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax import sharding
from soraflax.nn import autoencoder
from soraflax.train import reconstruction


@functools.cache
def _model(name="tiny"):
    module = autoencoder.Autoencoder(autoencoder.VARIANTS[name])
    params, _ = sharding.init(module, jax.random.key(0), jnp.zeros((1, 1, 8, 8, 3)))
    return module, params


@functools.partial(jax.jit, static_argnames=("module", "config"))
def _loss(params, batch, key, *, module, config):
    return reconstruction.loss(params, batch, key, module=module, config=config)


def _square():
    """uint8 clips of a bright square on a dark ground."""
    video = np.full((2, 5, 16, 16, 3), 20, np.uint8)
    video[:, :, 4:11, 5:12] = (220, 120, 40)
    return {"video": jnp.asarray(video)}


def test_a_few_steps_reduce_the_loss(key):
    module, params = _model()
    loss = functools.partial(
        reconstruction.loss,
        module=module,
        config=reconstruction.ReconstructionConfig(),
    )
    batch = _square()

    @jax.jit
    def step(params):
        (_, scalars), grads = jax.value_and_grad(loss, has_aux=True)(params, batch, key)
        return jax.tree.map(
            lambda p, g: p - 0.001 * jnp.sign(g), params, grads
        ), scalars

    history = []
    for _ in range(8):
        params, scalars = step(params)
        history.append(float(scalars["loss"]))
    assert history[1] < history[0]
    assert history[-1] < 0.9 * history[0]
    assert scalars["psnr"].shape == ()


def test_loss_is_the_weighted_sum_of_what_it_reports(key):
    module, params = _model()
    config = reconstruction.ReconstructionConfig(l1=0.5, l2=2.0, kl=0.1, gradients=3.0)
    total, scalars = _loss(params, _square(), key, module=module, config=config)
    terms = sum(
        getattr(config, name) * scalars[name]
        for name in ("l1", "l2", "kl", "gradients")
    )
    np.testing.assert_allclose(total, terms, rtol=1e-5)
    np.testing.assert_allclose(total, scalars["loss"])


def test_integers_and_floats_are_the_same_video(key):
    module, params = _model()
    batch = _square()
    floats = {"video": batch["video"].astype(jnp.float32) / 127.5 - 1.0}
    config = reconstruction.ReconstructionConfig()
    one, two = (
        _loss(params, b, key, module=module, config=config)[0] for b in (batch, floats)
    )
    np.testing.assert_allclose(one, two, rtol=1e-6)


def test_divergence_is_zero_for_the_prior_and_positive_elsewhere(key):
    zero = jnp.zeros((2, 3))
    assert reconstruction.divergence(zero, zero) == 0.0
    mean, log_variance = jax.random.normal(key, (2, 2, 3))
    assert reconstruction.divergence(mean, log_variance) > 0.0
    np.testing.assert_allclose(reconstruction.divergence(zero + 1.0, zero), 0.5)


@pytest.mark.parametrize("frames", [1, 3])
def test_gradient_error_sees_edges_and_not_levels(key, frames):
    level = jnp.full((1, frames, 8, 8, 3), 0.3)
    error = functools.partial(reconstruction.gradient_error, scales=(1, 2))
    np.testing.assert_allclose(error(level), 0.0, atol=1e-7)
    edge = level.at[:, :, :, 4:].add(1.0)
    # Of 7 (then 3) neighbours along width one differs, by 1, in one of the axes.
    axes = 2 if frames == 1 else 3
    np.testing.assert_allclose(error(edge), (1 / 7 + 1 / 3) / (2 * axes), rtol=1e-5)
