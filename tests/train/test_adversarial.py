"""The adversarial loss: its numbers by hand, and who learns from what."""

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax import sharding
from soraflax.nn import autoencoder, discriminator
from soraflax.train import adversarial, reconstruction, step

CONFIG = adversarial.AdversarialConfig(
    start=2, ramp=4, discriminator_start=1, r1=0.5, lecam=0.3
)
PIXELS = reconstruction.ReconstructionConfig(kl=0.01)
KEY = jax.random.key(0)


@functools.cache
def _gan() -> tuple[adversarial.AutoencoderGAN, dict[str, Any], dict[str, jax.Array]]:
    sizes = autoencoder.AutoencoderConfig(
        latent_channels=4,
        patch=(4, 4),
        width=8,
        multipliers=(1,),
        spatial_downsample=(),
        temporal_downsample=(),
        blocks=1,
        attention=False,
    )
    module = autoencoder.Autoencoder(sizes)
    critic = discriminator.Discriminator(discriminator.VARIANTS["tiny"])
    video = jax.random.uniform(KEY, (2, 5, 8, 8, 3), minval=-1.0, maxval=1.0)
    params: dict[str, Any] = {
        adversarial.AUTOENCODER: sharding.init(module, KEY, video)[0],
        adversarial.DISCRIMINATOR: sharding.init(critic, KEY, video)[0],
        adversarial.ANCHORS: {"real": jnp.float32(0.4), "fake": jnp.float32(-0.2)},
    }
    return (
        adversarial.AutoencoderGAN(module, critic, PIXELS, CONFIG),
        params,
        {"video": video},
    )


@functools.cache
def _gradients() -> Any:
    """Compiled: parameters and step to gradients and scalars."""
    gan, _, batch = _gan()

    def run(params: Any, at: jax.Array) -> Any:
        return jax.grad(adversarial.loss, has_aux=True)(
            params, batch, KEY, step.LossContext(at, {}), gan=gan
        )

    return jax.jit(run)


@jax.jit
def _penalty(params: Any, real: jax.Array) -> jax.Array:
    return adversarial.gradient_penalty(_gan()[0].logits, params, real=real)


def _at(number: int) -> Any:
    return _gradients()(_gan()[1], jnp.int32(number))


def test_hinges_of_literal_logits() -> None:
    real, fake = jnp.asarray([2.0, 0.5, -1.0]), jnp.asarray([-2.0, 0.0, 0.5])
    # (0 + 0.5 + 2) / 3 for the real ones, (0 + 1 + 1.5) / 3 for the others.
    value = adversarial.discriminator_hinge(real, fake)
    np.testing.assert_allclose(value, 0.5 * (2.5 / 3 + 2.5 / 3))
    np.testing.assert_allclose(adversarial.generator_hinge(fake), 0.5)


def test_before_the_start_the_autoencoder_learns_to_reconstruct_alone() -> None:
    gan, params, batch = _gan()
    grads, scalars = _at(0)
    plain = jax.jit(
        jax.grad(
            lambda p: reconstruction.loss(
                p, batch, KEY, module=gan.autoencoder, config=PIXELS
            )[0]
        )
    )(params[adversarial.AUTOENCODER])
    assert scalars["adversarial_weight"] == 0.0
    chex.assert_trees_all_close(
        grads[adversarial.AUTOENCODER], plain, rtol=1e-4, atol=1e-6
    )


def test_the_discriminator_starts_when_it_should() -> None:
    before, after = (_at(n)[0][adversarial.DISCRIMINATOR] for n in (0, 1))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(before))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(after))


def test_the_weight_is_the_ratio_of_gradients_at_the_pixels() -> None:
    gan, params, batch = _gan()
    x = batch["video"]

    @jax.jit
    def slopes(params: Any) -> tuple[jax.Array, jax.Array]:
        own = {"params": params[adversarial.AUTOENCODER]}
        output: Any = gan.autoencoder.apply(own, x, KEY)
        y = output.video
        pixels = jax.grad(lambda y: reconstruction.pixel_loss(y, x, config=PIXELS)[0])
        logits = functools.partial(gan.logits, params[adversarial.DISCRIMINATOR])
        return pixels(y), jax.grad(lambda y: -jnp.mean(logits(y)))(y)

    pixels, fooled = slopes(params)
    ratio = np.linalg.norm(np.ravel(pixels)) / np.linalg.norm(np.ravel(fooled))
    for number, ramp in ((2, 0.0), (4, 0.5), (6, 1.0), (60, 1.0)):
        weight = _at(number)[1]["adversarial_weight"]
        np.testing.assert_allclose(weight, CONFIG.weight * ramp * ratio, rtol=1e-3)


def test_the_weight_is_bounded() -> None:
    bounded = dataclasses.replace(CONFIG, max_weight=7.0, ramp=0)
    pixels, nothing = jnp.ones(3), jnp.zeros(3)
    weigh = functools.partial(adversarial.adaptive_weight, pixels, nothing)
    assert weigh(step=jnp.int32(3), config=bounded) == 7.0
    assert weigh(step=jnp.int32(2), config=bounded) == 0.0


