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

A clip may go through in chunks, as a stream does (`nn.convolution`). The causal cache
carried from one chunk to the next has no gradient: truncated back-propagation. The
result is that of the clip at once; activations are recomputed, one chunk at a time.

With `noise` the decoder sees latents that a generator makes, not those of an encoder:

    z' = z + a s n,   a ~ U(0, noise) for each clip,   n ~ N(0, 1),               (5)

with s the standard deviation of each channel over the batch, and learns to clean what
they err by (noise-augmented decoding, arXiv:2510.11690, section 4.3).
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num

from soraflax.evaluation import metrics
from soraflax.nn import autoencoder, convolution, perceptual
from soraflax.ops import conv
from soraflax.train import step


@dataclasses.dataclass(frozen=True)
class ReconstructionConfig:
    """Weights of equations (1) and (2).

    Attributes:
      l1: weight of the mean absolute error.
      l2: weight of the mean squared error.
      kl: weight of the divergence, which is in nats per latent element.
      gradients: weight of the gradient difference term.
      gradient_scales: sides s of the pools of equation (4), in pixels.
      lpips: weight of the perceptual distance.
      lpips_path: file or directory of its parameters (`weights.lpips`).
      noise: greatest a of equation (5), in deviations of a channel; 0 for none.
      chunks: chunk lengths in latent frames; every step draws one of them. Empty
        encodes a clip at once.
    """

    l1: float = 1.0
    l2: float = 2.0
    kl: float = 1e-4
    gradients: float = 1.0
    gradient_scales: tuple[int, ...] = (1, 2, 4)
    lpips: float = 0.0
    lpips_path: str = ""
    noise: float = 0.0
    chunks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.lpips and not self.lpips_path:
            raise ValueError(
                f"lpips {self.lpips} has no weights: give lpips_path=FILE, or use 0"
            )
        if self.noise < 0:
            raise ValueError(f"noise {self.noise}: use 0 or more")
        if min(self.chunks, default=1) < 1:
            raise ValueError(f"chunks {self.chunks}: use 1 latent frame or more")


def loss(
    params: Any,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    context: step.LossContext | None = None,
    *,
    module: autoencoder.Autoencoder,
    config: ReconstructionConfig,
) -> tuple[Float[Array, ""], dict[str, jax.Array]]:
    """Equation (1) of a batch.

    Args:
      params: trained parameters of `module`.
      batch: `video`, `[B, T, H, W, 3]`: uint8, or float in [-1, 1].
      key: PRNG key of the posterior's sample, of the noise and of the chunk length.
      context: `frozen` in its constants is the rest of the module's parameters, where
        not all are trained; `lpips` the parameters of `nn.perceptual`, where there is
        an LPIPS term.
      module: the autoencoder.
      config: weights of the terms.

    Returns:
      The loss and the float32 scalars `loss l1 l2 kl gradients psnr`, and `lpips` where
      it has a weight.
    """
    video = as_float(batch["video"])
    constants = context.constants if context else {}
    params = {**constants.get("frozen", {}), **params}
    result = reconstruct(module, params, video=video, key=key, config=config)
    error, scalars = pixel_loss(
        result.video, video, config=config, lpips=constants.get("lpips")
    )
    kl = kl_divergence(result.mean, result.log_variance)
    total = error + config.kl * kl
    psnr = mean_psnr(result.video, video)
    return total, scalars | {"loss": total, "kl": kl, "psnr": psnr}


def pixel_loss(
    y: Float[Array, "B T H W 3"],
    x: Float[Array, "B T H W 3"],
    *,
    config: ReconstructionConfig,
    lpips: Any = None,
) -> tuple[Float[Array, ""], dict[str, jax.Array]]:
    """Equation (2), and its terms without their weights.

    Raises:
      ValueError: an LPIPS term without the parameters of `nn.perceptual`.
    """
    error = y - x
    terms = {
        "l1": jnp.mean(jnp.abs(error)),
        "l2": jnp.mean(jnp.square(error)),
        "gradients": gradient_difference(error, scales=config.gradient_scales),
    }
    if config.lpips and lpips is None:
        raise ValueError("the LPIPS term needs parameters: put `lpips` into constants")
    if config.lpips:
        terms["lpips"] = jnp.mean(perceptual.distance(y, x, params=lpips))
    total = sum(getattr(config, name) * term for name, term in terms.items())
    return jnp.asarray(total), terms


