"""What an implementation is: attention forward and backward, on one device.

A kernel computes, for the segments of a plan,

    s = scale q k^T,    lse = log sum exp s,    out = exp(s - lse) v              (1)

and, from the gradient of `out` and with nothing else saved,

    p = exp(s - lse),   dv = p^T do,   delta = rowsum(do out)                     (2)
    ds = p (do v^T - delta),   dq = scale ds k,   dk = scale ds^T q.              (3)

Attention to a set of keys follows from attention to its parts (arXiv:1805.02867):

    lse = log(exp lse_1 + exp lse_2)                                              (4)
    out = exp(lse_1 - lse) out_1 + exp(lse_2 - lse) out_2                         (5)

and so do (2) and (3), which are sums over keys once `lse` and `out` are those of all
keys. That is all that is needed to take keys in pieces, from this device or another.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from soraflax.ops.attention import plan as planning

# Finite, so that a query that sees nothing has no NaN in it or in its gradient.
MASKED = -1e30
SMALL = 1e-30

Partial = tuple[Float[Array, "B N H K"], Float[Array, "B H N"]]
Forward = Callable[
    [jax.Array, jax.Array, jax.Array, planning.AttentionPlan, float], Partial
]
Backward = Callable[..., tuple[jax.Array, jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Attention on one device, to the whole of the keys or to a part of them.

    Attributes:
      forward: `(q, k, v, plan, scale) -> (out, lse)`, equation (1); `out` is
        `[B, N, H, K]` in the dtype of `q`, `lse` `[B, H, N]` float32. A query that sees
        no key has `out` 0 and `lse` at most `MASKED`.
      backward: `(q, k, v, plan, scale, out, lse, d_out) -> (dq, dk, dv)`, equations (2)
        and (3), where `out` and `lse` may be of more keys than `k` has.
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
    return kernel.forward(q, k, v, plan, scale)[0]


def _save(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    plan: planning.AttentionPlan,
    kernel: Kernel,
    scale: float,
) -> tuple[jax.Array, tuple]:
    out, lse = name(*kernel.forward(q, k, v, plan, scale))
    return out, (q, k, v, plan, out, lse)


def _backward(kernel: Kernel, scale: float, saved: tuple, d_out: jax.Array) -> tuple:
    q, k, v, plan, out, lse = saved
    return *kernel.backward(q, k, v, plan, scale, out, lse, d_out), None


attend.defvjp(_save, _backward)


def name(out: jax.Array, lse: jax.Array) -> Partial:
    """The names by which remat policies know what a backward pass needs."""
    out = checkpoint_name(out, "attention_output")
    return out, checkpoint_name(lse, "attention_log_sum_exp")


def row_sums(d_out: jax.Array, out: jax.Array) -> Float[Array, "B H N"]:
    """`delta` of equation (2), in float32."""
    return jnp.einsum(
        "bnhk,bnhk->bhn", d_out.astype(jnp.float32), out.astype(jnp.float32)
    )


def unsupported_sizes(
    head_size: int,
    plan: planning.AttentionPlan,
    *,
    head_sizes: tuple[int, ...],
    tile: int,
    largest: int | None = None,
) -> str | None:
    """What keeps a kernel from these sizes, with the nearest that would do; or None.

    Args:
      head_size: K.
      plan: its blocks, where a row has more than one, must be multiples of `tile`.
      head_sizes: those that the kernel takes.
      tile: tokens.
      largest: block that the kernel takes, in tokens.
    """
    if head_size not in head_sizes:
        nearest = min(head_sizes, key=lambda size: abs(size - head_size))
        return f"heads of size {head_size}: use {nearest}"
    for side, block, runs in (
        ("queries", plan.query_block, plan.keys_of),
        ("keys", plan.key_block, plan.queries_of),
    ):
        nearest = max(tile, round(block / tile) * tile)
        if block % tile and runs.start.shape[-1] > 1:
            return f"blocks of {block} {side}: use {min(nearest, largest or nearest)}"
        if largest is not None and block > largest:
            return f"blocks of {block} {side}: use {largest}"
    return None


def empty_partial(q: jax.Array) -> Partial:
    """Attention to no keys, in float32: where a sum of parts begins."""
    rows, tokens, heads, _ = q.shape
    lse = jnp.full((rows, heads, tokens), MASKED, jnp.float32)
    return jnp.zeros(q.shape, jnp.float32), lse


def merge(one: Partial, other: Partial) -> Partial:
    """Equations (4) and (5), in float32."""
    lse = jnp.logaddexp(one[1], other[1])
    parts = (
        jnp.einsum("bhn,bnhk->bnhk", jnp.exp(part - lse), out.astype(jnp.float32))
        for out, part in (one, other)
    )
    return sum(parts, start=jnp.float32(0)), lse
