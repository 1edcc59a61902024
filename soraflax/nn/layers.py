"""The few layers that own parameters; each names the logical axes of its parameters.

Parameters are float32. `dtype` is the compute dtype of a layer; norms always compute in
float32 and return the dtype of their input.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from soraflax import sharding
from soraflax.nn import lora
from soraflax.ops import norm, product

Initializer = Callable[..., Any]
zeros = nn.initializers.zeros_init()
lecun = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
xavier = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


GATHERED_ROWS = 2**16  # of an embedding; a larger one stays sharded

ROUNDED = "rounded"
"""As a layer's dtype: float32, but products of inputs rounded to bfloat16."""


def compute_dtype(name: str) -> Any:
    """The dtype that layers compute in on the target platform.

    A CPU multiplies bfloat16 fast where results are float32, and does everything else
    slowly in it: there 'bfloat16' is `ROUNDED`.
    """
    if name == "bfloat16" and sharding.platform() == "cpu":
        return ROUNDED
    return jnp.dtype(name)


def activation_dtype(dtype: Any) -> Any:
    """The dtype of what a layer of this dtype returns."""
    return jnp.float32 if dtype == ROUNDED else dtype


class Linear(nn.Module):
    """`y[..., features] = x[..., d] @ kernel[d, features] + bias[features]`.

    Adapters beside the kernel (`lora.attach`) add their low-rank product with `x`.

    Attributes:
      features: size of the last axis of the result.
      axes: logical names of the kernel's two axes.
      use_bias: whether a bias is added.
      dtype: compute dtype, or `ROUNDED`; the kernel is cast to it, the parameter stays
        float32.
      kernel_init: initializer of the kernel.
      bias_init: initializer of the bias.
    """

    features: int
    axes: tuple[str | None, str | None] = ("embed", "mlp")
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Initializer = lecun
    bias_init: Initializer = zeros

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch features"]:
        init = sharding.named(self.kernel_init, *self.axes)
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", init, shape, jnp.float32)
        x = x.astype(activation_dtype(self.dtype))
        if self.dtype == ROUNDED:
            y = product.rounded_matmul(x, kernel)
        else:
            y = jnp.einsum("...d,df->...f", x, kernel.astype(x.dtype))
        if self.has_variable("params", lora.A):
            a, b = (self.get_variable("params", name) for name in (lora.A, lora.B))
            y = y + lora.low_rank(x, a, b=b)
        if not self.use_bias:
            return y
        init = sharding.named(self.bias_init, self.axes[1])
        bias = self.param("bias", init, (self.features,), jnp.float32)
        return y + bias.astype(x.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis with a learned scale.

    Attributes:
      axis: logical name of the normalised axis.
      eps: added to the mean square.
    """

    axis: str | None = "embed"
    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        scale = self.param(
            "scale",
            sharding.named(nn.initializers.ones_init(), self.axis),
            (x.shape[-1],),
            jnp.float32,
        )
        return norm.rms_norm(x, scale, eps=self.eps)


class LayerNorm(nn.Module):
    """Layer norm over the last axis.

    Attributes:
      affine: whether a scale and a bias are learned.
      eps: added to the variance.
    """

    affine: bool = False
    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        if not self.affine:
            return norm.layer_norm(x, eps=self.eps)
        shape = (x.shape[-1],)
        ones = sharding.named(nn.initializers.ones_init(), "embed")
        scale = self.param("scale", ones, shape, jnp.float32)
        bias = self.param("bias", sharding.named(zeros, "embed"), shape, jnp.float32)
        return norm.layer_norm(x, scale, bias=bias, eps=self.eps)


class Embed(nn.Module):
    """A table of vectors looked up by integer id.

    Attributes:
      size: number of rows.
      features: size of each vector.
      dtype: dtype of the result.
    """

    size: int
    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch features"]:
        table = self.param(
            "table",
            sharding.named(nn.initializers.normal(1.0), "vocab", "embed"),
            (self.size, self.features),
            jnp.float32,
        )
        # A lookup in a sharded table communicates the activations, so it is gathered
        # first, unless it is larger than they are, as UMT5's.
        table = table.astype(activation_dtype(self.dtype))
        if self.size <= GATHERED_ROWS:
            table = sharding.constrain(table, None, None)
        return jnp.take(table, ids, axis=0)
