"""The autoencoder's training loss: reconstruction, Kullback-Leibler, perception.

For a video x, its reconstruction y and a posterior N(m, v) per latent element,

    loss   = pixels(y, x) + kl KL,                                                (1)
    pixels = l1 mean|x - y| + l2 mean(x - y)^2 + gradients G + lpips LPIPS(y, x), (2)
    KL     = mean (m^2 + v - 1 - log v) / 2,                                      (3)
    G      = mean over scales s and axes a of  mean|d_a(pool_s(x) - pool_s(y))|,  (4)

in which `pool_s` averages s x s pixels and `d_a` is the difference between neighbours
along height, width or time. G weighs an edge in the wrong place or a blurred one as the
eye does and needs no pretrained network (an image gradient loss, arXiv:1511.05440,
taken over scales and over time). LPIPS does need one (`nn.perceptual`).

A clip may go through in chunks, as a stream does (`nn.convolution`). What is carried
from one chunk to the next has no gradient: truncated back-propagation. The result is
that of the whole clip; activations are recomputed, for one chunk at a time.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from soraflax.evaluation import metrics
from soraflax.nn import autoencoder, convolution, perceptual
from soraflax.ops import conv
from soraflax.train import step


@dataclasses.dataclass(frozen=True)
class ReconstructionConfig:
    """Weights of equations (1) and (2).

    Attributes:
      l1: of the mean absolute error.
      l2: of the mean squared error.
      kl: of the divergence, in nats per latent element.
      gradients: of the gradient term.
      gradient_scales: sides s of the pools of equation (4).
      lpips: of the perceptual distance.
      lpips_path: file or folder of its parameters (`weights.lpips`).
      chunks: latent frames in a chunk; every step draws one of these lengths. Empty
        takes clips whole.
    """

    l1: float = 1.0
    l2: float = 2.0
    kl: float = 1e-4
    gradients: float = 1.0
    gradient_scales: tuple[int, ...] = (1, 2, 4)
    lpips: float = 0.0
    lpips_path: str = ""
    chunks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.lpips and not self.lpips_path:
            raise ValueError(
                f"lpips {self.lpips} has no weights: give lpips_path=FILE, or use 0"
            )
        if min(self.chunks, default=1) < 1:
            raise ValueError(f"chunks {self.chunks}: use 1 latent frame or more")


def loss(
    params: Any,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    context: step.Context | None = None,
    *,
    module: autoencoder.Autoencoder,
    config: ReconstructionConfig,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Equation (1) of a batch.

    Args:
      params: of `module`.
      batch: `video`, `[B, T, H, W, 3]`: uint8, or float in [-1, 1].
      key: for the posterior's sample.
      context: where there is an LPIPS term, `lpips` in its constants are the parameters
        of `nn.perceptual`.
      module: the autoencoder.
      config: the weights.

    Returns:
      The loss and the float32 scalars `loss l1 l2 kl gradients psnr`, and `lpips` where
      it has a weight.
    """
    video = as_float(batch["video"])
    result = reconstruct(module, params, video=video, key=key, chunks=config.chunks)
    constants = context.constants if context else {}
    error, scalars = pixel_loss(
        result.video, video, config=config, lpips=constants.get("lpips")
    )
    kl = divergence(result.mean, result.log_variance)
    total = error + config.kl * kl
    psnr = decibels(result.video, video)
    return total, scalars | {"loss": total, "kl": kl, "psnr": psnr}


