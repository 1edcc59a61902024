"""The encoders of T5 v1.1 (arXiv:1910.10683) and UMT5 (arXiv:2304.09151), packed.

A row holds the captions of all its segments one after the other. With RMS an RMS norm
with a learned scale and b the bias of a head for a relative position,

    x += W_o softmax(q k' + b[bucket(j - i)]) v,    q, k, v from RMS(x)           (1)
    x += W_down (gelu(W_gate h) * W_up h),          h = RMS(x)                    (2)

Attention is not scaled by the head size, and nothing has a bias term. In UMT5 every
layer has its own table b, in T5 all share one. Captions are contiguous, so the
difference of two indices of the row is their distance within the caption.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from soraflax import sharding
from soraflax.nn import layers, transformer
from soraflax.ops import attention


@dataclasses.dataclass(frozen=True)
class TextEncoderConfig:
    """Sizes of a text encoder.

    Attributes:
      vocabulary: number of token ids.
      width: features of the residual stream and of the output.
      depth: number of layers.
      heads: number of heads.
      head_size: size of a head; `heads * head_size` need not be `width`.
      mlp: hidden size of the gated MLP.
      buckets: buckets of relative positions, half of them on each side.
      max_distance: distance from which all share the last bucket.
      shared_bias: whether all layers share one table of biases, as in T5; else each has
        its own, as in UMT5.
      remat: a name in `transformer.REMAT_POLICIES`.
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    head_size: int
    mlp: int
    buckets: int = 32
    max_distance: int = 128
    shared_bias: bool = False
    remat: str = "none"

    def __post_init__(self) -> None:
        transformer.check_remat(self.remat)
        if self.buckets % 4 or self.buckets < 4:
            nearest = max(4, 4 * round(self.buckets / 4))
            raise ValueError(
                f"{self.buckets} relative position buckets do not split into two "
                f"sides of near and far; nearest legal number: {nearest}"
            )
        if self.max_distance <= self.buckets // 4:
            raise ValueError(
                f"max_distance {self.max_distance} is within the {self.buckets // 4} "
                f"nearest distances, which have a bucket each; use at least "
                f"{self.buckets // 4 + 1}"
            )


def relative_buckets(
    length: int, *, buckets: int, max_distance: int
) -> Int[np.ndarray, "R"]:
    """The bucket of key j relative to query i, at j - i + length - 1.

    Half of the buckets are for keys after the query. On each side the first half count
    single positions, the rest grow logarithmically up to `max_distance`
    (arXiv:1910.10683, section 2.1).
    """
    offset = np.arange(1 - length, length)
    side = buckets // 2
    near = side // 2  # buckets of a single distance; the others are logarithmic
    distance = np.abs(offset)
    log_ratio = np.log(np.maximum(distance, 1).astype(np.float32) / near)
    far = near + log_ratio / math.log(max_distance / near) * (side - near)
    far = np.minimum(far.astype(np.int32), side - 1)
    return np.where(offset > 0, side, 0) + np.where(distance < near, distance, far)


def _bias_table(module: nn.Module, config: TextEncoderConfig) -> jax.Array:
    """b of equation (1), a parameter of `module`: `[buckets, heads]`, float32."""
    init = nn.initializers.normal(config.width**-0.5)
    return module.param(
        "relative_bias",
        sharding.named(init, None, "heads"),
        (config.buckets, config.heads),
        jnp.float32,
    )


class SelfAttention(nn.Module):
    """The attention of equation (1), without its norm and its residual.

    Attributes:
      config: sizes.
      dtype: compute dtype.
      implementation: as of `TextEncoder`.
    """

    config: TextEncoderConfig
    dtype: Any = jnp.float32
    implementation: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B M D"], plan: Any, table: Any
    ) -> Float[Array, "B M D"]:
        """Attention by `plan`; `table` is the shared b, or None."""
        c, kind = self.config, self.implementation
        width, inner = x.shape[-1], c.heads * c.head_size

        def project(name: str, deviation: float) -> jax.Array:
            y = layers.Linear(
                inner,
                axes=("embed", "heads"),
                use_bias=False,
                dtype=self.dtype,
                kernel_init=nn.initializers.normal(deviation),
                name=name,
            )(x)
            y = y.reshape(*x.shape[:-1], c.heads, c.head_size)
            return sharding.constrain(y, "batch", "text", "heads", None)

        table = _bias_table(self, c) if table is None else table
        ids = relative_buckets(
            x.shape[1], buckets=c.buckets, max_distance=c.max_distance
        )
        # A product, whose gradient is one too: a lookup's would add numbers one by one.
        one_hot = jax.nn.one_hot(ids, c.buckets, dtype=jnp.float32)
        y = attention.attention(
            project("q", (width * c.head_size) ** -0.5),
            project("k", width**-0.5),
            project("v", width**-0.5),
            plan=plan,
            implementation=kind if kind in attention.BIASED else None,
            scale=1.0,
            bias=jnp.einsum("rb,bh->hr", one_hot, table),
            round_products=self.dtype == layers.ROUNDED,
        )
        return layers.Linear(
            width,
            axes=("heads", "embed"),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(inner**-0.5),
            name="out",
        )(y.reshape(*x.shape[:-1], inner))


