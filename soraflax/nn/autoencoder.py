"""The spacetime autoencoder: variational, causal in time, an image is one frame.

The architecture is Wan 2.1's (arXiv:2503.20314, section 4.1): residual blocks of causal
3-D convolutions with RMS norm over channels and SiLU; between stages the sides and,
where configured, the frames halve; in the middle a residual block, attention inside
each frame, a residual block. The first frame is its own latent frame:

    T = 1 + r (t - 1),    H = s h,    W = s w.                                    (1)

The blocks, and how the frames halve and double, are in `nn.convolution`.

Small variants move blocks of `patch = (time, side)` into channels before the first
stage, by their cosine transform, and back after the last (Cosmos, arXiv:2501.03575,
uses wavelets). A block of frames ends at frame 0, p, 2 p, ...; the first is frame 0
repeated, so that (1) holds there too. With `linear_path` the network corrects a linear
autoencoder of such blocks at the full ratios (r, s, s),

    latent = linear(blocks(video)) + encoder(video),                              (2)
    video = unblocks(linear(latent)) + decoder(latent),                           (3)

which starts as the z lowest frequencies; both corrections start at zero.

The larger architecture is Wan 2.2's: patches of 2 x 2 pixels at both ends, and
parameter-free shortcuts around whole stages, which average or repeat values to the
stage's resolution and channels.

The posterior is a diagonal Gaussian; without a key its mean is taken.

A long video is processed in chunks (`nn.convolution` describes the cached state): the
first of 1 + r k frames, later ones of r k; `first` says which it is.
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

from soraflax.nn import convolution, layers
from soraflax.ops import conv
from soraflax.ops import grid as grids

LOG_VARIANCE_RANGE = (-30.0, 20.0)
LINEAR_LOG_VARIANCE = -4.0  # of the initial posterior with a linear path
_CHOICES: dict[str, tuple[str | None, ...]] = {
    "dtype": ("float32", "bfloat16"),
    "remat": ("none", "full"),
    "convolution": (None, *conv.IMPLEMENTATIONS),
}


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of an autoencoder.

    Attributes:
      latent_channels: z, channels of the latent.
      patch: (time, side) of the blocks that become channels; (1, 1) is none.
      cosine: whether such blocks become cosine coefficients or stay pixels.
      width: channels of the first encoder stage and of the last decoder stage.
      decoder_width: channels of the last decoder stage; None takes `width`.
      multipliers: channels of each stage in units of `width`, encoder order.
      spatial_downsample: whether the sides halve after each stage but the last.
      temporal_downsample: whether the frames halve after each stage but the last.
      blocks: residual blocks per encoder stage; a decoder stage has one more.
      end_kernel: size, in time and space, of the kernels that read and write video.
      attention: whether the middle has attention inside each frame.
      shortcuts: whether every stage is bypassed, as in Wan 2.2.
      linear_path: equations (2) and (3).
      dtype: compute dtype; parameters are float32.
      remat: 'none' keeps activations, 'full' recomputes every residual block.
      convolution: implementation of `ops.conv`; None chooses by backend.
    """

    latent_channels: int = 16
    patch: tuple[int, int] = (1, 1)
    cosine: bool = True
    width: int = 96
    decoder_width: int | None = None
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    spatial_downsample: tuple[bool, ...] = (True, True, True)
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    blocks: int = 2
    end_kernel: int = 3
    attention: bool = True
    shortcuts: bool = False
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
        sizes += (1 if self.decoder_width is None else self.decoder_width,)
        if min(*sizes, *self.patch, *self.multipliers, between + 1) < 1:
            raise ValueError(f"autoencoder sizes must be positive: {self}")
        for name, known in _CHOICES.items():
            if (value := getattr(self, name)) not in known:
                listed = ", ".join(map(repr, known))
                raise ValueError(f"unknown {name} {value!r}; known: {listed}")
        for stage, width in enumerate(self.decoder_widths[:-1]):
            halves = self.spatial_downsample[::-1][stage] and not self.shortcuts
            if halves and width % 2:
                raise ValueError(f"{width} channels do not halve: use {width + 1}")

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

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """Channels of each decoder stage, in the decoder's order."""
        width = self.decoder_width or self.width
        return tuple(width * multiplier for multiplier in self.multipliers[::-1])

    @property
    def grid(self) -> grids.Grid:
        """Sizes of video that it takes, equation (1)."""
        return grids.Grid(
            self.temporal_ratio, self.spatial_ratio, channels=self.latent_channels
        )

    def latent_grid(
        self, frames: int, height: int, width: int, *, first: bool = True
    ) -> tuple[int, int, int]:
        """Sizes `(t, h, w)` of the latent of a video, (1), or of a later chunk.

        Raises:
          ValueError: a size off the grid, with the nearest sizes on it.
        """
        sides = ("pixels", "pixels")
        return self.grid.latent_size(frames, height, width, first=first, sides=sides)

    def video_shape(self, time: int, height: int, width: int) -> tuple[int, int, int]:
        """Sizes `(frames, height, width)` of what a latent decodes to."""
        return self.grid.video_size(time, height, width)


