"""Ring attention: keys and values that other devices hold (arXiv:2310.01889).

Each of r groups of devices keeps its queries. Keys and values travel: at step s a group
holds those of the group s further on, merges what its queries make of them by equations
(4) and (5) of kernel.py, and passes them to the group before. Backward, the gradients
of keys and values travel with them, one step behind, and take one step more to reach
the group they belong to.

What is sent in a step does not depend on what is computed in it, so the compiler can
overlap both; compiled for TPU v5p, transfers begin before the computation of a step and
end after it. Keys are sent whether or not the receiver needs them: a device that left
out a step would keep its neighbours waiting, and a branch that all agree on would keep
the transfer from overlapping. Only the computation is skipped, wherever two shards do
not touch. `packing.stripe` distributes a row so that every step takes every device
equally long.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from soraflax.ops.attention import kernel as kernels
from soraflax.ops.attention import plan as planning


@dataclasses.dataclass(frozen=True)
class Ring:
    """Groups of neighbouring devices on a mesh axis.

    Attributes:
      axis: name of the mesh axis, manual here (inside `shard_map`).
      groups: r, the number of groups.
      width: devices in a group; each has a counterpart in every other group.
    """

    axis: str
    groups: int
    width: int

    @property
    def group(self) -> Int[Array, ""]:
        """Index of the group that this device is in."""
        return lax.axis_index(self.axis) // self.width

    def rotate(self, tree: Any) -> Any:
        """Every array as the counterpart in the next group holds it."""
        size = self.groups * self.width
        pairs = [((to + self.width) % size, to) for to in range(size)]
        return jax.tree.map(lambda x: lax.ppermute(x, self.axis, pairs), tree)

    def pair(
        self, plan: planning.AttentionPlan, *, step: int | Int[Array, ""]
    ) -> planning.AttentionPlan:
        """The plan of this group's queries and the keys it holds at a step."""
        return plan.pair(self.group, (self.group + step) % self.groups)


@functools.partial(jax.custom_vjp, nondiff_argnames=("kernel", "scale", "ring"))
def ring_attention(
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
      plan: plan of the whole rows, with a shard for every group.
      kernel: computes one pair of shards.
      scale: factor of the scores.
      ring: the groups, and the mesh axis they lie on.
    """
    return _forward(q, k, v, plan=plan, kernel=kernel, scale=scale, ring=ring)[0]


def _forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    plan: planning.AttentionPlan,
    kernel: kernels.Kernel,
    scale: float,
    ring: Ring,
) -> kernels.Partial:
    def visit(step: int | jax.Array, state: tuple) -> kernels.Partial:
        partial, k, v = state
        pair = ring.pair(plan, step=step)
        # With the merge outside of the branch, the compiler would overlap transfers
        # with the merge alone.
        return _if_touching(
            pair,
            lambda: kernels.merge(
                partial, kernel.forward(q, k, v, plan=pair, scale=scale)
            ),
            otherwise=partial,
        )

    def step(s: jax.Array, state: tuple) -> tuple:
        following = ring.rotate(state[1:])
        return visit(s, state), *following

    # The last pair is outside of the loop: after it nothing is sent.
    last = ring.groups - 1
    state = lax.fori_loop(0, last, step, (kernels.empty_partial(q), k, v))
    out, lse = visit(last, state)
    return out.astype(q.dtype), lse


def _ring_forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    plan: planning.AttentionPlan,
    kernel: kernels.Kernel,
    scale: float,
    ring: Ring,
) -> tuple[jax.Array, kernels.Residuals]:
    partial = _forward(q, k, v, plan=plan, kernel=kernel, scale=scale, ring=ring)
    out, lse = kernels.name_residuals(*partial)
    return out, kernels.Residuals(q, k, v, plan, scale, out, lse)


def _ring_backward(
    kernel: kernels.Kernel,
    scale: float,
    ring: Ring,
    residuals: kernels.Residuals,
    d_out: jax.Array,
) -> tuple:
    del scale  # the residuals have it
    q, k, v = residuals.q, residuals.k, residuals.v
    zeros = tuple(jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))

    def visit(step: int | jax.Array, held: list[jax.Array]) -> tuple:
        pair = ring.pair(residuals.plan, step=step)
        local = dataclasses.replace(residuals, k=held[0], v=held[1], plan=pair)

        def gradients() -> tuple:
            parts = kernel.backward(local, d_out)
            return tuple(x.astype(jnp.float32) for x in parts)

        return _if_touching(pair, gradients, otherwise=zeros)

    def add(step: int | jax.Array, state: tuple) -> tuple:
        # `behind` are dk and dv of the keys held now, summed over the groups before:
        # they are one step behind, and arrive while this step is computed.
        dq, behind, *held = state
        dk, dv = ring.rotate(behind)
        more = visit(step, held)
        return dq + more[0], (dk + more[1], dv + more[2])

    def step(s: jax.Array, state: tuple) -> tuple:
        following = ring.rotate(state[2:])
        return *add(s, state), *following

    last = ring.groups - 1
    state = lax.fori_loop(0, last, step, (zeros[0], zeros[1:], k, v))
    dq, behind = add(last, state)
    dk, dv = ring.rotate(behind)  # the last step, to where the keys belong
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


ring_attention.defvjp(_ring_forward, _ring_backward)


def _if_touching(
    pair: planning.AttentionPlan,
    compute: Callable[[], tuple],
    *,
    otherwise: tuple,
) -> tuple:
    """`compute()` where the two shards of a pair have a block in common."""
    return lax.cond(jnp.sum(pair.visited_by_shard) > 0, compute, lambda: otherwise)