def reconstruct(
    module: autoencoder.Autoencoder,
    params: Any,
    *,
    video: Float[Array, "B T H W 3"],
    key: jax.Array,
    config: ReconstructionConfig,
) -> autoencoder.Reconstruction:
    """Encode, sample the posterior, decode; in chunks if there are lengths to draw.

    Of `config`, its `chunks` and its `noise` are used.

    One program serves all lengths: its chunks have their greatest common divisor, and
    the cache keeps its gradient between two chunks of one drawn length. (In a branch of
    a conditional, XLA's CPU backend ran convolutions 30 times slower.)
    """
    sizes, chunks = module.config, config.chunks
    t, h, w = sizes.latent_grid(*video.shape[1:4])
    noise = jax.random.normal(key, (len(video), t, h, w, sizes.latent_channels))
    added = _added_noise(key, noise.shape, greatest=config.noise)
    if not chunks or t == 1:
        apply: Any = functools.partial(module.apply, {"params": params})
        mean, log_variance = apply(video, method="encode")
        latent = _sample(mean, log_variance, noise=noise, added=added)
        decoded = apply(latent, method="decode")
        return autoencoder.Reconstruction(decoded, mean, log_variance)
    draw = jax.random.fold_in(key, 1)
    length = jax.random.choice(draw, jnp.asarray(chunks, jnp.int32))
    stride = math.gcd(*chunks)
    # The first latent frame stands for one frame, every other for `temporal_ratio`: the
    # first chunk has it beside its `stride`, so that chunks end where a stream's do.
    bounds = [0, *range(1 + stride, t, stride), t]
    parts, caches = [], ({}, {})
    for start, stop in itertools.pairwise(bounds):
        first, last = (
            max(0, 1 + (n - 1) * sizes.temporal_ratio) for n in (start, stop)
        )
        caches = _stop_gradient_if((start - 1) % length == 0, caches)
        part, caches = jax.checkpoint(
            functools.partial(_chunk, module, first=start == 0)
        )(
            params,
            video=video[:, first:last],
            noise=(noise[:, start:stop], added[:, start:stop]),
            caches=caches,
        )
        parts.append(part)
    return jax.tree.map(lambda *chunks: jnp.concatenate(chunks, axis=1), *parts)


def _stop_gradient_if(condition: Bool[Array, ""], tree: Any) -> Any:
    """The same values, without their gradient where `condition` holds."""
    return jax.tree.map(
        lambda x: jnp.where(condition, jax.lax.stop_gradient(x), x), tree
    )


def _chunk(
    module: autoencoder.Autoencoder,
    params: Any,
    *,
    video: jax.Array,
    noise: tuple[jax.Array, jax.Array],
    caches: tuple[Any, Any],
    first: bool,
) -> tuple[autoencoder.Reconstruction, tuple[Any, Any]]:
    """One chunk, and the causal caches of encoder and decoder for the next.

    `noise` is that of the posterior and that of equation (5).
    """

    def apply(method: str, x: jax.Array, *, cache: Any) -> Any:
        y, updated = module.apply(
            {"params": params, convolution.STREAM: cache},
            x,
            first=first,
            method=method,
            mutable=[convolution.STREAM],
        )
        return y, updated.get(convolution.STREAM, {})

    (mean, log_variance), encoder = apply("encode", video, cache=caches[0])
    latent = _sample(mean, log_variance, noise=noise[0], added=noise[1])
    decoded, decoder = apply("decode", latent, cache=caches[1])
    return autoencoder.Reconstruction(decoded, mean, log_variance), (encoder, decoder)


def _added_noise(
    key: jax.Array, shape: tuple[int, ...], *, greatest: float
) -> Float[Array, "B t h w z"]:
    """a n of equation (5)."""
    if not greatest:
        return jnp.zeros(shape)
    level_key, noise_key = jax.random.split(jax.random.fold_in(key, 2))
    level = jax.random.uniform(level_key, (shape[0], 1, 1, 1, 1), maxval=greatest)
    return level * jax.random.normal(noise_key, shape)


def _sample(
    mean: Float[Array, "B t h w z"],
    log_variance: Float[Array, "B t h w z"],
    *,
    noise: Float[Array, "B t h w z"],
    added: Float[Array, "B t h w z"],
) -> Float[Array, "B t h w z"]:
    """The posterior's sample, and equation (5)."""
    deviation = jax.lax.stop_gradient(jnp.std(mean, axis=(0, 1, 2, 3)))
    return mean + jnp.exp(0.5 * log_variance) * noise + deviation * added


def mean_psnr(
    y: Float[Array, "B T H W 3"], x: Float[Array, "B T H W 3"]
) -> Float[Array, ""]:
    """Mean PSNR of reconstructions in dB, without a gradient."""
    y = jax.lax.stop_gradient(y)
    return jnp.mean(metrics.psnr(jnp.clip(y, -1.0, 1.0), x))


def as_float(video: Num[Array, "*shape"]) -> Float[Array, "*shape"]:
    """uint8 to float32 in [-1, 1]; floats keep their values, in float32."""
    if video.dtype == jnp.uint8:
        return video.astype(jnp.float32) / 127.5 - 1.0
    return video.astype(jnp.float32)


def kl_divergence(
    mean: Float[Array, "*shape"], log_variance: Float[Array, "*shape"]
) -> Float[Array, ""]:
    """Equation (3): divergence from the standard normal, nats per latent element."""
    variance = jnp.exp(log_variance)
    return 0.5 * jnp.mean(jnp.square(mean) + variance - 1.0 - log_variance)


def gradient_difference(
    error: Float[Array, "B T H W 3"], *, scales: tuple[int, ...]
) -> Float[Array, ""]:
    """Equation (4) of `error = y - x`; pooling and differences are linear."""
    terms = []
    for scale in scales:
        pooled = conv.average_pool(error, (1, scale, scale))
        axes = [axis for axis in (1, 2, 3) if pooled.shape[axis] > 1]
        terms += [jnp.mean(jnp.abs(jnp.diff(pooled, axis=axis))) for axis in axes]
    return sum(terms, start=jnp.zeros(())) / max(len(terms), 1)
