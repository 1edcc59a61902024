"""Attention on GPU: Pallas kernels, lowered by Triton, over the runs of a plan.

Blocks.py on the chip: a program has one tile of queries, walks the run of keys that
its block visits, and keeps the running softmax in registers (its equations (1) to (3));
backward, one kernel does so for dq and another, which has a tile of keys and walks its
run of queries, for dk and dv ((4) and (5)). The loops have dynamic trip counts, so time
follows the number of visited pairs, and long rows need no chunks.

cuDNN has attention for packed rows as well, but JAX has it in private only, with a
log-sum-exp per segment instead of per token, which a ring cannot merge.

Checked: values and gradients in interpret mode on CPU; lowered to Triton, but never
run, for GPU. It is chosen by itself only where gate.py has seen it agree with the
reference on the device at hand.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from soraflax.ops.attention import context_parallel as layouts
from soraflax.ops.attention import kernel as kernels
from soraflax.ops.attention import plan as planning

TILE = 64
HEAD_SIZES = (16, 32, 64, 128)


def unsupported_reason(head_size: int, plan: planning.AttentionPlan) -> str | None:
    """What keeps it from these sizes, with the nearest that would do; or None."""
    return kernels.unsupported_sizes(head_size, plan, head_sizes=HEAD_SIZES, tile=TILE)


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, plan: planning.AttentionPlan, scale: float
) -> kernels.Partial:
    """Equation (1) of kernel.py."""
    queries, keys = _sides(plan)
    sizes = _sizes(queries, keys, scale=scale)
    heads, size = q.shape[2:]
    out, lse = _call(
        functools.partial(_forward_kernel, sizes=sizes),
        grid=(q.shape[0], heads, queries.tiles),
        inputs=[
            *queries.runs_and_ids(keys),
            (queries.fill(q), queries.tile(size)),
            (keys.fill(k), keys.whole(size)),
            (keys.fill(v), keys.whole(size)),
        ],
        outputs=[
            (queries.like(q), queries.tile(size)),
            (queries.per_token(heads), queries.tile_of_numbers()),
        ],
    )
    return out[:, : queries.length], lse[:, :, : queries.length]


def _backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    plan: planning.AttentionPlan,
    scale: float,
    out: jax.Array,
    lse: jax.Array,
    d_out: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Equations (2) and (3) of kernel.py."""
    queries, keys = _sides(plan)
    heads, size = q.shape[2:]
    delta = kernels.row_sums(d_out, out)
    q, d_out = queries.fill(q), queries.fill(d_out.astype(q.dtype))
    k, v = keys.fill(k), keys.fill(v)
    lse, delta = (queries.fill(x.mT).mT for x in (lse, delta))
    (dq,) = _call(
        functools.partial(_queries_kernel, sizes=_sizes(queries, keys, scale=scale)),
        grid=(q.shape[0], heads, queries.tiles),
        inputs=[
            *queries.runs_and_ids(keys),
            *((x, queries.tile(size)) for x in (q, d_out)),
            *((x, queries.tile_of_numbers()) for x in (lse, delta)),
            *((x, keys.whole(size)) for x in (k, v)),
        ],
        outputs=[(queries.like(q), queries.tile(size))],
    )
    dk, dv = _call(
        functools.partial(_keys_kernel, sizes=_sizes(keys, queries, scale=scale)),
        grid=(q.shape[0], heads, keys.tiles),
        inputs=[
            *keys.runs_and_ids(queries),
            *((x, keys.tile(size)) for x in (k, v)),
            *((x, queries.whole(size)) for x in (q, d_out)),
            *((x, queries.whole_numbers()) for x in (lse, delta)),
        ],
        outputs=[(keys.like(x), keys.tile(size)) for x in (k, v)],
    )
    return dq[:, : queries.length], dk[:, : keys.length], dv[:, : keys.length]


KERNEL = kernels.Kernel(_forward, _backward)


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """What a kernel is compiled for.

    Attributes:
      own: tiles of this side in one of its blocks.
      other: tiles of the other side in one of its blocks.
      tile: tokens in a tile of the other side.
      scale: of the scores.
    """

    own: int
    other: int
    tile: int
    scale: float

    def run(self, start_ref: Any, stop_ref: Any) -> tuple[jax.Array, jax.Array]:
        """The tiles of the other side that this program visits."""
        block = pl.program_id(2) // self.own
        return start_ref[block] * self.other, stop_ref[block] * self.other

    def at(self, index: jax.Array) -> Any:
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
    sizes: _Sizes,
) -> None:
    q, ids = q_ref[...], ids_ref[...]

    def step(j: jax.Array, state: tuple) -> tuple:
        o, m, total = state
        k, v = k_ref[sizes.at(j), :], v_ref[sizes.at(j), :]
        mask = _mask(ids, key_ids_ref[sizes.at(j)])
        s = sizes.scale * plgpu.dot(q, k, trans_b=True)
        s = jnp.where(mask, s, kernels.MASKED)
        peak = jnp.maximum(m, jnp.max(s, axis=1))
        p = jnp.where(mask, jnp.exp(s - peak[:, None]), 0.0)
        a = jnp.exp(m - peak)
        o = a[:, None] * o + plgpu.dot(p.astype(v.dtype), v)
        return o, peak, a * total + jnp.sum(p, axis=1)

    zero = jnp.zeros(q.shape, jnp.float32)
    none = jnp.full(q.shape[:1], kernels.MASKED, jnp.float32)
    start, stop = sizes.run(start_ref, stop_ref)
    state = (zero, none, jnp.zeros(q.shape[:1], jnp.float32))
    o, m, total = lax.fori_loop(start, stop, step, state)
    total = jnp.maximum(total, kernels.SMALL)
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
    sizes: _Sizes,
) -> None:
    q, do, ids = q_ref[...], do_ref[...], ids_ref[...]
    lse, delta = lse_ref[...][:, None], delta_ref[...][:, None]

    def step(j: jax.Array, dq: jax.Array) -> jax.Array:
        k, v = k_ref[sizes.at(j), :], v_ref[sizes.at(j), :]
        mask = _mask(ids, key_ids_ref[sizes.at(j)])
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
    sizes: _Sizes,
) -> None:
    k, v, ids = k_ref[...], v_ref[...], ids_ref[...]

    def step(i: jax.Array, state: tuple) -> tuple:
        dk, dv = state
        q, do = q_ref[sizes.at(i), :], do_ref[sizes.at(i), :]
        mask = _mask(ids, query_ids_ref[sizes.at(i)])
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