class GatedMLP(nn.Module):
    """The MLP of equation (2), without its norm and its residual.

    Attributes:
      hidden: size of the hidden layer.
      dtype: compute dtype.
    """

    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B M D"]) -> Float[Array, "B M D"]:
        width = x.shape[-1]
        linear = functools.partial(
            layers.Linear, use_bias=False, dtype=self.dtype, axes=("embed", "mlp")
        )
        init = nn.initializers.normal(width**-0.5)
        gate = linear(self.hidden, kernel_init=init, name="gate")(x)
        up = linear(self.hidden, kernel_init=init, name="up")(x)
        y = jax.nn.gelu(gate, approximate=True) * up
        return layers.Linear(
            width,
            axes=("mlp", "embed"),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(self.hidden**-0.5),
            name="down",
        )(y)


class Layer(nn.Module):
    """Equations (1) and (2).

    Attributes:
      config: sizes.
      dtype: compute dtype.
      implementation: as of `TextEncoder`.
    """

    config: TextEncoderConfig
    dtype: Any = jnp.float32
    implementation: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B M D"], plan: Any, table: Any
    ) -> tuple[Float[Array, "B M D"], None]:
        c = self.config
        attend = SelfAttention(c, self.dtype, self.implementation, name="attention")
        x = x + attend(layers.RMSNorm(name="attention_norm")(x), plan, table)
        x = x + GatedMLP(c.mlp, self.dtype, name="mlp")(
            layers.RMSNorm(name="mlp_norm")(x)
        )
        return sharding.constrain(x, "batch", "text", "embed"), None


class TextEncoder(nn.Module):
    """Token ids of packed captions to features.

    Attributes:
      config: sizes.
      dtype: compute dtype.
      implementation: of attention, 'reference' or 'blocks'; None, or one that takes no
        bias, chooses by platform and length.
    """

    config: TextEncoderConfig
    dtype: Any = jnp.float32
    implementation: str | None = None

    @nn.compact
    def __call__(
        self,
        ids: Int[Array | np.ndarray, "B M"],
        segments: Int[Array | np.ndarray, "B M"],
        *,
        plan: Any = None,
    ) -> Float[Array, "B M width"]:
        """Features of every text token, zero where padded.

        Args:
          ids: token ids; their values in padding do not matter.
          segments: segment id of every token, 0 where padded; contiguous.
          plan: `attention.make_plan(segments, segments)`, if it exists already.
        """
        c = self.config
        if plan is None:
            plan = attention.make_plan(segments, segments)
        present = segments > 0
        x = layers.Embed(c.vocabulary, c.width, self.dtype, name="embedding")(
            jnp.where(present, ids, 0)
        )
        x = sharding.constrain(x, "batch", "text", "embed")
        table = _bias_table(self, c) if c.shared_bias else None
        stack = transformer.scan(transformer.remat(Layer, c.remat), c.depth)
        x, _ = stack(c, self.dtype, self.implementation, name="layers")(x, plan, table)
        x = layers.RMSNorm(name="norm")(x)
        return jnp.where(present[..., None], x, 0)


VARIANTS: dict[str, TextEncoderConfig] = {
    "tiny": TextEncoderConfig(
        vocabulary=1024, width=16, depth=2, heads=2, head_size=8, mlp=32
    ),
    "small": TextEncoderConfig(
        vocabulary=1024, width=128, depth=2, heads=4, head_size=32, mlp=256
    ),
    "base": TextEncoderConfig(
        vocabulary=1024, width=512, depth=8, heads=8, head_size=64, mlp=1024
    ),
    # google/umt5-xxl, the text encoder of Wan.
    "umt5_xxl": TextEncoderConfig(
        vocabulary=256384, width=4096, depth=24, heads=64, head_size=64, mlp=10240
    ),
    # google/t5-v1_1-xxl.
    "t5_v1_1_xxl": TextEncoderConfig(
        vocabulary=32128,
        width=4096,
        depth=24,
        heads=64,
        head_size=64,
        mlp=10240,
        shared_bias=True,
    ),
}
