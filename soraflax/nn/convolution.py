"""Convolutional blocks of the autoencoder: causal in time, `[B, T, H, W, C]`.

The names of parameters and the order of operations follow Wan 2.1 (arXiv:2503.20314).
Halving the frames keeps the first and convolves the others with stride 2, a window
that starts one frame early (1); doubling them keeps the first and splits the channels
of a convolution that has never seen the first into two frames (2):

    y = concat(x[0], conv(x[0..2], x[2..4], ...)),                                (1)
    y = concat(x[0], unfold(conv(x[1:]))).                                        (2)
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from soraflax import sharding
from soraflax.nn import layers
from soraflax.ops import conv

NORM_EPS = 1e-8


class CausalConv(nn.Module):
    """`ops.conv.causal_conv3d` with a kernel and a bias.

    Attributes:
      features: channels of the result.
      kernel: sizes in time, height, width.
      strides: the same, of the strides.
      front: zero frames before the first; None makes it causal.
      axes: logical names of the channels in and out; None for those too few to split.
      dtype: compute dtype.
      kernel_init: initializer of the kernel.
      implementation: of `ops.conv`.
    """

    features: int
    kernel: tuple[int, int, int] = (3, 3, 3)
    strides: tuple[int, int, int] = (1, 1, 1)
    front: int | None = None
    axes: tuple[str | None, str | None] = ("channels_in", "channels_out")
    dtype: Any = jnp.float32
    kernel_init: layers.Initializer = layers.lecun
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param(
            "kernel",
            sharding.named(self.kernel_init, None, None, None, *self.axes),
            (*self.kernel, x.shape[-1], self.features),
            jnp.float32,
        )
        bias = self.param(
            "bias",
            sharding.named(layers.zeros, self.axes[1]),
            (self.features,),
            jnp.float32,
        )
        y = conv.causal_conv3d(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=self.strides,
            front=self.front,
            implementation=self.implementation,
        )
        return y + bias.astype(self.dtype)


def channel_norm(name: str) -> layers.RMSNorm:
    """RMS norm over channels."""
    return layers.RMSNorm(axis="channels_in", eps=NORM_EPS, name=name)


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), a 1x1x1 convolution on the skip where
    the channels change. The last convolution starts at zero.

    Attributes:
      features: channels of the result.
      dtype: compute dtype.
      implementation: of `ops.conv`.
    """

    features: int
    dtype: Any = jnp.float32
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shared = {"dtype": self.dtype, "implementation": self.implementation}
        y = nn.silu(channel_norm("norm1")(x))
        y = CausalConv(self.features, name="conv1", **shared)(y)
        y = nn.silu(channel_norm("norm2")(y))
        zero = layers.zeros
        y = CausalConv(self.features, kernel_init=zero, name="conv2", **shared)(y)
        if x.shape[-1] != self.features:
            x = CausalConv(self.features, (1, 1, 1), name="shortcut", **shared)(x)
        return x + y


class FrameAttention(nn.Module):
    """One head of attention among the positions of each frame, added to its input.

    Attributes:
      dtype: compute dtype.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, frames, height, width, channels = x.shape
        axes = ("channels_in", "channels_out")
        y = channel_norm("norm")(x).reshape(batch * frames, height * width, 1, channels)
        y = layers.Linear(3 * channels, axes, dtype=self.dtype, name="qkv")(y)
        q, k, v = jnp.split(y, 3, axis=-1)
        y = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
        zero = layers.zeros
        out = layers.Linear(
            channels, axes, dtype=self.dtype, kernel_init=zero, name="out"
        )
        return x + out(y)


class Middle(nn.Module):
    """Residual block, attention inside each frame, residual block.

    Attributes:
      block: the class of residual block, possibly rematerialised.
      attention: whether there is any.
      dtype: compute dtype.
      implementation: of `ops.conv`.
    """

    block: Any = ResidualBlock
    attention: bool = True
    dtype: Any = jnp.float32
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        sizes = (x.shape[-1], self.dtype, self.implementation)
        x = self.block(*sizes, name="block1")(x)
        if self.attention:
            x = FrameAttention(self.dtype, name="attention")(x)
        return self.block(*sizes, name="block2")(x)


class Downsample(nn.Module):
    """Halves the sides by a convolution, then the frames by equation (1).

    Attributes:
      spatial: whether the sides halve.
      temporal: whether the frames halve.
      dtype: compute dtype.
      implementation: of `ops.conv`.
    """

    spatial: bool
    temporal: bool
    dtype: Any = jnp.float32
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shared = {"dtype": self.dtype, "implementation": self.implementation}
        width = x.shape[-1]
        if self.spatial:
            halve = CausalConv(width, (1, 3, 3), (1, 2, 2), name="space", **shared)
            x = halve(x)
        if self.temporal:
            halve = CausalConv(width, (3, 1, 1), (2, 1, 1), 0, name="time", **shared)
            if x.shape[1] > 1 or self.is_initializing():
                later = halve(x if x.shape[1] > 1 else jnp.repeat(x, 3, axis=1))
                x = jnp.concatenate([x[:, :1], later[:, : x.shape[1] // 2]], axis=1)
        return x


class Upsample(nn.Module):
    """Doubles the frames by equation (2), then the sides, which halves the channels.

    Attributes:
      spatial: whether the sides double.
      temporal: whether the frames double.
      dtype: compute dtype.
      implementation: of `ops.conv`.
    """

    spatial: bool
    temporal: bool
    dtype: Any = jnp.float32
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shared = {"dtype": self.dtype, "implementation": self.implementation}
        width = x.shape[-1]
        if self.temporal:
            double = CausalConv(2 * width, (3, 1, 1), name="time", **shared)
            if x.shape[1] > 1 or self.is_initializing():
                later = double(x[:, 1:] if x.shape[1] > 1 else x)
                later = conv.depth_to_space(later, (2, 1, 1))[:, : 2 * x.shape[1] - 2]
                x = jnp.concatenate([x[:, :1], later], axis=1)
        if self.spatial:
            x = conv.repeat_nearest(x, (1, 2, 2))
            x = CausalConv(width // 2, (1, 3, 3), name="space", **shared)(x)
        return x
