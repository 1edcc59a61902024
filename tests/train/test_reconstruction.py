import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax import sharding
from soraflax.nn import autoencoder, perceptual
from soraflax.train import reconstruction, step
from tests.nn import lpips_params


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


def test_noise_is_in_deviations_of_each_channel(key):
    mean = jax.random.normal(key, (2, 3, 8, 8, 4)) * jnp.array([1.0, 2.0, 3.0, 4.0])
    added = reconstruction._added_noise(key, mean.shape, greatest=0.5)
    levels = jnp.std(added, axis=(1, 2, 3, 4))
    assert np.all((levels > 0.0) & (levels < 0.6)) and levels[0] != levels[1]
    certain = jnp.full(mean.shape, -100.0)
    latent = reconstruction._sample(
        mean, certain, noise=jnp.ones(mean.shape), added=added
    )
    scale = jnp.std(mean, axis=(0, 1, 2, 3))
    np.testing.assert_allclose(latent, mean + scale * added, rtol=1e-4, atol=1e-4)


def test_noise_changes_the_reconstruction_and_none_does_not(key):
    module, params = _model()
    whole, quiet, noisy = (
        _loss(
            params,
            _square(),
            key,
            module=module,
            config=reconstruction.ReconstructionConfig(kl=kl, noise=noise),
        )[1]
        for kl, noise in ((1e-4, 0.0), (1e-3, 0.0), (1e-4, 2.0))
    )
    assert whole["l1"] == quiet["l1"] != noisy["l1"]
    np.testing.assert_allclose(whole["kl"], noisy["kl"])


def test_frozen_parameters_are_used_and_have_no_gradient(key):
    module, params = _model()
    config = reconstruction.ReconstructionConfig(noise=0.2)
    trained = {"decoder": params["decoder"]}
    frozen = {name: value for name, value in params.items() if name not in trained}
    context = step.LossContext(step=0, constants={"frozen": frozen})
    whole, _ = _loss(params, _square(), key, module=module, config=config)
    part, _ = reconstruction.loss(
        trained, _square(), key, context, module=module, config=config
    )
    np.testing.assert_allclose(part, whole, rtol=1e-5)


def test_divergence_is_zero_for_the_prior_and_positive_elsewhere(key):
    zero = jnp.zeros((2, 3))
    assert reconstruction.kl_divergence(zero, zero) == 0.0
    mean, log_variance = jax.random.normal(key, (2, 2, 3))
    assert reconstruction.kl_divergence(mean, log_variance) > 0.0
    np.testing.assert_allclose(reconstruction.kl_divergence(zero + 1.0, zero), 0.5)


@pytest.mark.parametrize("frames", [1, 3])
def test_gradient_error_sees_edges_and_not_levels(key, frames):
    level = jnp.full((1, frames, 8, 8, 3), 0.3)
    error = functools.partial(reconstruction.gradient_difference, scales=(1, 2))
    np.testing.assert_allclose(error(level), 0.0, atol=1e-7)
    edge = level.at[:, :, :, 4:].add(1.0)
    # Of 7 (then 3) neighbours along width one differs, by 1, in one of the axes.
    axes = 2 if frames == 1 else 3
    np.testing.assert_allclose(error(edge), (1 / 7 + 1 / 3) / (2 * axes), rtol=1e-5)


@functools.cache
def _streamed():
    """Halves frames twice over, with no convolution that starts at zero."""
    sizes = autoencoder.AutoencoderConfig(
        latent_channels=2,
        patch=(2, 4),
        width=8,
        multipliers=(1, 1),
        spatial_downsample=(False,),
        temporal_downsample=(True,),
        blocks=1,
        attention=False,
    )
    module = autoencoder.Autoencoder(sizes)
    params, _ = sharding.init(module, jax.random.key(0), jnp.zeros((1, 1, 8, 8, 3)))
    rng = np.random.default_rng(7)

    def noisy(leaf):
        return leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32)

    return module, jax.tree.map(noisy, jax.device_get(params))


@functools.partial(jax.jit, static_argnames=("module", "chunks", "after"))
def _slope(params, video, key, *, module, chunks, after):
    def loss(video):
        result = reconstruction.reconstruct(
            module,
            params,
            video=video,
            key=key,
            config=reconstruction.ReconstructionConfig(chunks=chunks),
        )
        return jnp.sum(jnp.square(result.video[:, after:])), result

    return jax.grad(loss, has_aux=True)(video)


def _late(video, key, *, chunks, after):
    """The gradient of frames from `after` on, and the reconstruction."""
    module, params = _streamed()
    return _slope(params, video, key, module=module, chunks=chunks, after=after)


def _clip(frames):
    return jax.random.uniform(jax.random.key(3), (1, frames, 8, 8, 3), minval=-1.0)


def test_chunks_give_the_whole_and_carry_no_gradient(key):
    # Latent frames 0 and 1, and one more.
    slope, whole = _late(_clip(9), key, chunks=(), after=5)
    cut, parts = _late(_clip(9), key, chunks=(1,), after=5)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.any(slope[:, :5])
    assert not np.any(cut[:, :5]) and np.any(cut[:, 5:])


def test_the_length_of_chunks_is_drawn(key):
    """Both lengths occur: one cuts the gradient, the other holds the whole clip."""
    found = set()
    for k in jax.random.split(key, 8):
        whole, _ = _late(_clip(9), k, chunks=(), after=5)
        slope, _ = _late(_clip(9), k, chunks=(1, 5), after=5)
        found.add(cut := not np.any(slope[:, :5]))
        if not cut:
            np.testing.assert_allclose(slope, whole, rtol=1e-3, atol=1e-5)
    assert found == {True, False}


def test_an_image_is_one_chunk(key):
    one, other = (
        _late(_clip(1), key, chunks=chunks, after=0)[1] for chunks in ((), (1, 2))
    )
    np.testing.assert_array_equal(one.video, other.video)


def test_lpips_counts_with_its_weight():
    weights = lpips_params.random()
    x, y = jax.random.uniform(jax.random.key(0), (2, 1, 1, 16, 16, 3))
    config = reconstruction.ReconstructionConfig(lpips=2.0, lpips_path="FILE")
    plain = reconstruction.ReconstructionConfig()
    total, terms = reconstruction.pixel_loss(y, x, config=config, lpips=weights)
    without, _ = reconstruction.pixel_loss(y, x, config=plain)
    np.testing.assert_allclose(
        terms["lpips"], perceptual.distance(y, x, params=weights)[0], rtol=1e-5
    )
    np.testing.assert_allclose(total, without + 2.0 * terms["lpips"], rtol=1e-5)
    with pytest.raises(ValueError, match="the LPIPS term needs parameters"):
        reconstruction.pixel_loss(y, x, config=config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lpips": 0.5}, "lpips 0.5 has no weights: give lpips_path=FILE, or use 0"),
        ({"chunks": (2, 0)}, "use 1 latent frame or more"),
    ],
)
def test_impossible_losses_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        reconstruction.ReconstructionConfig(**values)
