"""Attention to keys that other devices hold: a ring (arXiv:2310.01889).

Each of r groups of devices keeps its queries. Keys and values travel: at step s a group
has those of the group s places on, adds what its queries find there by equations (4)
and (5) of kernel.py, and hands them back one place. Backward, the gradients of keys and
values travel with them, one step behind, and take one step more to be home.

What travels in a step does not depend on what is computed in it, so that the compiler
can do both at once; compiled for TPU v5p, transfers begin before the work of a step and
end after it. It travels whether or not anybody needs it: a device that left out
a step would leave its neighbours waiting, and a branch that all agree on would keep the
transfer from overlapping the work. The work itself is left out wherever two shards do
not touch. `packing.stripe` spreads a row so that every step is as long on every device.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from soraflax.ops.attention import kernel as kernels
from soraflax.ops.attention import plan as planning


@dataclasses.dataclass(frozen=True)
class Ring:
    """Groups of neighbours on a mesh axis.

    Attributes:
      axis: name of the mesh axis, manual here (inside `shard_map`).
      groups: r, the number of groups.
      width: devices in a group; each has a counterpart in every other group.
    """

    axis: str
    groups: int
    width: int

    @property
    def place(self) -> jax.Array:
        """The group that this device is in."""
        return lax.axis_index(self.axis) // self.width

    def rotate(self, tree: Any) -> Any:
        """What the counterpart in the next group holds."""
        size = self.groups * self.width
        pairs = [((at + self.width) % size, at) for at in range(size)]
        return jax.tree.map(lambda x: lax.ppermute(x, self.axis, pairs), tree)


@functools.partial(jax.custom_vjp, nondiff_argnames=("kernel", "scale", "ring"))
def attend(
    q: Float[Array, "B N H K"],
    k: Float[Array, "B M H K"],
    v: Float[Array, "B M H K"],
    plan: planning.AttentionPlan,
    kernel: kernels.Kernel,
    scale: float,
    ring: Ring,
) -> Float[Array, "B N H K"]:
    """Attention of the queries of this device to the keys of the whole ring.

    Args:
      q: this group's queries.
      k: this group's keys.
      v: this group's values.
      plan: of the whole rows, in as many shards as there are groups.
      kernel: what computes one pair of shards.
      scale: of the scores.
      ring: who passes to whom.
    """
    return _forward(q, k, v, plan, kernel, scale, ring)[0]


def _forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    plan: planning.AttentionPlan,
    kernel: kernels.Kernel,
    scale: float,
    ring: Ring,
) -> kernels.Partial:
    def visit(
        s: int | jax.Array, found: kernels.Partial, k: jax.Array, v: jax.Array
    ) -> kernels.Partial:
        pair = _pair(plan, ring, step=s)
        # With the merge outside, the compiler would hide transfers behind it alone.
        return _where_they_touch(
            pair,
            lambda: kernels.merge(found, kernel.forward(q, k, v, pair, scale)),
            nothing=found,
        )

    def step(s: jax.Array, state: tuple) -> tuple:
        found, k, v = state
        following = ring.rotate((k, v))
        return visit(s, found, k, v), *following

    last = ring.groups - 1
    found, k, v = lax.fori_loop(0, last, step, (kernels.empty_partial(q), k, v))
    out, lse = visit(last, found, k, v)
    return out.astype(q.dtype), lse


def _save(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    plan: planning.AttentionPlan,
    kernel: kernels.Kernel,
    scale: float,
    ring: Ring,
) -> tuple[jax.Array, tuple]:
    out, lse = kernels.name(*_forward(q, k, v, plan, kernel, scale, ring))
    return out, (q, k, v, plan, out, lse)


def _backward(
    kernel: kernels.Kernel, scale: float, ring: Ring, saved: tuple, d_out: jax.Array
) -> tuple:
    q, k, v, plan, out, lse = saved
    zeros = tuple(jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))

    def visit(s: int | jax.Array, k: jax.Array, v: jax.Array) -> tuple:
        pair = _pair(plan, ring, step=s)
        return _where_they_touch(
            pair,
            lambda: _wide(kernel.backward(q, k, v, pair, scale, out, lse, d_out)),
            nothing=zeros,
        )

    def add(s: int | jax.Array, dq: Any, behind: tuple, k: Any, v: Any) -> tuple:
        dk, dv = ring.rotate(behind)
        more = visit(s, k, v)
        return dq + more[0], (dk + more[1], dv + more[2])

    def step(s: jax.Array, state: tuple) -> tuple:
        dq, behind, k, v = state
        following = ring.rotate((k, v))
        return *add(s, dq, behind, k, v), *following

    last = ring.groups - 1
    dq, behind, k_last, v_last = lax.fori_loop(
        0, last, step, (zeros[0], zeros[1:], k, v)
    )
    dq, behind = add(last, dq, behind, k_last, v_last)
    dk, dv = ring.rotate(behind)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


attend.defvjp(_save, _backward)


def _pair(
    plan: planning.AttentionPlan, ring: Ring, *, step: int | jax.Array
) -> planning.AttentionPlan:
    return plan.pair(ring.place, (ring.place + step) % ring.groups)


def _where_they_touch(
    pair: planning.AttentionPlan, work: Callable[[], tuple], *, nothing: tuple
) -> tuple:
    return lax.cond(jnp.sum(pair.work) > 0, work, lambda: nothing)


def _wide(parts: tuple) -> tuple:
    return tuple(x.astype(jnp.float32) for x in parts)
