"""The autoencoder's adversarial loss: a discriminator tells decoded from real video.

For a video x, its reconstruction y = decode(encode(x)) and logits D per patch,

    discriminator = (mean max(0, 1 - D(x)) + mean max(0, 1 + D(y))) / 2
                    + r1 R + lecam L,                                             (1)
    adversarial   = - mean D(y),                                                  (2)
    autoencoder   = pixels(y, x) + kl KL + w adversarial,                         (3)

the hinge losses (arXiv:1705.02894) beside the loss of `train.reconstruction`. One step
updates both networks; each sees the other through a stop_gradient.

The weight w makes the two gradients that meet at the pixels of y comparable,

    w = weight ramp(step) |d pixels / dy| / |d adversarial / dy|,                 (4)

norms over the whole batch, of microbatches each over its own. VQGAN (arXiv:2012.09841,
equation 7) takes the ratio at the last layer, EnCodec's balancer (arXiv:2210.13438,
section 3.4) at the output, as here: both gradients are computed there anyway, and
their weighted sum g goes back through the decoder once, as the derivative of <g, y>.

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
from jaxtyping import Array, Float, Int

from soraflax import sharding
from soraflax.nn import autoencoder, discriminator
from soraflax.train import optimizer, reconstruction, step

LogitsFn = Callable[[Any, jax.Array], jax.Array]
Video = Float[Array, "B T H W 3"]
AUTOENCODER, DISCRIMINATOR, ANCHORS = "autoencoder", "discriminator", "anchors"


@dataclasses.dataclass(frozen=True)
class AdversarialConfig:
    """Weights and schedule of the adversarial terms.

    Attributes:
      weight: `weight` of equation (4): the norm of the adversarial gradient at the
        pixels, relative to that of the reconstruction.
      start: step at which equation (2) begins to reach the autoencoder.
      ramp: number of steps in which its weight then grows from 0 to `weight`.
      discriminator_start: step at which the discriminator begins to learn.
      r1: weight of equation (5).
      r1_every: at least one clip of so many in a batch is penalised; second
        derivatives cost more than all the rest of the discriminator.
      lecam: weight of equation (6).
      lecam_decay: decay of the running averages of equation (6), in [0, 1).
      max_weight: greatest w; the logits of a constant discriminator have no gradient.
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
class AutoencoderGAN:
    """Both networks, and the weights of their losses.

    Attributes:
      autoencoder: the autoencoder.
      discriminator: the discriminator.
      reconstruction: weights of the reconstruction loss.
      config: weights and schedule of the adversarial terms.
    """

    autoencoder: autoencoder.Autoencoder
    discriminator: discriminator.Discriminator
    reconstruction: reconstruction.ReconstructionConfig
    config: AdversarialConfig

    def logits(self, params: Any, video: Video) -> Any:
        """The discriminator's logits of a video, one per patch."""
        return self.discriminator.apply({"params": params}, video)


def loss(
    params: Mapping[str, Any],
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    context: step.LossContext,
    *,
    gan: AutoencoderGAN,
) -> tuple[Float[Array, ""], dict[str, jax.Array]]:
    """Equations (1) and (3), each with gradients for its own network alone.

    Args:
      params: `autoencoder`, its trained parameters; `discriminator`; with LeCam also
        `anchors` (`anchors()`).
      batch: `video`, `[B, T, H, W, 3]`: uint8, or float in [-1, 1].
      key: PRNG key of the posterior's sample.
      context: the step; `frozen` in its constants is the rest of the autoencoder's
        parameters, `lpips` those of the perceptual term; either may be missing.
      gan: networks and weights.

    Returns:
      The sum of both losses and float32 scalars: the terms of `reconstruction.loss`,
      `reconstruction` (their weighted sum without KL), `adversarial`,
      `adversarial_weight`, and those of `discriminator_loss`.
    """
    video = reconstruction.as_float(batch["video"])
    weights = gan.reconstruction
    merged = {**context.constants.get("frozen", {}), **params[AUTOENCODER]}
    result = reconstruction.reconstruct(
        gan.autoencoder, merged, video=video, key=key, config=weights
    )
    fake = jax.lax.stop_gradient(result.video)
    value, gradient, scalars = pixel_loss(
        params, fake, real=video, context=context, gan=gan
    )
    kl = reconstruction.kl_divergence(result.mean, result.log_variance)
    # d <g, y> / d params: the pixels' gradient g goes back through the decoder.
    backward = jnp.sum(gradient * result.video)
    autoencoder_loss = value + weights.kl * kl + _gradient_only(backward)
    critic_loss, critic_scalars = discriminator_loss(
        params, video, fake=fake, step=context.step, gan=gan
    )
    psnr = reconstruction.mean_psnr(fake, video)
    scalars = {**scalars, **critic_scalars, "kl": kl, "psnr": psnr}
    return autoencoder_loss + critic_loss, scalars