class Encoder(nn.Module):
    """Video to the 2 z channels of the posterior.

    Attributes:
      config: the autoencoder's sizes.
    """

    config: AutoencoderConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T H W 3"], *, first: bool = True
    ) -> Float[Array, "B t h w c"]:
        config = self.config
        shared = _shared(config)
        end = (config.end_kernel, config.end_kernel, config.end_kernel)
        x = conv.to_blocks(x, config.patch, cosine=config.cosine, first=first)
        axes = (None, "channels_out")
        x = convolution.CausalConv(
            config.width, end, axes=axes, name="conv_in", **shared
        )(x)
        for stage in range(len(config.multipliers)):
            x = self._stage(x, stage, first=first)
        block = _block_class(config)
        x = convolution.Middle(block, config.attention, name="middle", **shared)(x)
        x = nn.silu(convolution.channel_norm("norm_out")(x))
        axes = ("channels_in", None)
        z = 2 * config.latent_channels
        return convolution.CausalConv(z, axes=axes, name="conv_out", **shared)(x)

    def _stage(self, x: jax.Array, stage: int, *, first: bool) -> jax.Array:
        config, before = self.config, x
        shared = _shared(config)
        width, last = config.stage_widths[stage], stage + 1 == len(config.multipliers)
        for number in range(config.blocks):
            name = f"stage{stage}_block{number}"
            x = _block_class(config)(width, name=name, **shared)(x)
        spatial = not last and config.spatial_downsample[stage]
        temporal = not last and config.temporal_downsample[stage]
        if not last:
            x = convolution.Downsample(
                spatial, temporal, name=f"stage{stage}_down", **shared
            )(x, first=first)
        if config.shortcuts:
            ratios = (1 + temporal, 1 + spatial, 1 + spatial)
            x = x + convolution.average_shortcut(
                before, ratios, features=width, first=first
            )
        return x


