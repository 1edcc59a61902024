"""The autoencoder's training loss: reconstruction, Kullback-Leibler, gradients.

For a video x, its reconstruction y and a posterior N(m, v) per latent element,

    loss = l1 mean|x - y| + l2 mean(x - y)^2 + kl KL + gradients G,               (1)
    KL   = mean (m^2 + v - 1 - log v) / 2,                                        (2)
    G    = mean over scales s and axes a of  mean|d_a(pool_s(x) - pool_s(y))|,    (3)

in which `pool_s` averages s x s pixels and `d_a` is the difference between neighbours
along height, width or time. G weighs an edge in the wrong place or a blurred one as the
eye does and needs no pretrained network (an image gradient loss, arXiv:1511.05440,
taken over scales and over time).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from soraflax.evaluation import metrics
from soraflax.nn import autoencoder
from soraflax.ops import conv


@dataclasses.dataclass(frozen=True)
class ReconstructionConfig:
    """Weights of equation (1).

    Attributes:
      l1: of the mean absolute error.
      l2: of the mean squared error.
      kl: of the divergence, in nats per latent element.
      gradients: of the gradient term.
      gradient_scales: sides s of the pools of equation (3).
    """

    l1: float = 1.0
    l2: float = 2.0
    kl: float = 1e-4
    gradients: float = 1.0
    gradient_scales: tuple[int, ...] = (1, 2, 4)


def loss(
    params: Any,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    *,
    module: autoencoder.Autoencoder,
    config: ReconstructionConfig,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Equation (1) of a batch.

    Args:
      params: of `module`.
      batch: `video`, `[B, T, H, W, 3]`: uint8, or float in [-1, 1].
      key: for the posterior's sample.
      module: the autoencoder.
      config: the weights.

    Returns:
      The loss and the float32 scalars `loss l1 l2 kl gradients psnr`.
    """
    video = as_float(batch["video"])
    result: Any = module.apply({"params": params}, video, key)
    error = result.video - video
    l1, l2 = jnp.mean(jnp.abs(error)), jnp.mean(jnp.square(error))
    kl = divergence(result.mean, result.log_variance)
    gradients = gradient_error(error, scales=config.gradient_scales)
    total = config.l1 * l1 + config.l2 * l2
    total += config.kl * kl + config.gradients * gradients
    scalars = {"loss": total, "l1": l1, "l2": l2, "kl": kl, "gradients": gradients}
    decibels = jnp.mean(metrics.psnr(jnp.clip(result.video, -1.0, 1.0), video))
    return total, scalars | {"psnr": jax.lax.stop_gradient(decibels)}


def as_float(video: jax.Array) -> jax.Array:
    """uint8 to float32 in [-1, 1]; floats are taken as they are, in float32."""
    if video.dtype == jnp.uint8:
        return video.astype(jnp.float32) / 127.5 - 1.0
    return video.astype(jnp.float32)


def divergence(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """Equation (2): from the standard normal, nats per latent element."""
    variance = jnp.exp(log_variance)
    return 0.5 * jnp.mean(jnp.square(mean) + variance - 1.0 - log_variance)


def gradient_error(error: jax.Array, *, scales: tuple[int, ...]) -> jax.Array:
    """Equation (3) of `error = y - x`; pooling and differences are linear."""
    terms = []
    for scale in scales:
        pooled = conv.average_pool(error, (1, scale, scale))
        axes = [axis for axis in (1, 2, 3) if pooled.shape[axis] > 1]
        terms += [jnp.mean(jnp.abs(jnp.diff(pooled, axis=axis))) for axis in axes]
    return sum(terms, start=jnp.zeros(())) / max(len(terms), 1)
