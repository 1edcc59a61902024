"""Attention on GPU: Pallas kernels, lowered by Triton, over the runs of a plan.

The algorithm of block_sparse.py as kernels: a program holds one tile of queries, loops
over the run of keys that its block visits, and keeps the running softmax in registers
(equations (1) to (3) there); backward, one kernel does so for dq, and another, whose
program holds a tile of keys and loops over its run of queries, for dk and dv ((4) and
(5)). The loops have dynamic trip counts, so time follows the number of visited pairs,
and long rows need no chunks.

cuDNN has attention for packed rows as well, but JAX keeps it private, with a
log-sum-exp per segment instead of per token, which a ring cannot merge.

Verified: values and gradients in interpret mode on CPU; lowered to Triton for GPU,
never run. It is chosen automatically only where kernel_check.py finds that it matches
the reference on the device at hand.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from soraflax import sharding
from soraflax.ops.attention import kernel as kernels
from soraflax.ops.attention import plan as planning
from soraflax.ops.attention import tiles

TILE = 64
MIN_TILE = 16  # the least that a matrix product of Triton takes
HEAD_SIZES = (16, 32, 64, 128)


def unsupported_reason(head_size: int, plan: planning.AttentionPlan) -> str | None:
    """Why it cannot run these sizes, with the nearest it can; None if it can."""
    return kernels.unsupported_sizes(head_size, plan, head_sizes=HEAD_SIZES, tile=TILE)


def _forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    plan: planning.AttentionPlan,
    scale: float,
) -> kernels.Partial:
    """Equation (1) of kernel.py."""
    queries, keys = map(_TiledSide.of, tiles.sides(plan))
    sizes = _sizes(queries, keys, scale=scale)
    heads, size = q.shape[2:]
    out, lse = _call(
        functools.partial(_forward_kernel, sizes=sizes),
        grid=(q.shape[0], heads, queries.tiles),
        inputs=[
            *queries.runs_and_ids(keys),
            (queries.pad(q), queries.vector_tile(size)),
            (keys.pad(k), keys.vector_row(size)),
            (keys.pad(v), keys.vector_row(size)),
        ],
        outputs=[
            (queries.padded_shape(q), queries.vector_tile(size)),
            (queries.per_token_shape(heads), queries.scalar_tile()),
        ],
    )
    return out[:, : queries.length], lse[:, :, : queries.length]


def _backward(residuals: kernels.Residuals, d_out: jax.Array) -> kernels.Gradients:
    """Equations (2) and (3) of kernel.py."""
    q, scale = residuals.q, residuals.scale
    queries, keys = map(_TiledSide.of, tiles.sides(residuals.plan))
    heads, size = q.shape[2:]
    delta = kernels.row_sums(d_out, residuals.out)
    q, d_out = queries.pad(q), queries.pad(d_out.astype(q.dtype))
    k, v = keys.pad(residuals.k), keys.pad(residuals.v)
    lse, delta = (queries.pad(x.mT).mT for x in (residuals.lse, delta))
    (dq,) = _call(
        functools.partial(_queries_kernel, sizes=_sizes(queries, keys, scale=scale)),
        grid=(q.shape[0], heads, queries.tiles),
        inputs=[
            *queries.runs_and_ids(keys),
            *((x, queries.vector_tile(size)) for x in (q, d_out)),
            *((x, queries.scalar_tile()) for x in (lse, delta)),
            *((x, keys.vector_row(size)) for x in (k, v)),
        ],
        outputs=[(queries.padded_shape(q), queries.vector_tile(size))],
    )
    dk, dv = _call(
        functools.partial(_keys_kernel, sizes=_sizes(keys, queries, scale=scale)),
        grid=(q.shape[0], heads, keys.tiles),
        inputs=[
            *keys.runs_and_ids(queries),
            *((x, keys.vector_tile(size)) for x in (k, v)),
            *((x, queries.vector_row(size)) for x in (q, d_out)),
            *((x, queries.scalar_row()) for x in (lse, delta)),
        ],
        outputs=[(keys.padded_shape(x), keys.vector_tile(size)) for x in (k, v)],
    )
    return dq[:, : queries.length], dk[:, : keys.length], dv[:, : keys.length]


KERNEL = kernels.Kernel(_forward, _backward)


@dataclasses.dataclass(frozen=True)
class _KernelSizes:
    """The static sizes of a kernel.

    Attributes:
      own_tiles: tiles in a block of the side that programs are distributed over.
      other_tiles: tiles in a block of the side that a program loops over.
      tile: tokens in a tile of the other side.
      scale: factor of the scores.
    """

    own_tiles: int
    other_tiles: int
    tile: int
    scale: float

    def run(self, start_ref: Any, stop_ref: Any) -> tuple[jax.Array, jax.Array]:
        """The run of tiles of the other side that this program visits."""
        # Plans count in blocks, programs and loops in tiles.
        block = pl.program_id(2) // self.own_tiles
        return start_ref[block] * self.other_tiles, stop_ref[block] * self.other_tiles

    def at(self, index: jax.Array) -> Any:
        """The tokens of a tile of the other side."""
        return pl.ds(index * self.tile, self.tile)


def _forward_kernel(
    start_ref: Any,
    stop_ref: Any,
    ids_ref: Any,
    key_ids_ref: Any,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    out_ref: Any,
    lse_ref: Any,
    *,
    sizes: _KernelSizes,
) -> None:
    q, ids = q_ref[...], ids_ref[...]

    def step(j: jax.Array, state: tuple) -> tuple:
        o, m, total = state
        k, v = k_ref[sizes.at(j), :], v_ref[sizes.at(j), :]
        mask = tiles.same_segment(ids, key_ids_ref[sizes.at(j)])
        s = sizes.scale * plgpu.dot(q, k, trans_b=True)
        s = jnp.where(mask, s, kernels.MASK_VALUE)
        peak = jnp.maximum(m, jnp.max(s, axis=1))
        p = jnp.where(mask, jnp.exp(s - peak[:, None]), 0.0)
        a = jnp.exp(m - peak)
        o = a[:, None] * o + plgpu.dot(p.astype(v.dtype), v)
        return o, peak, a * total + jnp.sum(p, axis=1)

    zero = jnp.zeros(q.shape, jnp.float32)
    peak = jnp.full(q.shape[:1], kernels.MASK_VALUE, jnp.float32)
    start, stop = sizes.run(start_ref, stop_ref)
    state = (zero, peak, jnp.zeros(q.shape[:1], jnp.float32))
    o, m, total = lax.fori_loop(start, stop, step, state)
    total = jnp.maximum(total, kernels.MIN_TOTAL)
    out_ref[...] = (o / total[:, None]).astype(out_ref.dtype)
    lse_ref[...] = m + jnp.log(total)


def _queries_kernel(
    start_ref: Any,
    stop_ref: Any,
    ids_ref: Any,
    key_ids_ref: Any,
    q_ref: Any,
    do_ref: Any,
    lse_ref: Any,
    delta_ref: Any,
    k_ref: Any,
    v_ref: Any,
    dq_ref: Any,
    *,
    sizes: _KernelSizes,
) -> None:
    q, do, ids = q_ref[...], do_ref[...], ids_ref[...]
    lse, delta = lse_ref[...][:, None], delta_ref[...][:, None]

    def step(j: jax.Array, dq: jax.Array) -> jax.Array:
        k, v = k_ref[sizes.at(j), :], v_ref[sizes.at(j), :]
        mask = tiles.same_segment(ids, key_ids_ref[sizes.at(j)])
        s = sizes.scale * plgpu.dot(q, k, trans_b=True)
        p = jnp.where(mask, jnp.exp(s - lse), 0.0)
        ds = p * (plgpu.dot(do, v, trans_b=True) - delta)
        return dq + plgpu.dot(ds.astype(k.dtype), k)

    start, stop = sizes.run(start_ref, stop_ref)
    dq = lax.fori_loop(start, stop, step, jnp.zeros(q.shape, jnp.float32))
    dq_ref[...] = (sizes.scale * dq).astype(dq_ref.dtype)


def _keys_kernel(
    start_ref: Any,
    stop_ref: Any,
    ids_ref: Any,
    query_ids_ref: Any,
    k_ref: Any,
    v_ref: Any,
    q_ref: Any,
    do_ref: Any,
    lse_ref: Any,
    delta_ref: Any,
    dk_ref: Any,
    dv_ref: Any,
    *,
    sizes: _KernelSizes,
) -> None:
    k, v, ids = k_ref[...], v_ref[...], ids_ref[...]

    def step(i: jax.Array, state: tuple) -> tuple:
        dk, dv = state
        q, do = q_ref[sizes.at(i), :], do_ref[sizes.at(i), :]
        mask = tiles.same_segment(ids, query_ids_ref[sizes.at(i)])
        s = sizes.scale * plgpu.dot(k, q, trans_b=True)
        p = jnp.where(mask, jnp.exp(s - lse_ref[sizes.at(i)][None, :]), 0.0)
        dv = dv + plgpu.dot(p.astype(do.dtype), do)
        delta = delta_ref[sizes.at(i)][None, :]
        ds = p * (plgpu.dot(v, do, trans_b=True) - delta)
        return dk + plgpu.dot(ds.astype(q.dtype), q), dv

    zero = jnp.zeros(k.shape, jnp.float32)
    start, stop = sizes.run(start_ref, stop_ref)
    dk, dv = lax.fori_loop(start, stop, step, (zero, zero))
    dk_ref[...] = (sizes.scale * dk).astype(dk_ref.dtype)
    dv_ref[...] = dv.astype(dv_ref.dtype)


@dataclasses.dataclass(frozen=True)
class _TiledSide(tiles.Side):
    """The queries or the keys of a batch, each block in tiles of a program's size."""

    @classmethod
    def of(cls, side: tiles.Side) -> "_TiledSide":
        block = side.block
        if block % TILE:
            # The single block of a short row (`unsupported_reason` refuses others):
            # padded to a power of two, as Triton's tiles have to be.
            block = max(MIN_TILE, 1 << (block - 1).bit_length())
        return cls(side.segments, side.runs, block)

    @property
    def tile(self) -> int:
        """Tokens in a tile."""
        return min(TILE, self.block)

    @property
    def tiles(self) -> int:
        """Tiles in a row."""
        return self.padded_length // self.tile

    def padded_shape(self, x: jax.Array) -> jax.ShapeDtypeStruct:
        """The shape of `pad(x)`."""
        shape = (x.shape[0], self.padded_length, *x.shape[2:])
        return jax.ShapeDtypeStruct(shape, x.dtype)

    def per_token_shape(self, heads: int) -> jax.ShapeDtypeStruct:
        """One float32 per head and token, `[B, H, N]`."""
        shape = (self.rows, heads, self.padded_length)
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def runs_and_ids(self, other: "_TiledSide") -> list[tuple[jax.Array, pl.BlockSpec]]:
        """The first inputs of every kernel: runs, own tile of ids, the other's ids."""
        blocks = pl.BlockSpec((None, self.blocks), lambda b, h, i: (b, 0))
        return [
            (self.runs.start[:, 0, 0], blocks),
            (self.runs.stop[:, 0, 0], blocks),
            (
                self.pad(self.segments),
                pl.BlockSpec((None, self.tile), lambda b, h, i: (b, i)),
            ),
            (
                other.pad(other.segments),
                pl.BlockSpec((None, other.padded_length), lambda b, h, i: (b, 0)),
            ),
        ]

    def vector_tile(self, size: int) -> pl.BlockSpec:
        """One tile of one head of `[B, N, H, K]`."""
        shape = (None, self.tile, None, size)
        return pl.BlockSpec(shape, lambda b, h, i: (b, i, h, 0))

    def vector_row(self, size: int) -> pl.BlockSpec:
        """One head of a whole row of `[B, N, H, K]`."""
        shape = (None, self.padded_length, None, size)
        return pl.BlockSpec(shape, lambda b, h, i: (b, 0, h, 0))

    def scalar_tile(self) -> pl.BlockSpec:
        """One tile of one head of `[B, H, N]`."""
        return pl.BlockSpec((None, None, self.tile), lambda b, h, i: (b, h, i))

    def scalar_row(self) -> pl.BlockSpec:
        """One head of a whole row of `[B, H, N]`."""
        return pl.BlockSpec((None, None, self.padded_length), lambda b, h, i: (b, h, 0))


def _sizes(own: _TiledSide, other: _TiledSide, *, scale: float) -> _KernelSizes:
    return _KernelSizes(
        own_tiles=own.block // own.tile,
        other_tiles=other.block // other.tile,
        tile=other.tile,
        scale=scale,
    )


def _call(kernel: Any, *, grid: Any, inputs: Any, outputs: Any) -> Any:
    """Run a program for every row, head and tile.

    Args:
      kernel: takes references of the inputs, then of the outputs.
      grid: rows, heads, tiles.
      inputs: pairs of an array and its BlockSpec.
      outputs: pairs of a ShapeDtypeStruct and its BlockSpec.
    """
    arrays, in_specs = zip(*inputs, strict=True)
    shapes, out_specs = zip(*outputs, strict=True)
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=in_specs,
        out_specs=list(out_specs),
        out_shape=list(shapes),
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
        interpret=sharding.platform() != "gpu",
    )(*arrays)
