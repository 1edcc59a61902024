"""The blocks of a causal video autoencoder.

Shapes of parameters and the order of operations follow Wan 2.1 (arXiv:2503.20314).
Halving the frames keeps the first and convolves the others with stride 2, a window
that starts one frame early (1); doubling them keeps the first and splits the channels
of a convolution that has never seen the first into two frames (2):

    y = concat(x[0], conv(x[0..2], x[2..4], ...)),                                (1)
    y = concat(x[0], unfold(conv(x[1:]))).                                        (2)

A long video may come in chunks. Each layer caches its last one or two input frames in
the Linen collection `STREAM` whenever that is mutable, and convolves the next chunk
after them: the first chunk holds frame 0, later ones do not, and the chunks of the
output are those of the whole video's.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from soraflax import halos, sharding
from soraflax.nn import layers
from soraflax.ops import conv
from soraflax.ops.attention import dense

NORM_EPS = 1e-8
STREAM = "stream"


def constrain_video(x: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
    """Shard video features over the mesh: the batch, and the longer side.

    A side that does not divide is not sharded. Channels never are: where the compiler
    may split them, XLA (jax 0.10.2, CPU) gets gradients of convolutions wrong.
    """
    names: list[str | None] = ["batch", None, None, None, None]
    side = longer_side(x)
    if x.shape[side] % sharding.side_shards() == 0:
        names[side] = ("height", "width")[side - 2]
    return sharding.constrain(x, *names)


def check_split(height: int, width: int) -> None:
    """Refuse a latent whose longer side the mesh does not divide.

    Args:
      height: height of the latent.
      width: width of the latent.

    Raises:
      ValueError: naming the nearest side that divides.
    """
    shards, side = sharding.side_shards(), max(height, width)
    if side % shards:
        nearest = max(shards, round(side / shards) * shards)
        raise ValueError(
            f"a longer side of {side} latent cells does not divide over {shards} "
            f"devices; nearest that does: {nearest}"
        )


def longer_side(x: Float[Array, "B T H W C"]) -> int:
    """The axis that is sharded over devices: 2 for height, 3 for width."""
    return 2 if x.shape[2] >= x.shape[3] else 3


def causal_cache(
    module: nn.Module, x: Float[Array, "B T H W C"], *, frames: int
) -> Float[Array, "B frames H W C"] | None:
    """The last `frames` inputs before this chunk; caches the last ones up to its end.

    Zeros stand for frames before the first. None where nothing is streamed.

    Args:
      module: the layer whose inputs are cached.
      x: its input, a chunk.
      frames: inputs that the layer sees besides the current one.
    """
    if module.is_initializing() or not module.is_mutable_collection(STREAM):
        return None
    if module.has_variable(STREAM, "past"):
        past = module.get_variable(STREAM, "past")
    else:
        past = jnp.zeros((x.shape[0], frames, *x.shape[2:]), x.dtype)
    # A chunk may be shorter than the cache, which then still holds frames before it.
    recent = jnp.concatenate([past, x[:, -frames:]], axis=1)[:, -frames:]
    module.put_variable(STREAM, "past", recent)
    return past


class CausalConv(nn.Module):
    """`ops.conv.causal_conv3d` with a kernel and a bias.

    Attributes:
      features: channels of the result.
      kernel: kernel sizes in time, height, width.
      strides: strides in time, height, width.
      front: zero frames before the first; None makes it causal.
      axes: logical names of the input and output channels; None for few channels, which
        are not sharded.
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
        x = x.astype(self.dtype)
        front = self.kernel[0] - 1 if self.front is None else self.front
        past = causal_cache(self, x, frames=front) if front else None
        if past is not None:
            x, front = jnp.concatenate([past, x], axis=1), 0
        kernel = sharding.constrain(kernel.astype(self.dtype), *[None] * kernel.ndim)
        y = self._convolve(constrain_video(x), kernel, front=front)
        return constrain_video(y + bias.astype(self.dtype))

    def _convolve(self, x: jax.Array, kernel: jax.Array, *, front: int) -> jax.Array:
        """The convolution, in shards with halos where the mesh divides the side."""
        run = functools.partial(
            conv.causal_conv3d,
            strides=self.strides,
            front=front,
            implementation=self.implementation,
        )
        side = longer_side(x)
        sides = conv.same(x.shape[2:4], self.kernel[1:], strides=self.strides[1:])
        halo, shards = sides[side - 2], sharding.side_shards()
        if shards == 1:
            return run(x, kernel)
        if x.shape[side] % (shards * self.strides[side - 1]):
            replicated = sharding.constrain(x, "batch", None, None, None, None)
            return run(replicated, kernel)
        # The halo stands for the padding of the sharded side.
        inner = ((0, 0), sides[1]) if side == 2 else (sides[0], (0, 0))
        return halos.map_side(
            functools.partial(run, sides=inner), x, kernel=kernel, axis=side, halo=halo
        )


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
        y = channel_norm("norm")(x).reshape(batch * frames, height * width, channels)
        y = layers.Linear(3 * channels, axes, dtype=self.dtype, name="qkv")(y)
        q, k, v = jnp.split(y, 3, axis=-1)
        y = dense.dense_attention(q, k, v).reshape(x.shape)
        zero = layers.zeros
        out = layers.Linear(
            channels, axes, dtype=self.dtype, kernel_init=zero, name="out"
        )
        return constrain_video(x + out(y))