def _mask(own: jax.Array, other: jax.Array) -> jax.Array:
    return (own[:, None] == other[None, :]) & (own > 0)[:, None]


@dataclasses.dataclass(frozen=True)
class _Side:
    """The queries or the keys of a batch, in tiles.

    Attributes:
      segments: `[B, N]`.
      runs: what each block visits of the other side.
      block: tokens in a block.
    """

    segments: jax.Array
    runs: planning.Runs
    block: int

    @property
    def length(self) -> int:
        """N."""
        return self.segments.shape[1]

    @property
    def tile_length(self) -> int:
        """Tokens in a tile."""
        return min(TILE, self.block)

    @property
    def full_length(self) -> int:
        """N, up to whole blocks."""
        return self.runs.start.shape[-1] * self.block

    @property
    def tiles(self) -> int:
        """Tiles in a row."""
        return self.full_length // self.tile_length

    def fill(self, x: jax.Array) -> jax.Array:
        """`[B, N, ...]` with zeros up to whole blocks."""
        short = self.full_length - self.length
        return jnp.pad(x, [(0, 0), (0, short), *((0, 0) for _ in x.shape[2:])])

    def like(self, x: jax.Array) -> jax.ShapeDtypeStruct:
        """Of the shape of `x`, up to whole blocks."""
        shape = (x.shape[0], self.full_length, *x.shape[2:])
        return jax.ShapeDtypeStruct(shape, x.dtype)

    def per_token(self, heads: int) -> jax.ShapeDtypeStruct:
        """A number for each head of each token, `[B, H, N]`."""
        shape = (self.segments.shape[0], heads, self.full_length)
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def runs_and_ids(self, other: "_Side") -> list[tuple[jax.Array, pl.BlockSpec]]:
        """What every kernel begins with: where to go, and who is who."""
        blocks = pl.BlockSpec((None, self.runs.start.shape[-1]), lambda b, h, i: (b, 0))
        return [
            (self.runs.start[:, 0, 0], blocks),
            (self.runs.stop[:, 0, 0], blocks),
            (
                self.fill(self.segments),
                pl.BlockSpec((None, self.tile_length), lambda b, h, i: (b, i)),
            ),
            (
                other.fill(other.segments),
                pl.BlockSpec((None, other.full_length), lambda b, h, i: (b, 0)),
            ),
        ]

    def tile(self, size: int) -> pl.BlockSpec:
        """One tile of one head of `[B, N, H, K]`."""
        shape = (None, self.tile_length, None, size)
        return pl.BlockSpec(shape, lambda b, h, i: (b, i, h, 0))

    def whole(self, size: int) -> pl.BlockSpec:
        """One head of `[B, N, H, K]`."""
        shape = (None, self.full_length, None, size)
        return pl.BlockSpec(shape, lambda b, h, i: (b, 0, h, 0))

    def tile_of_numbers(self) -> pl.BlockSpec:
        """One tile of one head of `[B, H, N]`."""
        return pl.BlockSpec((None, None, self.tile_length), lambda b, h, i: (b, h, i))

    def whole_numbers(self) -> pl.BlockSpec:
        """One head of `[B, H, N]`."""
        return pl.BlockSpec((None, None, self.full_length), lambda b, h, i: (b, h, 0))


def _sides(plan: planning.AttentionPlan) -> tuple[_Side, _Side]:
    def side(segments: jax.Array, runs: planning.Runs, block: int) -> _Side:
        if block % TILE:  # a single block: see `unsupported_reason`
            block = max(16, 1 << (block - 1).bit_length())
        return _Side(segments, runs, block)

    return (
        side(plan.query_segments, plan.keys_of, plan.query_block),
        side(plan.key_segments, plan.queries_of, plan.key_block),
    )


def _sizes(own: _Side, other: _Side, *, scale: float) -> _Sizes:
    return _Sizes(
        own=own.block // own.tile_length,
        other=other.block // other.tile_length,
        tile=other.tile_length,
        scale=scale,
    )


def _call(kernel: Any, *, grid: Any, inputs: Any, outputs: Any) -> Any:
    """A program for every row, head and tile; pairs are arrays and their blocks."""
    arrays, in_specs = zip(*inputs, strict=True)
    shapes, out_specs = zip(*outputs, strict=True)
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=in_specs,
        out_specs=list(out_specs),
        out_shape=list(shapes),
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
        interpret=layouts.platform() != "gpu",
    )(*arrays)