def test_each_network_learns_from_its_own_loss() -> None:
    """One step of both gives what two separate losses, written out, would give."""
    gan, params, batch = _gan()
    grads, scalars = _at(6)
    x, weight = batch["video"], scalars["adversarial_weight"]

    @jax.jit
    def ours(own: Any) -> Any:
        def direct(own: Any) -> tuple[jax.Array, jax.Array]:
            result: Any = gan.autoencoder.apply({"params": own}, x, KEY)
            kl = reconstruction.kl_divergence(result.mean, result.log_variance)
            pixels, _ = reconstruction.pixel_loss(result.video, x, config=PIXELS)
            fooled = -jnp.mean(gan.logits(params["discriminator"], result.video))
            return pixels + PIXELS.kl * kl + weight * fooled, result.video

        return jax.grad(direct, has_aux=True)(own)

    expected, y = ours(params[adversarial.AUTOENCODER])
    chex.assert_trees_all_close(
        grads[adversarial.AUTOENCODER], expected, rtol=1e-3, atol=1e-5
    )

    @jax.jit
    @jax.grad
    def theirs(own: Any) -> jax.Array:
        real, fake = gan.logits(own, x), gan.logits(own, y)
        hinge = adversarial.discriminator_hinge(real, fake)
        pull = jnp.mean(jnp.square(real + 0.2)) + jnp.mean(jnp.square(fake - 0.4))
        flat = adversarial.gradient_penalty(gan.logits, own, real=x)
        return hinge + CONFIG.r1 * flat + CONFIG.lecam * pull

    expected = theirs(params[adversarial.DISCRIMINATOR])
    chex.assert_trees_all_close(
        grads[adversarial.DISCRIMINATOR], expected, rtol=1e-3, atol=1e-5
    )


def test_the_anchors_descend_to_the_mean_logits() -> None:
    grads, scalars = _at(6)
    for name, value in (("real", 0.4), ("fake", -0.2)):
        slope = grads[adversarial.ANCHORS][name]
        np.testing.assert_allclose(slope, value - scalars[f"logits_{name}"], rtol=1e-5)
    rule = adversarial.anchor_optimizer(CONFIG)
    assert (rule.name, rule.clip_norm, rule.weight_decay) == ("sgd", 0.0, 0.0)
    np.testing.assert_allclose(rule.learning_rate, 0.01)


def test_lecam_of_literal_logits() -> None:
    real, fake = jnp.asarray([1.0, 3.0]), jnp.asarray([-1.0, 0.0])
    anchor = {"real": jnp.float32(2.0), "fake": jnp.float32(-1.0)}
    # Real logits are 2 and 4 from the fake anchor, fake ones 3 and 2 from the real.
    np.testing.assert_allclose(adversarial.lecam(real, fake, anchor=anchor), 10.0 + 6.5)
    assert not any(
        jax.tree.leaves(
            jax.grad(lambda a: adversarial.lecam(real, fake, anchor=a))(anchor)
        )
    )


def test_penalty_of_a_linear_discriminator() -> None:
    slope = jax.random.normal(KEY, (3, 4, 4, 3))
    video = jax.random.normal(KEY, (2, 3, 4, 4, 3))

    def linear(params: jax.Array, video: jax.Array) -> jax.Array:
        return jnp.einsum("bthwc,thwc->b", video, params) + 1.0

    found = adversarial.gradient_penalty(linear, slope, real=video)
    np.testing.assert_allclose(found, np.sum(np.square(slope)) / 2, rtol=1e-5)


def test_penalty_is_what_finite_differences_say() -> None:
    gan, params, batch = _gan()
    x, own = batch["video"], params[adversarial.DISCRIMINATOR]

    @jax.jit
    def total(x: jax.Array) -> jax.Array:
        return jnp.sum(gan.logits(own, x))

    slope = jax.grad(total)(x)
    ahead = 1e-2 * slope / jnp.linalg.norm(jnp.ravel(slope))
    steepest = (total(x + ahead) - total(x - ahead)) / 2e-2
    found = _penalty(own, x)
    count = gan.logits(own, x).size
    np.testing.assert_allclose(found, steepest**2 / (2 * count), rtol=1e-2)


def test_the_penalty_does_not_depend_on_the_size_of_the_clip() -> None:
    own = _gan()[1][adversarial.DISCRIMINATOR]
    found = [
        _penalty(own, jax.random.normal(KEY, (1, 5, side, side, 3)))
        for side in (32, 64)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=0.2)


def test_a_frozen_part_has_no_gradient_and_changes_no_value() -> None:
    gan, params, batch = _gan()
    whole = params[adversarial.AUTOENCODER]
    frozen = {"encoder": whole["encoder"], "moments": whole["moments"]}
    rest = {name: tree for name, tree in whole.items() if name not in frozen}
    grads, scalars = jax.jit(
        lambda p: jax.grad(adversarial.loss, has_aux=True)(
            p, batch, KEY, step.LossContext(jnp.int32(6), {"frozen": frozen}), gan=gan
        )
    )(params | {adversarial.AUTOENCODER: rest})
    expected, same = _at(6)
    chex.assert_trees_all_close(scalars, same, rtol=1e-4, atol=1e-6)
    assert set(grads[adversarial.AUTOENCODER]) == {"embed", "decoder"}
    chex.assert_trees_all_close(
        grads[adversarial.AUTOENCODER]["decoder"],
        expected[adversarial.AUTOENCODER]["decoder"],
        rtol=1e-3,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start": 100, "discriminator_start": 200}, "after start 100; use 100 or"),
        ({"ramp": -1}, "use 0 or more"),
        ({"r1": -1.0}, "use 0 or more"),
        ({"r1_every": 0}, "r1_every 0: use 1 or more"),
        ({"lecam_decay": 1.0}, r"use one in \[0, 1\)"),
    ],
)
def test_impossible_games_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adversarial.AdversarialConfig(**values)
