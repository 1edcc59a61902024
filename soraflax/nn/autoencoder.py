"""The spacetime autoencoder: variational, causal in time, an image is one frame.

The form is that of Wan 2.1 (arXiv:2503.20314, section 4.1): residual blocks of causal
3-D convolutions with RMS norm over channels and SiLU; between stages the sides and,
where asked, the frames halve; in the middle a residual block, attention inside each
frame, a residual block. The first frame is its own latent frame:

    T = 1 + r (t - 1),    H = s h,    W = s w.                                    (1)

The blocks, and how the frames halve and double, are in `nn.convolution`.

Small variants put blocks of `patch = (time, side)` into channels before the first
stage, by their cosine transform, and take them out after the last (Cosmos,
arXiv:2501.03575, does so with wavelets). A block of frames ends at frame 0, p, 2 p,
...; the first is frame 0 repeated, so that (1) holds there too. With `linear_path` the
network corrects a linear autoencoder of such blocks at the full ratios (r, s, s),

    latent = linear(blocks(video)) + encoder(video),                              (2)
    video = unblocks(linear(latent)) + decoder(latent),                           (3)

which starts as the z lowest frequencies; both corrections start at zero.

The posterior is a diagonal Gaussian; without a key its mean is taken.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from soraflax import sharding
from soraflax.nn import convolution, layers
from soraflax.ops import conv, patch

LOG_VARIANCE_RANGE = (-30.0, 20.0)
LINEAR_LOG_VARIANCE = -4.0  # of the posterior that a linear path starts with


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of an autoencoder.

    Attributes:
      latent_channels: z, channels of the latent.
      patch: (time, side) of the blocks that become channels; (1, 1) is none.
      width: channels of the first encoder stage and of the last decoder stage.
      multipliers: channels of each stage in units of `width`, encoder order.
      spatial_downsample: after each stage but the last: do the sides halve?
      temporal_downsample: after each stage but the last: do the frames halve?
      blocks: residual blocks per encoder stage; a decoder stage has one more.
      end_kernel: side of the kernels that meet the video, in time and space.
      attention: whether the middle attends inside each frame.
      linear_path: equations (2) and (3).
      dtype: compute dtype; parameters are float32.
      remat: 'none' keeps activations, 'full' recomputes every residual block.
      convolution: implementation of `ops.conv`; None chooses by backend.
    """

    latent_channels: int = 16
    patch: tuple[int, int] = (1, 1)
    width: int = 96
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    spatial_downsample: tuple[bool, ...] = (True, True, True)
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    blocks: int = 2
    end_kernel: int = 3
    attention: bool = True
    linear_path: bool = False
    dtype: str = "float32"
    remat: str = "none"
    convolution: str | None = None

    def __post_init__(self) -> None:
        between = len(self.multipliers) - 1
        for name in ("spatial_downsample", "temporal_downsample"):
            flags = getattr(self, name)
            if len(flags) != between:
                raise ValueError(
                    f"{name} has {len(flags)} flags for {between + 1} stages: "
                    f"give {between}"
                )
        sizes = (self.latent_channels, self.width, self.blocks, self.end_kernel)
        if min(*sizes, *self.patch, *self.multipliers, between + 1) < 1:
            raise ValueError(f"autoencoder sizes must be positive: {self}")
        if self.remat not in ("none", "full"):
            raise ValueError(f"remat {self.remat!r}: use 'none' or 'full'")
        for at, multiplier in enumerate(self.multipliers[1:]):
            if self.spatial_downsample[at] and multiplier * self.width % 2:
                raise ValueError(
                    f"{multiplier * self.width} channels do not halve: "
                    f"use {multiplier * self.width + 1}"
                )

    @property
    def temporal_ratio(self) -> int:
        """r of equation (1)."""
        return self.patch[0] * 2 ** sum(self.temporal_downsample)

    @property
    def spatial_ratio(self) -> int:
        """s of equation (1)."""
        return self.patch[1] * 2 ** sum(self.spatial_downsample)

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels of each encoder stage."""
        return tuple(self.width * multiplier for multiplier in self.multipliers)

    def latent_grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Sizes `(t, h, w)` of the latent of a video, equation (1).

        Raises:
          ValueError: a size off the grid, with the nearest sizes on it.
        """
        r, s = self.temporal_ratio, self.spatial_ratio
        patch.check_size(frames, r, first=1, unit="frames")
        for side in (height, width):
            patch.check_size(side, s, first=s, unit="pixels")
        return 1 + (frames - 1) // r, height // s, width // s

    def video_shape(self, t: int, h: int, w: int) -> tuple[int, int, int]:
        """Sizes `(frames, height, width)` of what a latent decodes to."""
        return (
            1 + (t - 1) * self.temporal_ratio,
            h * self.spatial_ratio,
            w * self.spatial_ratio,
        )