class Decoder(nn.Module):
    """Latent to video.

    Attributes:
      config: the autoencoder's sizes.
    """

    config: AutoencoderConfig

    @nn.compact
    def __call__(
        self, z: Float[Array, "B t h w z"], *, first: bool = True
    ) -> Float[Array, "B T H W 3"]:
        config = self.config
        shared = _shared(config)
        axes = (None, "channels_out")
        x = convolution.CausalConv(
            config.decoder_widths[0], axes=axes, name="conv_in", **shared
        )(z)
        block = _block_class(config)
        x = convolution.Middle(block, config.attention, name="middle", **shared)(x)
        for stage in range(len(config.multipliers)):
            x = self._stage(x, stage, first=first)
        x = nn.silu(convolution.channel_norm("norm_out")(x))
        frames, side = config.patch
        end = {"kernel": (config.end_kernel,) * 3, "axes": ("channels_in", None)}
        if config.linear_path:
            end["kernel_init"] = layers.zeros
        depth = 3 * frames * side * side
        x = convolution.CausalConv(depth, name="conv_out", **end, **shared)(x)
        return conv.from_blocks(x, config.patch, cosine=config.cosine, first=first)

    def _stage(self, x: jax.Array, stage: int, *, first: bool) -> jax.Array:
        config, before = self.config, x
        shared = _shared(config)
        width, last = config.decoder_widths[stage], stage + 1 == len(config.multipliers)
        for number in range(config.blocks + 1):
            name = f"stage{stage}_block{number}"
            x = _block_class(config)(width, name=name, **shared)(x)
        if last:
            return x
        spatial = config.spatial_downsample[::-1][stage]
        temporal = config.temporal_downsample[::-1][stage]
        out = width // 2 if spatial and not config.shortcuts else width
        x = convolution.Upsample(
            out, spatial, temporal, name=f"stage{stage}_up", **shared
        )(x, first=first)
        if config.shortcuts:
            ratios = (1 + temporal, 1 + spatial, 1 + spatial)
            x = x + convolution.duplicate_shortcut(
                before, ratios, features=width, first=first
            )
        return x


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
    """A video through an autoencoder, with the posterior of its latent.

    Attributes:
      video: `[B, T, H, W, 3]` float32, about [-1, 1].
      mean: `[B, t, h, w, z]` float32, mean of the posterior.
      log_variance: `[B, t, h, w, z]` float32, log variance of the posterior.
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
        self, video: Float[Array, "B T H W 3"], *, first: bool = True
    ) -> tuple[Float[Array, "B t h w z"], Float[Array, "B t h w z"]]:
        """Mean and log variance of the posterior of a video, float32.

        Args:
          video: a video in [-1, 1]; with the collection `convolution.STREAM` mutable, a
            chunk of one.
          first: whether the chunk is the first of its video.

        Raises:
          ValueError: a size off the grid, with the nearest sizes on it.
        """
        self._check_chunk(first)
        grid = self.config.latent_grid(*video.shape[1:4], first=first)
        convolution.check_split(*grid[1:])
        video = convolution.constrain_video(video)
        moments = self.moments(self.encoder(video, first=first)).astype(jnp.float32)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        if self.config.linear_path:
            linear = self.linear_in(conv.to_blocks(video, self._ratios, first=first))
            mean = mean + linear.astype(jnp.float32)
            log_variance = log_variance + LINEAR_LOG_VARIANCE
        return mean, jnp.clip(log_variance, *LOG_VARIANCE_RANGE)

    def decode(
        self, latent: Float[Array, "B t h w z"], *, first: bool = True
    ) -> Float[Array, "B T H W 3"]:
        """The video of a latent, or of a chunk of one, float32, not clipped.

        Args:
          latent: a latent, or a chunk as of `encode`.
          first: whether the chunk is the first of its video.
        """
        self._check_chunk(first)
        convolution.check_split(*latent.shape[2:4])
        video = self.decoder(self.embed(latent), first=first)
        if self.config.linear_path:
            linear = self.linear_out(latent)
            video = video + conv.from_blocks(linear, self._ratios, first=first)
        return video

    def _check_chunk(self, first: bool) -> None:
        if not first and not self.is_mutable_collection(convolution.STREAM):
            raise ValueError(
                f"first=False continues a stream: make {convolution.STREAM!r} mutable"
            )

    @property
    def _ratios(self) -> tuple[int, int]:
        return self.config.temporal_ratio, self.config.spatial_ratio


def _keep_low(
    key: jax.Array, shape: tuple[int, ...], dtype: Any, *, ratios: tuple[int, int]
) -> jax.Array:
    """A 1 x 1 x 1 kernel between cosine coefficients and latent that keeps the lowest.

    For both directions: the larger of its two sizes are the coefficients.
    """
    del key
    time, side = ratios
    frequencies = conv.block_frequencies((time, side, side)).reshape(-1)
    # A coefficient has three colours; the stable sort keeps them together.
    order = np.argsort(np.repeat(frequencies, 3), kind="stable")
    kernel = np.zeros(shape[-2:], np.float32)
    for channel, coefficient in enumerate(order[: min(shape[-2:])]):
        if shape[-2] > shape[-1]:
            kernel[coefficient, channel] = 1.0
        else:
            kernel[channel, coefficient] = 1.0
    return jnp.asarray(kernel.reshape(shape), dtype)


@dataclasses.dataclass(frozen=True)
class LatentStatistics:
    """Mean and standard deviation of each latent channel over a dataset.

    Attributes:
      mean: one number per channel.
      std: one number per channel, all positive.
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
    "wan2_2": AutoencoderConfig(
        latent_channels=48,
        patch=(1, 2),
        cosine=False,
        width=160,
        decoder_width=256,
        shortcuts=True,
    ),
}
