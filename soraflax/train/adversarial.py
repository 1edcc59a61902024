"""The autoencoder's adversarial training: a discriminator judges what is decoded.

For a video x, its reconstruction y = decode(encode(x)) and logits D per patch,

    discriminator = (mean max(0, 1 - D(x)) + mean max(0, 1 + D(y))) / 2
                    + r1 R + lecam L,                                             (1)
    adversarial   = - mean D(y),                                                  (2)
    autoencoder   = pixels(y, x) + kl KL + w adversarial,                         (3)

the hinge losses (arXiv:1705.02894) beside the loss of `train.reconstruction`. One step
updates both networks; each sees the other through a stop_gradient.

The weight w makes the two gradients that meet at the pixels of y comparable,

    w = weight ramp(step) |d pixels / dy| / |d adversarial / dy|,                 (4)

norms over the whole batch. VQGAN (arXiv:2012.09841, equation 7) takes the ratio at the
last layer, EnCodec's balancer (arXiv:2210.13438, section 3.4) at the output, as here:
both gradients are computed there anyway, and what goes back through the decoder, once,
is their weighted sum g, as the derivative of <g, y>.

Two regularisers keep the discriminator from winning. R1 (arXiv:1801.04406, equation 9)
flattens it around real videos; taken per patch, it does not depend on the size of the
clip. LeCam (arXiv:2104.03310, equation 4) pulls the logits of real and of decoded video
towards the running average of the other's, f and r:

    R = sum |d sum D(x) / dx|^2 / (2 number of logits),                           (5)
    L = mean (D(x) - f)^2 + mean (D(y) - r)^2.                                    (6)

f and r are parameters, the group `anchors`: an exponential average of m is gradient
descent on (f - m)^2 / 2 at the rate 1 - decay (`anchor_optimizer`), so that they are
saved, sharded and resumed like all others.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from soraflax import sharding
from soraflax.nn import autoencoder, discriminator
from soraflax.train import optimizer, reconstruction, step

Critic = Callable[[Any, jax.Array], jax.Array]
AUTOENCODER, DISCRIMINATOR, ANCHORS = "autoencoder", "discriminator", "anchors"


@dataclasses.dataclass(frozen=True)
class AdversarialConfig:
    """Weights and course of the adversarial game.

    Attributes:
      weight: of equation (4): the norm of the adversarial gradient at the pixels,
        relative to that of the reconstruction.
      start: step at which equation (2) begins to reach the autoencoder.
      ramp: steps in which its weight then grows from 0 to `weight`.
      discriminator_start: step at which the discriminator begins to learn.
      r1: weight of equation (5).
      r1_every: at least one clip in so many of a batch is penalised; second
        derivatives cost more than all the rest of the discriminator.
      lecam: weight of equation (6).
      lecam_decay: of the running averages of equation (6).
      max_weight: bound of w, for a discriminator that says the same of everything.
    """

    weight: float = 0.5
    start: int = 500
    ramp: int = 500
    discriminator_start: int = 0
    r1: float = 0.1
    r1_every: int = 1
    lecam: float = 0.0
    lecam_decay: float = 0.99
    max_weight: float = 1e4

    def __post_init__(self) -> None:
        if min(self.start, self.ramp, self.discriminator_start) < 0:
            raise ValueError("start, ramp and discriminator_start: use 0 or more")
        if self.discriminator_start > self.start:
            raise ValueError(
                f"discriminator_start {self.discriminator_start} is after start "
                f"{self.start}; use {self.start} or less"
            )
        if min(self.weight, self.r1, self.lecam) < 0:
            raise ValueError("weight, r1 and lecam: use 0 or more")
        if self.r1_every < 1:
            raise ValueError(f"r1_every {self.r1_every}: use 1 or more")
        if not 0 <= self.lecam_decay < 1:
            raise ValueError(f"lecam_decay {self.lecam_decay}: use one in [0, 1)")


@dataclasses.dataclass(frozen=True)
class Game:
    """Who plays, and for what.

    Attributes:
      module: the autoencoder.
      critic: the discriminator.
      pixels: the weights of the reconstruction.
      config: those of the adversarial terms.
    """

    module: autoencoder.Autoencoder
    critic: discriminator.Discriminator
    pixels: reconstruction.ReconstructionConfig
    config: AdversarialConfig

    def judge(self, params: Any, video: jax.Array) -> Any:
        """The logits of a video."""
        return self.critic.apply({"params": params}, video)


def loss(
    params: Mapping[str, Any],
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    context: step.Context,
    *,
    game: Game,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Equations (1) and (3), each with gradients for its own network alone.

    Args:
      params: `autoencoder`, what is trained of it; `discriminator`; with LeCam also
        `anchors`, as `anchors()` makes them.
      batch: `video`, `[B, T, H, W, 3]`: uint8, or float in [-1, 1].
      key: for the posterior's sample.
      context: the step; `frozen` in its constants is the rest of the autoencoder's
        parameters, `lpips` those of the perceptual term; either may be missing.
      game: networks and weights.

    Returns:
      The sum of both losses and float32 scalars: the terms of `reconstruction.loss`,
      `reconstruction` (their weighted sum without KL), `adversarial`,
      `adversarial_weight`, and those of `discriminator_loss`.
    """
    video = reconstruction.as_float(batch["video"])
    codec = {**context.constants.get("frozen", {}), **params[AUTOENCODER]}
    result = reconstruction.reconstruct(
        game.module, codec, video=video, key=key, chunks=game.pixels.chunks
    )
    fake = jax.lax.stop_gradient(result.video)
    value, slope, scalars = at_pixels(
        params, fake, real=video, context=context, game=game
    )
    kl = reconstruction.divergence(result.mean, result.log_variance)
    back = jnp.sum(slope * result.video)
    ours = value + game.pixels.kl * kl + _without_value(back)
    theirs, judged = discriminator_loss(
        params, video, fake=fake, at=context.step, game=game
    )
    psnr = reconstruction.decibels(fake, video)
    return ours + theirs, {**scalars, **judged, "kl": kl, "psnr": psnr}