def pixel_loss(
    y: jax.Array, x: jax.Array, *, config: ReconstructionConfig, lpips: Any = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Equation (2) and its terms without their weights, of videos `[B, T, H, W, 3]`.

    Raises:
      ValueError: an LPIPS term without the parameters of `nn.perceptual`.
    """
    error = y - x
    terms = {
        "l1": jnp.mean(jnp.abs(error)),
        "l2": jnp.mean(jnp.square(error)),
        "gradients": gradient_error(error, scales=config.gradient_scales),
    }
    if config.lpips and lpips is None:
        raise ValueError("the LPIPS term needs parameters: put `lpips` into constants")
    if config.lpips:
        terms["lpips"] = jnp.mean(perceptual.distance(lpips, y, x))
    total = sum(getattr(config, name) * term for name, term in terms.items())
    return jnp.asarray(total), terms


def reconstruct(
    module: autoencoder.Autoencoder,
    params: Any,
    *,
    video: jax.Array,
    key: jax.Array,
    chunks: tuple[int, ...] = (),
) -> autoencoder.Reconstruction:
    """Encode, sample the posterior, decode; in chunks if there are lengths to draw.

    One program serves all lengths: it goes by their greatest common divisor, and at
    those bounds where the drawn length has none, what is carried keeps its gradient.
    (In a branch of a conditional, XLA's CPU backend ran convolutions 30 times slower.)
    """
    sizes = module.config
    t, h, w = sizes.latent_grid(*video.shape[1:4])
    if not chunks or t == 1:
        result: Any = module.apply({"params": params}, video, key)
        return result
    noise = jax.random.normal(key, (len(video), t, h, w, sizes.latent_channels))
    draw = jax.random.fold_in(key, 1)
    length = jax.random.choice(draw, jnp.asarray(chunks, jnp.int32))
    apart = math.gcd(*chunks)
    bounds = [0, *range(1 + apart, t, apart), t]
    parts, carried = [], ({}, {})
    for start, stop in itertools.pairwise(bounds):
        first, last = (
            max(0, 1 + (n - 1) * sizes.temporal_ratio) for n in (start, stop)
        )
        carried = _cut(carried, (start - 1) % length == 0)
        part, carried = jax.checkpoint(
            functools.partial(_chunk, module, first=start == 0)
        )(params, video[:, first:last], noise[:, start:stop], carried)
        parts.append(part)
    return jax.tree.map(lambda *pieces: jnp.concatenate(pieces, axis=1), *parts)


def _cut(carried: Any, here: jax.Array) -> Any:
    """The same values, without their gradient if `here`."""
    return jax.tree.map(lambda x: jnp.where(here, jax.lax.stop_gradient(x), x), carried)


def _chunk(
    module: autoencoder.Autoencoder,
    params: Any,
    video: jax.Array,
    noise: jax.Array,
    carried: tuple[Any, Any],
    *,
    first: bool,
) -> tuple[autoencoder.Reconstruction, tuple[Any, Any]]:
    """One chunk, and what the next needs of it: the encoder's part, the decoder's."""

    def apply(method: str, x: jax.Array, state: Any) -> Any:
        y, kept = module.apply(
            {"params": params, convolution.STREAM: state},
            x,
            first=first,
            method=method,
            mutable=[convolution.STREAM],
        )
        return y, kept.get(convolution.STREAM, {})

    (mean, log_variance), encoder = apply("encode", video, carried[0])
    latent = mean + jnp.exp(0.5 * log_variance) * noise
    decoded, decoder = apply("decode", latent, carried[1])
    return autoencoder.Reconstruction(decoded, mean, log_variance), (encoder, decoder)


def decibels(y: jax.Array, x: jax.Array) -> jax.Array:
    """Mean PSNR of reconstructions; for the record, without a gradient."""
    y = jax.lax.stop_gradient(y)
    return jnp.mean(metrics.psnr(jnp.clip(y, -1.0, 1.0), x))


def as_float(video: jax.Array) -> jax.Array:
    """uint8 to float32 in [-1, 1]; floats are taken as they are, in float32."""
    if video.dtype == jnp.uint8:
        return video.astype(jnp.float32) / 127.5 - 1.0
    return video.astype(jnp.float32)


def divergence(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """Equation (3): from the standard normal, nats per latent element."""
    variance = jnp.exp(log_variance)
    return 0.5 * jnp.mean(jnp.square(mean) + variance - 1.0 - log_variance)


def gradient_error(error: jax.Array, *, scales: tuple[int, ...]) -> jax.Array:
    """Equation (4) of `error = y - x`; pooling and differences are linear."""
    terms = []
    for scale in scales:
        pooled = conv.average_pool(error, (1, scale, scale))
        axes = [axis for axis in (1, 2, 3) if pooled.shape[axis] > 1]
        terms += [jnp.mean(jnp.abs(jnp.diff(pooled, axis=axis))) for axis in axes]
    return sum(terms, start=jnp.zeros(())) / max(len(terms), 1)