class Middle(nn.Module):
    """Residual block, attention inside each frame, residual block.

    Attributes:
      block: class of the residual blocks, possibly rematerialised.
      attention: whether there is attention.
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


class HalveFrames(nn.Module):
    """Equation (1).

    Attributes:
      dtype: compute dtype.
      implementation: of `ops.conv`.
    """

    dtype: Any = jnp.float32
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, first: bool) -> jax.Array:
        shared = {"dtype": self.dtype, "implementation": self.implementation}
        halve = CausalConv(x.shape[-1], (3, 1, 1), (2, 1, 1), 0, name="conv", **shared)
        if self.is_initializing():
            halve(jnp.repeat(x[:, :1], 3, axis=1))
        # The window of the first pair of a later chunk starts at the frame before it.
        past = causal_cache(self, x, frames=1)
        if past is not None and not first:
            return halve(jnp.concatenate([past, x], axis=1))
        later = [halve(x)] if x.shape[1] > 1 else []
        return jnp.concatenate([x[:, :1], *later], axis=1)


class DoubleFrames(nn.Module):
    """Equation (2).

    Attributes:
      dtype: compute dtype.
      implementation: of `ops.conv`.
    """

    dtype: Any = jnp.float32
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, first: bool) -> jax.Array:
        shared = {"dtype": self.dtype, "implementation": self.implementation}
        double = CausalConv(2 * x.shape[-1], (3, 1, 1), name="conv", **shared)
        if self.is_initializing():
            double(x)
        first_frame, later = (x[:, :1], x[:, 1:]) if first else (x[:, :0], x)
        if not later.shape[1]:
            return first_frame
        later = conv.depth_to_space(double(later), (2, 1, 1))
        return jnp.concatenate([first_frame, later], axis=1)


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
    def __call__(self, x: jax.Array, *, first: bool) -> jax.Array:
        shared = {"dtype": self.dtype, "implementation": self.implementation}
        if self.spatial:
            kernel, strides = (1, 3, 3), (1, 2, 2)
            x = CausalConv(x.shape[-1], kernel, strides, name="space", **shared)(x)
        if self.temporal:
            x = HalveFrames(name="time", **shared)(x, first=first)
        return x


class Upsample(nn.Module):
    """Doubles the frames by equation (2), then the sides by repetition and convolution.

    Attributes:
      features: channels after the sides are doubled.
      spatial: whether the sides double.
      temporal: whether the frames double.
      dtype: compute dtype.
      implementation: of `ops.conv`.
    """

    features: int
    spatial: bool
    temporal: bool
    dtype: Any = jnp.float32
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, first: bool) -> jax.Array:
        shared = {"dtype": self.dtype, "implementation": self.implementation}
        if self.temporal:
            x = DoubleFrames(name="time", **shared)(x, first=first)
        if self.spatial:
            x = conv.repeat_nearest(x, (1, 2, 2))
            x = CausalConv(self.features, (1, 3, 3), name="space", **shared)(x)
        return x


def average_shortcut(
    x: Float[Array, "B T H W C"],
    block: tuple[int, int, int],
    *,
    features: int,
    first: bool,
) -> Float[Array, "B T2 H2 W2 features"]:
    """The shortcut around an encoder stage: `average_down`, zeros before frame 0."""
    if first:
        x = jnp.pad(x, [(0, 0), (block[0] - 1, 0), (0, 0), (0, 0), (0, 0)])
    return conv.average_down(x, block, features=features)


def duplicate_shortcut(
    x: Float[Array, "B T H W C"],
    block: tuple[int, int, int],
    *,
    features: int,
    first: bool,
) -> Float[Array, "B T2 H2 W2 features"]:
    """The shortcut around a decoder stage: `duplicate_up`, without frames before 0."""
    y = conv.duplicate_up(x, block, features=features)
    return y[:, block[0] - 1 :] if first else y