def at_pixels(
    params: Mapping[str, Any],
    fake: jax.Array,
    *,
    real: jax.Array,
    context: step.Context,
    game: Game,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Equation (3) without its KL, as a function of the decoded video alone.

    Returns:
      Its value, its gradient with respect to `fake` with w held fixed, and what it
      consists of.
    """
    rival = jax.lax.stop_gradient(params[DISCRIMINATOR])

    def pixels(y: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return reconstruction.pixel_loss(
            y, real, config=game.pixels, lpips=context.constants.get("lpips")
        )

    def adversarial(y: jax.Array) -> jax.Array:
        return generator_hinge(game.judge(rival, y))

    (error, terms), g_pixels = jax.value_and_grad(pixels, has_aux=True)(fake)
    fooled, g_adversarial = jax.value_and_grad(adversarial)(fake)
    weight = adaptive_weight(g_pixels, g_adversarial, context.step, game.config)
    slope = g_pixels + weight * g_adversarial
    scalars = {
        "reconstruction": error,
        "adversarial": fooled,
        "adversarial_weight": weight,
    }
    return error + weight * fooled, slope, terms | scalars


def discriminator_loss(
    params: Mapping[str, Any],
    real: jax.Array,
    *,
    fake: jax.Array,
    at: jax.Array,
    game: Game,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Equation (1), zero before `discriminator_start`.

    Args:
      params: `discriminator` and, with LeCam, `anchors`.
      real: videos `[B, T, H, W, 3]`.
      fake: their reconstructions, without a gradient.
      at: the step.
      game: networks and weights.

    Returns:
      The loss, and the scalars `discriminator` (its hinge), `logits_real`,
      `logits_fake`, and `r1` and `lecam` where they have a weight.
    """
    config, own = game.config, params[DISCRIMINATOR]
    logits_real, logits_fake = game.judge(own, real), game.judge(own, fake)
    hinge = discriminator_hinge(logits_real, logits_fake)
    scalars = {
        "discriminator": hinge,
        "logits_real": jnp.mean(logits_real),
        "logits_fake": jnp.mean(logits_fake),
    }
    total, follow = hinge, jnp.zeros(())
    if config.r1:
        scalars["r1"] = gradient_penalty(
            game.judge, own, real=_some(real, config.r1_every)
        )
        total += config.r1 * scalars["r1"]
    if config.lecam:
        anchor = params[ANCHORS]
        scalars["lecam"] = lecam(logits_real, logits_fake, anchor)
        total += config.lecam * scalars["lecam"]
        for name in ("real", "fake"):
            mean = jax.lax.stop_gradient(scalars[f"logits_{name}"])
            follow += 0.5 * jnp.square(anchor[name] - mean)
    learns = (at >= config.discriminator_start).astype(jnp.float32)
    return learns * total + _without_value(follow), scalars


def discriminator_hinge(real: jax.Array, fake: jax.Array) -> jax.Array:
    """The first line of equation (1), of logits of any shape."""
    real, fake = jax.nn.relu(1.0 - real), jax.nn.relu(1.0 + fake)
    return 0.5 * (jnp.mean(real) + jnp.mean(fake))


def generator_hinge(fake: jax.Array) -> jax.Array:
    """Equation (2)."""
    return -jnp.mean(fake)


def adaptive_weight(
    pixels: jax.Array, adversarial: jax.Array, at: jax.Array, config: AdversarialConfig
) -> jax.Array:
    """Equation (4) of the two gradients; 0 up to and at `start`."""
    past = at.astype(jnp.float32) - config.start
    ramp = jnp.clip(past / max(1, config.ramp), 0.0, 1.0)
    norms = [jnp.sqrt(jnp.sum(jnp.square(g))) for g in (pixels, adversarial)]
    ratio = norms[0] / jnp.maximum(norms[1], 1e-12)
    return ramp * jnp.minimum(config.weight * ratio, config.max_weight)


def gradient_penalty(critic: Critic, params: Any, *, real: jax.Array) -> jax.Array:
    """Equation (5)."""

    def total(video: jax.Array) -> tuple[jax.Array, int]:
        logits = critic(params, video)
        return jnp.sum(logits), logits.size

    slope, count = jax.grad(total, has_aux=True)(real)
    return jnp.sum(jnp.square(slope)) / (2.0 * count)


def lecam(
    real: jax.Array, fake: jax.Array, anchor: Mapping[str, jax.Array]
) -> jax.Array:
    """Equation (6); the anchors are averages of the logits of `real` and `fake`."""
    anchor = jax.lax.stop_gradient(anchor)
    apart = jnp.mean(jnp.square(real - anchor["fake"]))
    return apart + jnp.mean(jnp.square(fake - anchor["real"]))


def anchors() -> dict[str, jax.Array]:
    """The averages of equation (6) before anything was seen."""
    return {"real": jnp.zeros(()), "fake": jnp.zeros(())}


def anchor_optimizer(config: AdversarialConfig) -> optimizer.OptimizerConfig:
    """What makes the group `anchors` averages."""
    return optimizer.OptimizerConfig(
        name="sgd",
        learning_rate=1.0 - config.lecam_decay,
        schedule="constant",
        warmup=0,
        weight_decay=0.0,
        clip_norm=0.0,
    )


def _some(video: jax.Array, every: int) -> jax.Array:
    """One clip in `every`, or more: as many as the mesh divides."""
    return video[:: math.gcd(every, video.shape[0] // sharding.batch_shards())]


def _without_value(x: jax.Array) -> jax.Array:
    """Zero, with the gradient of `x`."""
    return x - jax.lax.stop_gradient(x)
