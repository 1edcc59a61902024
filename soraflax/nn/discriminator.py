"""A patch discriminator of video, for adversarial training.

A stack of strided causal 3-D convolutions ends in one logit per patch, a window of
frames and pixels that overlaps its neighbours' (PatchGAN, arXiv:1611.07004, with time
as a third axis); positive logits mean real. As it is convolutional, videos have any
size, and an image is one frame:

    t = ceil(T / 2^a),    h = ceil(H / 2^n),    w = ceil(W / 2^n)                 (1)

for n stages of which a halve the frames. It has no norm layers: a norm ties the logits
of a batch or of a clip together, and the gradient penalty R1, which asks how one video
changes its own logits, is stable without (arXiv:1801.04406). Instead every leaky
rectifier is scaled by sqrt 2, which keeps activations at the scale of the video
(arXiv:1912.04958).
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from soraflax import flops
from soraflax.nn import convolution

SLOPE = 0.2
GAIN = 2.0**0.5
KERNEL = (3, 4, 4)  # sides are multiples of the stride: equally many taps per pixel
END = (3, 3, 3)


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """Sizes of a discriminator.

    Attributes:
      width: channels of the first stage.
      multipliers: channels of each stage in units of `width`; each halves the sides.
      temporal: for each stage, whether it halves the frames.
      dtype: compute dtype; parameters and logits are float32.
      convolution: implementation of `ops.conv`; None chooses by backend.
    """

    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 4)
    temporal: tuple[bool, ...] = (False, True, True)
    dtype: str = "float32"
    convolution: str | None = None

    def __post_init__(self) -> None:
        stages = len(self.multipliers)
        if min(self.width, stages, *self.multipliers) < 1:
            raise ValueError(f"discriminator sizes must be positive: {self}")
        if len(self.temporal) != stages:
            raise ValueError(
                f"temporal has {len(self.temporal)} flags for {stages} stages: "
                f"give {stages}"
            )

    @property
    def strides(self) -> tuple[tuple[int, int, int], ...]:
        """Strides of every stage, in time, height, width."""
        return tuple((1 + halves, 2, 2) for halves in self.temporal)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every stage."""
        return tuple(self.width * multiplier for multiplier in self.multipliers)

    def logit_grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Equation (1)."""
        for p, q, r in self.strides:
            frames, height, width = -(-frames // p), -(-height // q), -(-width // r)
        return frames, height, width

    @property
    def patch(self) -> tuple[int, int, int]:
        """Frames, rows and columns that one logit depends on."""
        # The receptive field grows by (taps - 1) times the distance, in the video, of
        # neighbouring positions of the layer.
        field, jump = [1, 1, 1], [1, 1, 1]
        layers = [(KERNEL, strides) for strides in self.strides] + [(END, (1, 1, 1))]
        for kernel, strides in layers:
            field = [
                n + (k - 1) * j for n, k, j in zip(field, kernel, jump, strict=True)
            ]
            jump = [j * s for j, s in zip(jump, strides, strict=True)]
        return field[0], field[1], field[2]


class Discriminator(nn.Module):
    """Video to logits; see the module docstring.

    Attributes:
      config: its sizes.
    """

    config: DiscriminatorConfig

    @nn.compact
    def __call__(self, video: Float[Array, "B T H W 3"]) -> Float[Array, "B t h w"]:
        """One logit per patch, float32, of videos in [-1, 1]; sizes by (1)."""
        config = self.config
        shared: dict[str, Any] = {
            "dtype": jnp.dtype(config.dtype),
            "implementation": config.convolution,
        }
        x = video
        stages = zip(config.widths, config.strides, strict=True)
        for stage, (width, strides) in enumerate(stages):
            axes = ("channels_in" if stage else None, "channels_out")
            x = convolution.CausalConv(
                width, KERNEL, strides, axes=axes, name=f"stage{stage}", **shared
            )(x)
            x = GAIN * nn.leaky_relu(x, SLOPE)
        axes = ("channels_in", None)
        x = convolution.CausalConv(1, END, axes=axes, name="logits", **shared)(x)
        return jnp.squeeze(x, -1).astype(jnp.float32)


def layers(
    config: DiscriminatorConfig, video: tuple[int, int, int]
) -> Iterator[flops.ConvolutionSizes]:
    """Every convolution, for a video of `(frames, height, width)`."""
    channels = 3
    sizes: tuple[int, ...] = video
    for width, strides in zip(config.widths, config.strides, strict=True):
        sizes = tuple(-(-n // s) for n, s in zip(sizes, strides, strict=True))
        yield flops.ConvolutionSizes(
            math.prod(sizes), math.prod(KERNEL), (channels, width)
        )
        channels = width
    yield flops.ConvolutionSizes(math.prod(sizes), math.prod(END), (channels, 1))


VARIANTS: dict[str, DiscriminatorConfig] = {
    "tiny": DiscriminatorConfig(width=8, multipliers=(1, 2), temporal=(False, True)),
    "small": DiscriminatorConfig(width=24),
    "base": DiscriminatorConfig(
        multipliers=(1, 2, 4, 8), temporal=(False, True, True, False)
    ),
}
