"""The transformer block of Wan (arXiv:2503.20314, section 4.2) on packed rows.

With LN a layer norm without parameters, and shift, scale, gate from (1):

    m       = table[6, D] + modulation[B, L, 6, D]                              (1)
    h       = LN(x) (1 + scale_1[level]) + shift_1[level]                       (2)
    x      += gate_1[level] * self_attention(h)                                 (3)
    x      += cross_attention(affine LN(x), text)                               (4)
    x      += gate_2[level] * mlp(LN(x) (1 + scale_2[level]) + shift_2[level])  (5)

`modulation` has one entry per noise level of the row, not per token (packing.py): L is
small. Each token's entry is gathered inside (2), (3) and (5), which recompute it in the
backward pass, so no `[B, N, 6, D]` array exists and none of `[B, N, D]` is kept.

Queries and keys are RMS-normalised over the full width, before the split into heads.

Initial values make every block the identity, unless `gate_init` is set: the table and
the shared projection are zero (adaLN-Zero, arXiv:2212.09748, section 3.2), and so is
the output of cross-attention, which has no gate (PixArt-alpha, arXiv:2310.00426,
section 2.3). Wan draws the table from N(0, 1/D); that matters only to its own
pretraining.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from soraflax import sharding
from soraflax.nn import layers
from soraflax.ops import attention, norm, rope

_policies = jax.checkpoint_policies

UNROLLED = range(4, 9)  # layers of stacks that are unrolled on a CPU

# Activations of a block that are saved for its backward pass; others are recomputed.
# The names are those that ops/attention gives its outputs.
REMAT_POLICIES: dict[str, Any] = {
    "none": _policies.everything_saveable,
    "full": _policies.nothing_saveable,
    "dots": _policies.dots_with_no_batch_dims_saveable,
    "attention": _policies.save_only_these_names(
        "attention_output", "attention_log_sum_exp"
    ),
    "offload": _policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=["attention_output", "attention_log_sum_exp"],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


def check_remat(policy: str) -> None:
    """Refuse an unknown policy.

    Raises:
      ValueError: not a name in `REMAT_POLICIES`.
    """
    if policy not in REMAT_POLICIES:
        known = ", ".join(REMAT_POLICIES)
        raise ValueError(f"unknown remat policy {policy!r}; known: {known}")


def remat(module: type[nn.Module], policy: str) -> type[nn.Module]:
    """`module` rematerialised by a policy of `REMAT_POLICIES`."""
    check_remat(policy)
    if policy == "none":
        return module
    return nn.remat(module, policy=REMAT_POLICIES[policy], prevent_cse=False)


def scan(
    module: type[nn.Module], depth: int, *, axes: Any = nn.broadcast
) -> type[nn.Module]:
    """`depth` copies of `module` in one scan.

    All inputs but the first are shared, or as `axes` (`in_axes` of `nn.scan`) says.

    On a CPU a short stack is unrolled: there what a scan keeps for its backward pass is
    copied into stacked arrays and out again.
    """
    return nn.scan(
        module,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=axes,
        length=depth,
        unroll=depth if depth in UNROLLED and sharding.platform() == "cpu" else 1,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )


@jax.custom_vjp
def gather(
    table: Float[Array, "B L D"], ids: Int[Array, "B N"]
) -> Float[Array, "B N D"]:
    """`table[b, ids[b, n]]`.

    Its gradient is a matrix product with the one-hot ids: many tokens share a row, and
    the scatter that JAX would write adds them one by one.
    """
    return jax.vmap(lambda rows, i: rows.at[i].get(mode="clip"))(table, ids)


def _gather_forward(table: jax.Array, ids: jax.Array) -> Any:
    return gather(table, ids), (table, ids)


def _gather_backward(residuals: Any, g: jax.Array) -> Any:
    table, ids = residuals
    one_hot = jax.nn.one_hot(ids, table.shape[1], dtype=g.dtype)
    return jnp.einsum("bnl,bnd->bld", one_hot, g), None


gather.defvjp(_gather_forward, _gather_backward)


@functools.partial(jax.checkpoint, prevent_cse=False)
def modulate(
    x: Float[Array, "B N D"],
    shift: Float[Array, "B L D"],
    *,
    scale: Float[Array, "B L D"],
    level_ids: Int[Array, "B N"],
) -> Float[Array, "B N D"]:
    """Equation (2) in float32, in the dtype of `x`; `shift` and `scale` are tables."""
    y = norm.layer_norm(x.astype(jnp.float32))
    y = y * (1.0 + gather(scale, level_ids)) + gather(shift, level_ids)
    return y.astype(x.dtype)


@functools.partial(jax.checkpoint, prevent_cse=False)
def gated_add(
    x: Float[Array, "B N D"],
    y: Float[Array, "B N D"],
    *,
    gate: Float[Array, "B L D"],
    level_ids: Int[Array, "B N"],
) -> Float[Array, "B N D"]:
    """`x + gate[level] * y`, summed in float32, in the dtype of `x`."""
    update = y.astype(jnp.float32) * gather(gate, level_ids)
    return (x.astype(jnp.float32) + update).astype(x.dtype)


class Attention(nn.Module):
    """Attention of packed queries to packed keys, with RMS-normalised q and k.

    Attributes:
      heads: number of heads; divides the width.
      dtype: compute dtype.
      implementation: as in `attention.attention`.
      context_axis: logical name of the axis of keys.
      out_init: initializer of the output kernel.
      qk_bias_init: initial bias of queries and keys; see `_ramp`.
    """

    heads: int
    dtype: Any = jnp.float32
    implementation: str | None = None
    context_axis: str = "tokens"
    out_init: layers.Initializer = layers.xavier
    qk_bias_init: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        context: Float[Array, "B M D"],
        *,
        plan: Any,
        angles: Float[Array, "B N half"] | None = None,
    ) -> Float[Array, "B N D"]:
        """Attention of `x` to `context`; rotary where `angles` are given."""
        width = x.shape[-1]
        project = functools.partial(
            layers.Linear,
            width,
            axes=("embed", "heads"),
            dtype=self.dtype,
            kernel_init=layers.xavier,
        )
        bias_init = _ramp(self.qk_bias_init, self.heads)
        q = project(bias_init=bias_init, name="q")(x)
        k = project(bias_init=bias_init, name="k")(context)
        q = layers.RMSNorm("heads", name="q_norm")(q)
        k = layers.RMSNorm("heads", name="k_norm")(k)
        v = project(name="v")(context)
        q = self._split_heads(q, "tokens")
        k = self._split_heads(k, self.context_axis)
        v = self._split_heads(v, self.context_axis)
        if angles is not None:
            # Constrained again: the gradient of the float32 rotation would otherwise
            # move between devices.
            q = self._constrain(rope.apply_rope(q, angles), "tokens")
            k = self._constrain(rope.apply_rope(k, angles), self.context_axis)
        y = attention.attention(
            q,
            k,
            v,
            plan=plan,
            implementation=self.implementation,
            round_products=self.dtype == layers.ROUNDED,
        )
        y = sharding.constrain(y.reshape(x.shape), "batch", "tokens", "heads")
        return layers.Linear(
            width,
            axes=("heads", "embed"),
            dtype=self.dtype,
            kernel_init=self.out_init,
            name="out",
        )(y)

    def _split_heads(self, x: jax.Array, axis: str) -> jax.Array:
        x = x.reshape(*x.shape[:-1], self.heads, x.shape[-1] // self.heads)
        return self._constrain(x, axis)

    def _constrain(self, x: jax.Array, axis: str) -> jax.Array:
        return sharding.constrain(x, "batch", axis, "heads", None)


def _ramp(value: float, heads: int) -> layers.Initializer:
    """Initial bias of queries and keys: 0 in the first head, `value` in the last.

    The same vector on both sides, rotated by position, has its largest product where
    positions are equal: attention starts local. From biases of zero the scores do not
    depend on position at first, and the gradient of a product of two zeros is zero.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        del key
        ramp = jnp.linspace(0.0, value, heads, dtype=dtype) if heads > 1 else value
        return jnp.broadcast_to(
            jnp.repeat(jnp.asarray(ramp, dtype), shape[-1] // heads), shape
        )

    return init


# Saves its input alone for the backward pass, not five arrays of the hidden size.
_gelu = jax.checkpoint(
    functools.partial(jax.nn.gelu, approximate=True), prevent_cse=False
)


class MLP(nn.Module):
    """Linear, GELU (tanh), Linear.

    Attributes:
      hidden: size of the hidden layer.
      dtype: compute dtype.
    """

    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        width = x.shape[-1]
        linear = functools.partial(
            layers.Linear, dtype=self.dtype, kernel_init=layers.xavier
        )
        y = linear(self.hidden, axes=("embed", "mlp"), name="up")(x)
        y = _gelu(sharding.constrain(y, "batch", "tokens", "mlp"))
        return linear(width, axes=("mlp", "embed"), name="down")(y)


def _table_init(gate: float) -> layers.Initializer:
    """The table of equation (1): shifts and scales 0, gates `gate`."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        del key
        rows = jnp.asarray([0.0, 0.0, gate] * 2, dtype)
        return jnp.broadcast_to(rows[:, None], shape)

    return init


class Block(nn.Module):
    """Equations (1) to (5).

    Attributes:
      heads: number of heads.
      mlp: hidden size of the MLP.
      gate_init: initial value of the gates.
      qk_bias_init: initial bias of the queries and keys of self-attention.
      dtype: compute dtype.
      implementation: as in `attention.attention`.
    """

    heads: int
    mlp: int
    gate_init: float = 0.0
    qk_bias_init: float = 0.0
    dtype: Any = jnp.float32
    implementation: str | None = None

    # Positional arguments, and None beside the result: the form that `nn.scan` takes.
    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        modulation: Float[Array, "B L 6 D"],
        level_ids: Int[Array, "B N"],
        angles: Float[Array, "B N half"],
        text: Float[Array, "B M D"],
        plans: Any,
        kept: Bool[Array, "B"] | None,
    ) -> tuple[Float[Array, "B N D"], None]:
        before = x
        table = self.param(
            "modulation",
            sharding.named(_table_init(self.gate_init), None, "embed"),
            (6, x.shape[-1]),
            jnp.float32,
        )
        table = table.astype(jnp.float32)  # stored ones may be bfloat16
        parts = jnp.moveaxis(table + modulation, 2, 0)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = parts
        attend = functools.partial(
            Attention, self.heads, self.dtype, self.implementation
        )

        h = modulate(x, shift_1, scale=scale_1, level_ids=level_ids)
        h = attend(qk_bias_init=self.qk_bias_init, name="self_attention")(
            h, h, plan=plans.self_attention, angles=angles
        )
        x = gated_add(x, h, gate=gate_1, level_ids=level_ids)

        h = layers.LayerNorm(affine=True, name="cross_norm")(x)
        x = x + attend(
            context_axis="text", out_init=layers.zeros, name="cross_attention"
        )(h, text, plan=plans.cross_attention)

        h = modulate(x, shift_2, scale=scale_2, level_ids=level_ids)
        h = MLP(self.mlp, self.dtype, name="mlp")(h)
        x = gated_add(x, h, gate=gate_2, level_ids=level_ids)
        if kept is not None:
            x = jnp.where(kept[:, None, None], x, before)
        return sharding.constrain(x, "batch", "tokens", "embed"), None


class Stack(nn.Module):
    """`depth` blocks as one scan with one remat policy.

    Attributes:
      depth: number of blocks.
      heads: number of heads.
      mlp: hidden size of the MLPs.
      gate_init: initial value of the gates.
      qk_bias_init: initial bias of the queries and keys of self-attention.
      dtype: compute dtype, also of the residual stream.
      implementation: as in `attention.attention`.
      remat: a name in `REMAT_POLICIES`.
    """

    depth: int
    heads: int
    mlp: int
    gate_init: float = 0.0
    qk_bias_init: float = 0.0
    dtype: Any = jnp.float32
    implementation: str | None = None
    remat: str = "none"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        *,
        modulation: Float[Array, "B L 6 D"],
        level_ids: Int[Array, "B N"],
        angles: Float[Array, "B N half"],
        text: Float[Array, "B M D"],
        plans: Any,
        kept: Bool[Array, "B depth"] | None = None,
    ) -> Float[Array, "B N D"]:
        """The residual stream after the last block.

        Args:
          x: residual stream before the first block.
          modulation: shared projection of each noise level, float32.
          level_ids: index into the L levels of every token.
          angles: rotary angles of the tokens.
          text: projected text features.
          plans: attention plans, `self_attention` and `cross_attention`.
          kept: whether each row goes through each block; None is all through all.
        """
        axes = (nn.broadcast,) * 5 + (0,)
        blocks = scan(remat(Block, self.remat), self.depth, axes=axes)(
            heads=self.heads,
            mlp=self.mlp,
            gate_init=self.gate_init,
            qk_bias_init=self.qk_bias_init,
            dtype=self.dtype,
            implementation=self.implementation,
            name="blocks",
        )
        each = None if kept is None else kept.T
        x, _ = blocks(x, modulation, level_ids, angles, text, plans, each)
        return x
