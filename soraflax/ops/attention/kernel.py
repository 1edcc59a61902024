"""What a kernel is: attention forward and backward on one device.

A kernel computes, for the segments of a plan,

    s = scale q k^T,    lse = log sum exp s,    out = exp(s - lse) v              (1)

and, from the gradient of `out` and these residuals alone,

    p = exp(s - lse),   dv = p^T do,   delta = rowsum(do out)                     (2)
    ds = p (do v^T - delta),   dq = scale ds k,   dk = scale ds^T q.              (3)

Attention to a set of keys follows from attention to its parts (arXiv:1805.02867):

    lse = log(exp lse_1 + exp lse_2)                                              (4)
    out = exp(lse_1 - lse) out_1 + exp(lse_2 - lse) out_2                         (5)

and so do (2) and (3), which are sums over keys once `lse` and `out` are those of all
keys. That is all it takes to visit keys in parts, on this device (chunked.py) or on
several (ring.py).
"""

import dataclasses
import functools
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from soraflax.ops.attention import plan as planning

# Finite, so that a query that sees no key has no NaN in it or in its gradient.
MASK_VALUE = -1e30
MIN_TOTAL = 1e-30  # least denominator of a softmax

Partial = tuple[Float[Array, "B N H K"], Float[Array, "B H N"]]
Gradients = tuple[
    Float[Array, "B N H K"], Float[Array, "B M H K"], Float[Array, "B M H K"]
]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["q", "k", "v", "plan", "out", "lse"],
    meta_fields=["scale"],
)
@dataclasses.dataclass(frozen=True)
class Residuals:
    """What a backward pass needs of its forward pass.

    Attributes:
      q: queries, `[B, N, H, K]`.
      k: keys, `[B, M, H, K]`.
      v: values, `[B, M, H, K]`.
      plan: the segments, and which blocks touch.
      scale: factor of the scores.
      out: output of equation (1), `[B, N, H, K]`.
      lse: log-sum-exp of equation (1), `[B, H, N]` float32.
    """

    q: Any
    k: Any
    v: Any
    plan: planning.AttentionPlan
    scale: float
    out: Any
    lse: Any


@runtime_checkable
class Forward(Protocol):
    """Equation (1) of a kernel."""

    def __call__(
        self,
        q: Float[Array, "B N H K"],
        k: Float[Array, "B M H K"],
        v: Float[Array, "B M H K"],
        *,
        plan: planning.AttentionPlan,
        scale: float,
    ) -> Partial: ...


@runtime_checkable
class Backward(Protocol):
    """Equations (2) and (3) of a kernel."""

    def __call__(
        self, residuals: Residuals, d_out: Float[Array, "B N H K"]
    ) -> Gradients: ...


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Attention on one device, to all keys or to a part of them.

    Attributes:
      forward: `(q, k, v, plan=, scale=) -> (out, lse)`, equation (1); `out` is
        `[B, N, H, K]` in the dtype of `q`, `lse` `[B, H, N]` float32. A query that sees
        no key has `out` 0 and `lse` at most `MASK_VALUE`.
      backward: `(residuals, d_out) -> (dq, dk, dv)`, equations (2) and (3); `out` and
        `lse` of the residuals may be of more keys than `k` has.
    """

    forward: Forward
    backward: Backward


@functools.partial(jax.custom_vjp, nondiff_argnames=("kernel", "scale"))
def attend(
    q: Float[Array, "B N H K"],
    k: Float[Array, "B M H K"],
    v: Float[Array, "B M H K"],
    plan: planning.AttentionPlan,
    kernel: Kernel,
    scale: float,
) -> Float[Array, "B N H K"]:
    """Equation (1) by `kernel`, its gradient by (2) and (3)."""
    return kernel.forward(q, k, v, plan=plan, scale=scale)[0]


def _attend_forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    plan: planning.AttentionPlan,
    kernel: Kernel,
    scale: float,
) -> tuple[jax.Array, Residuals]:
    out, lse = name_residuals(*kernel.forward(q, k, v, plan=plan, scale=scale))
    return out, Residuals(q, k, v, plan, scale, out, lse)


def _attend_backward(
    kernel: Kernel, scale: float, residuals: Residuals, d_out: jax.Array
) -> tuple:
    del scale  # the residuals have it
    return *kernel.backward(residuals, d_out), None


attend.defvjp(_attend_forward, _attend_backward)


def name_residuals(out: Float[Array, "B N H K"], lse: Float[Array, "B H N"]) -> Partial:
    """The same arrays under the names by which remat policies save them."""
    out = checkpoint_name(out, "attention_output")
    return out, checkpoint_name(lse, "attention_log_sum_exp")


def row_sums(
    d_out: Float[Array, "B N H K"], out: Float[Array, "B N H K"]
) -> Float[Array, "B H N"]:
    """`delta` of equation (2), in float32."""
    return jnp.einsum(
        "bnhk,bnhk->bhn", d_out.astype(jnp.float32), out.astype(jnp.float32)
    )


def empty_partial(q: Float[Array, "B N H K"]) -> Partial:
    """Attention to no keys, in float32: the neutral element of `merge`."""
    rows, tokens, heads, _ = q.shape
    lse = jnp.full((rows, heads, tokens), MASK_VALUE, jnp.float32)
    return jnp.zeros(q.shape, jnp.float32), lse


def merge(first: Partial, second: Partial) -> Partial:
    """Equations (4) and (5), in float32."""
    lse = jnp.logaddexp(first[1], second[1])
    weighted = (
        jnp.einsum("bhn,bnhk->bnhk", jnp.exp(part - lse), out.astype(jnp.float32))
        for out, part in (first, second)
    )
    return sum(weighted, start=jnp.float32(0)), lse


def unsupported_sizes(
    head_size: int,
    plan: planning.AttentionPlan,
    *,
    head_sizes: tuple[int, ...],
    tile: int,
    max_block: int | None = None,
) -> str | None:
    """Why a kernel cannot run these sizes, with the nearest it can; None if it can.

    Args:
      head_size: K.
      plan: its blocks, where a row has more than one, must be multiples of `tile`.
      head_sizes: head sizes that the kernel is written for.
      tile: tokens in a tile of the kernel.
      max_block: tokens in the largest block of the kernel; None for no limit.
    """
    if plan.causal:
        return "a causal plan: use 'reference'"
    if head_size not in head_sizes:
        nearest = min(head_sizes, key=lambda size: abs(size - head_size))
        return f"heads of size {head_size}: use {nearest}"
    for side, block, runs in (
        ("queries", plan.query_block, plan.keys_of),
        ("keys", plan.key_block, plan.queries_of),
    ):
        nearest = max(tile, round(block / tile) * tile)
        if block % tile and runs.start.shape[-1] > 1:
            return f"blocks of {block} {side}: use {min(nearest, max_block or nearest)}"
        if max_block is not None and block > max_block:
            return f"blocks of {block} {side}: use {max_block}"
    return None