class Encoder(nn.Module):
    """Video to the 2 z channels of the posterior.

    Attributes:
      config: the autoencoder's sizes.
    """

    config: AutoencoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config = self.config
        shared = _shared(config)
        block = _block_class(config)
        end = (config.end_kernel, config.end_kernel, config.end_kernel)
        x = to_blocks(x, *config.patch)
        axes = (None, "channels_out")
        x = convolution.CausalConv(
            config.width, end, axes=axes, name="conv_in", **shared
        )(x)
        for stage, width in enumerate(config.stage_widths):
            for at in range(config.blocks):
                x = block(width, name=f"stage{stage}_block{at}", **shared)(x)
            if stage < len(config.spatial_downsample):
                halve = (
                    config.spatial_downsample[stage],
                    config.temporal_downsample[stage],
                )
                x = convolution.Downsample(*halve, name=f"stage{stage}_down", **shared)(
                    x
                )
        x = convolution.Middle(block, config.attention, name="middle", **shared)(x)
        x = nn.silu(convolution.channel_norm("norm_out")(x))
        axes = ("channels_in", None)
        z = 2 * config.latent_channels
        return convolution.CausalConv(z, axes=axes, name="conv_out", **shared)(x)


class Decoder(nn.Module):
    """Latent to video.

    Attributes:
      config: the autoencoder's sizes.
    """

    config: AutoencoderConfig

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        config = self.config
        shared = _shared(config)
        block = _block_class(config)
        widths = config.stage_widths[::-1]
        spatial = config.spatial_downsample[::-1]
        temporal = config.temporal_downsample[::-1]
        axes = (None, "channels_out")
        x = convolution.CausalConv(widths[0], axes=axes, name="conv_in", **shared)(z)
        x = convolution.Middle(block, config.attention, name="middle", **shared)(x)
        for stage, width in enumerate(widths):
            for at in range(config.blocks + 1):
                x = block(width, name=f"stage{stage}_block{at}", **shared)(x)
            if stage < len(spatial):
                double = (spatial[stage], temporal[stage])
                x = convolution.Upsample(*double, name=f"stage{stage}_up", **shared)(x)
        x = nn.silu(convolution.channel_norm("norm_out")(x))
        frames, side = config.patch
        end = {"kernel": (config.end_kernel,) * 3, "axes": ("channels_in", None)}
        if config.linear_path:
            end["kernel_init"] = layers.zeros
        depth = 3 * frames * side * side
        x = convolution.CausalConv(depth, name="conv_out", **end, **shared)(x)
        return from_blocks(x, *config.patch)


def to_blocks(video: jax.Array, frames: int, side: int) -> jax.Array:
    """Cosine coefficients of blocks that end at frame 0, p, 2 p, ...; p = `frames`."""
    if (frames, side) == (1, 1):
        return video
    first = jnp.repeat(video[:, :1], frames - 1, axis=1)
    video = jnp.concatenate([first, video], axis=1)
    return conv.block_cosine(video, (frames, side, side))


def from_blocks(blocks: jax.Array, frames: int, side: int) -> jax.Array:
    """The inverse of `to_blocks`, float32."""
    blocks = blocks.astype(jnp.float32)
    if (frames, side) == (1, 1):
        return blocks
    video = conv.block_cosine_inverse(blocks, (frames, side, side))
    return video[:, frames - 1 :]


def _shared(config: AutoencoderConfig) -> dict[str, Any]:
    return {
        "dtype": jnp.dtype(config.dtype),
        "implementation": config.convolution,
    }