def pixel_loss(
    params: Mapping[str, Any],
    fake: Video,
    *,
    real: Video,
    context: step.LossContext,
    gan: AutoencoderGAN,
) -> tuple[Float[Array, ""], Video, dict[str, jax.Array]]:
    """Equation (3) without its KL, as a function of the decoded video alone.

    Returns:
      Its value, its gradient with respect to `fake` with w held fixed, and its terms.
    """
    frozen = jax.lax.stop_gradient(params[DISCRIMINATOR])

    def error_of(y: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return reconstruction.pixel_loss(
            y, real, config=gan.reconstruction, lpips=context.constants.get("lpips")
        )

    def adversarial_of(y: jax.Array) -> jax.Array:
        return generator_hinge(gan.logits(frozen, y))

    (error, terms), g_error = jax.value_and_grad(error_of, has_aux=True)(fake)
    adversarial, g_adversarial = jax.value_and_grad(adversarial_of)(fake)
    weight = adaptive_weight(
        g_error, g_adversarial, step=context.step, config=gan.config
    )
    scalars = {
        "reconstruction": error,
        "adversarial": adversarial,
        "adversarial_weight": weight,
    }
    gradient = g_error + weight * g_adversarial
    return error + weight * adversarial, gradient, terms | scalars


def discriminator_loss(
    params: Mapping[str, Any],
    real: Video,
    *,
    fake: Video,
    step: Int[Array, ""],
    gan: AutoencoderGAN,
) -> tuple[Float[Array, ""], dict[str, jax.Array]]:
    """Equation (1), zero before `discriminator_start`.

    Args:
      params: `discriminator` and, with LeCam, `anchors`.
      real: videos in [-1, 1].
      fake: their reconstructions, without a gradient.
      step: number of updates so far.
      gan: networks and weights.

    Returns:
      The loss, and the scalars `discriminator` (its hinge), `logits_real`,
      `logits_fake`, and `r1` and `lecam` where they have a weight.
    """
    config, own = gan.config, params[DISCRIMINATOR]
    logits_real, logits_fake = gan.logits(own, real), gan.logits(own, fake)
    hinge = discriminator_hinge(logits_real, logits_fake)
    scalars = {
        "discriminator": hinge,
        "logits_real": jnp.mean(logits_real),
        "logits_fake": jnp.mean(logits_fake),
    }
    total, anchor_loss = hinge, jnp.zeros(())
    if config.r1:
        scalars["r1"] = gradient_penalty(
            gan.logits, own, real=_subsample(real, config.r1_every)
        )
        total += config.r1 * scalars["r1"]
    if config.lecam:
        anchor = params[ANCHORS]
        scalars["lecam"] = lecam(logits_real, logits_fake, anchor=anchor)
        total += config.lecam * scalars["lecam"]
        for name in ("real", "fake"):
            mean = jax.lax.stop_gradient(scalars[f"logits_{name}"])
            anchor_loss += 0.5 * jnp.square(anchor[name] - mean)
    active = (step >= config.discriminator_start).astype(jnp.float32)
    return active * total + _gradient_only(anchor_loss), scalars


def discriminator_hinge(
    real: Float[Array, "..."], fake: Float[Array, "..."]
) -> Float[Array, ""]:
    """The first line of equation (1), of logits of any shape."""
    real, fake = jax.nn.relu(1.0 - real), jax.nn.relu(1.0 + fake)
    return 0.5 * (jnp.mean(real) + jnp.mean(fake))


def generator_hinge(fake: Float[Array, "..."]) -> Float[Array, ""]:
    """Equation (2), of logits of any shape."""
    return -jnp.mean(fake)


def adaptive_weight(
    pixels: Float[Array, "*shape"],
    adversarial: Float[Array, "*shape"],
    *,
    step: Int[Array, ""],
    config: AdversarialConfig,
) -> Float[Array, ""]:
    """Equation (4) of the gradients of both terms; 0 up to and at `config.start`."""
    elapsed = step.astype(jnp.float32) - config.start
    ramp = jnp.clip(elapsed / max(1, config.ramp), 0.0, 1.0)
    norms = [jnp.sqrt(jnp.sum(jnp.square(g))) for g in (pixels, adversarial)]
    ratio = norms[0] / jnp.maximum(norms[1], 1e-12)
    return ramp * jnp.minimum(config.weight * ratio, config.max_weight)


def gradient_penalty(
    logits_fn: LogitsFn, params: Any, *, real: Float[Array, "B ..."]
) -> Float[Array, ""]:
    """Equation (5); `logits_fn(params, real)` are the logits of D."""

    def total(video: jax.Array) -> tuple[jax.Array, int]:
        logits = logits_fn(params, video)
        return jnp.sum(logits), logits.size

    gradient, count = jax.grad(total, has_aux=True)(real)
    return jnp.sum(jnp.square(gradient)) / (2.0 * count)


def lecam(
    real: Float[Array, "..."],
    fake: Float[Array, "..."],
    *,
    anchor: Mapping[str, Float[Array, ""]],
) -> Float[Array, ""]:
    """Equation (6); the anchors are averages of the logits of `real` and `fake`."""
    anchor = jax.lax.stop_gradient(anchor)
    distance = jnp.mean(jnp.square(real - anchor["fake"]))
    return distance + jnp.mean(jnp.square(fake - anchor["real"]))


def anchors() -> dict[str, Float[Array, ""]]:
    """The averages of equation (6) at step 0."""
    return {"real": jnp.zeros(()), "fake": jnp.zeros(())}


def anchor_optimizer(config: AdversarialConfig) -> optimizer.OptimizerConfig:
    """The optimizer that makes the group `anchors` exponential averages."""
    return optimizer.OptimizerConfig(
        name="sgd",
        learning_rate=1.0 - config.lecam_decay,
        schedule="constant",
        warmup=0,
        weight_decay=0.0,
        clip_norm=0.0,
    )


def _subsample(video: Video, every: int) -> Video:
    """One clip in `every`, or more: as many as the mesh divides."""
    # A stride that divides the clips of a device leaves each device as many.
    return video[:: math.gcd(every, video.shape[0] // sharding.batch_shards())]


def _gradient_only(x: Float[Array, ""]) -> Float[Array, ""]:
    """Zero, with the gradient of `x`."""
    return x - jax.lax.stop_gradient(x)