def _block_class(config: AutoencoderConfig) -> Any:
    return (
        nn.remat(convolution.ResidualBlock)
        if config.remat == "full"
        else convolution.ResidualBlock
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """What an autoencoder makes of a video.

    Attributes:
      video: `[B, T, H, W, 3]` float32, about [-1, 1].
      mean: `[B, t, h, w, z]` float32, of the posterior.
      log_variance: the same shape.
    """

    video: Any
    mean: Any
    log_variance: Any


class Autoencoder(nn.Module):
    """Encoder and decoder; see the module docstring.

    Attributes:
      config: its sizes.
    """

    config: AutoencoderConfig

    def setup(self) -> None:
        config = self.config
        z = config.latent_channels
        point: dict[str, Any] = {
            "kernel": (1, 1, 1),
            "axes": (None, None),
            **_shared(config),
        }
        linear = config.linear_path
        self.encoder = Encoder(config)
        init = layers.zeros if linear else layers.lecun
        self.moments = convolution.CausalConv(2 * z, kernel_init=init, **point)
        self.embed = convolution.CausalConv(z, **point)
        self.decoder = Decoder(config)
        if linear:
            depth = 3 * config.temporal_ratio * config.spatial_ratio**2
            keep = functools.partial(_keep_low, ratios=self._ratios)
            self.linear_in = convolution.CausalConv(z, kernel_init=keep, **point)
            self.linear_out = convolution.CausalConv(depth, kernel_init=keep, **point)

    def __call__(
        self, video: Float[Array, "B T H W 3"], key: jax.Array | None = None
    ) -> Reconstruction:
        """Encode, sample the posterior (its mean without a key), decode."""
        mean, log_variance = self.encode(video)
        z = mean
        if key is not None:
            noise = jax.random.normal(key, mean.shape, mean.dtype)
            z = mean + jnp.exp(0.5 * log_variance) * noise
        return Reconstruction(self.decode(z), mean, log_variance)

    def encode(
        self, video: Float[Array, "B T H W 3"]
    ) -> tuple[Float[Array, "B t h w z"], Float[Array, "B t h w z"]]:
        """Mean and log variance, float32, of the posterior of a video in [-1, 1].

        Raises:
          ValueError: a size off the grid, with the nearest sizes on it.
        """
        self.config.latent_grid(*video.shape[1:4])
        video = sharding.constrain(video, "batch", None, None, None, None)
        moments = self.moments(self.encoder(video)).astype(jnp.float32)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        if self.config.linear_path:
            linear = self.linear_in(to_blocks(video, *self._ratios))
            mean = mean + linear.astype(jnp.float32)
            log_variance = log_variance + LINEAR_LOG_VARIANCE
        return mean, jnp.clip(log_variance, *LOG_VARIANCE_RANGE)

    def decode(self, latent: Float[Array, "B t h w z"]) -> Float[Array, "B T H W 3"]:
        """The video of a latent, float32; not clipped to [-1, 1]."""
        latent = sharding.constrain(latent, "batch", None, None, None, None)
        video = self.decoder(self.embed(latent))
        if self.config.linear_path:
            video = video + from_blocks(self.linear_out(latent), *self._ratios)
        return video

    @property
    def _ratios(self) -> tuple[int, int]:
        return self.config.temporal_ratio, self.config.spatial_ratio


def _keep_low(
    key: jax.Array, shape: tuple[int, ...], dtype: Any, *, ratios: tuple[int, int]
) -> jax.Array:
    """A point kernel between coefficients and latent that keeps the lowest ones.

    The same function serves both ways, since it looks which side is the longer.
    """
    del key
    time, side = ratios
    frequencies = conv.block_frequencies((time, side, side)).reshape(-1)
    order = np.argsort(np.repeat(frequencies, 3), kind="stable")
    kernel = np.zeros(shape[-2:], np.float32)
    for channel, coefficient in enumerate(order[: min(shape[-2:])]):
        at = (coefficient, channel) if shape[-2] > shape[-1] else (channel, coefficient)
        kernel[at] = 1.0
    return jnp.asarray(kernel.reshape(shape), dtype)


@dataclasses.dataclass(frozen=True)
class LatentStatistics:
    """Mean and standard deviation of each latent channel over a dataset.

    Attributes:
      mean: one number per channel.
      std: the same; all positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalize(self, latent: Any) -> Any:
        """(latent - mean) / std, numpy or JAX, `[..., z]`."""
        return (latent - np.asarray(self.mean, np.float32)) / np.asarray(
            self.std, np.float32
        )

    def denormalize(self, latent: Any) -> Any:
        """The inverse of `normalize`."""
        return latent * np.asarray(self.std, np.float32) + np.asarray(
            self.mean, np.float32
        )


def latent_statistics(latents: Iterable[np.ndarray]) -> LatentStatistics:
    """Per-channel mean and standard deviation over arrays `[..., z]`, in one pass.

    Raises:
      ValueError: no latents, or a channel that does not vary.
    """
    count, total, squares = 0, np.zeros(()), np.zeros(())
    for latent in latents:
        values = np.asarray(latent, np.float64)
        values = values.reshape(-1, values.shape[-1])
        count += len(values)
        total = total + values.sum(axis=0)
        squares = squares + np.square(values).sum(axis=0)
    if not count:
        raise ValueError("no latents: statistics need at least one")
    mean = total / count
    variance = squares / count - np.square(mean)
    if np.any(variance <= 0):
        raise ValueError(f"latent channel {int(np.argmin(variance))} does not vary")
    return LatentStatistics(tuple(mean.tolist()), tuple(np.sqrt(variance).tolist()))


VARIANTS: dict[str, AutoencoderConfig] = {
    "tiny": AutoencoderConfig(
        latent_channels=4,
        patch=(2, 4),
        width=16,
        multipliers=(1, 1),
        spatial_downsample=(True,),
        temporal_downsample=(True,),
        blocks=1,
    ),
    "small": AutoencoderConfig(
        latent_channels=16,
        patch=(4, 8),
        width=128,
        multipliers=(1,),
        spatial_downsample=(),
        temporal_downsample=(),
        blocks=1,
        end_kernel=1,
        attention=False,
        linear_path=True,
    ),
    "wan2_1": AutoencoderConfig(),
}
