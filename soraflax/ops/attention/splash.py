"""Attention on TPU: JAX's splash kernels, given what this batch of rows visits.

Splash takes, for every block of queries, a list of the key blocks to visit, and the
like for its backward kernels. JAX builds those lists from a mask known beforehand; here
they come from the runs of the plan, inside jit, so that one compiled step serves every
packing. Segment ids then mask inside the visited blocks.

The lists are tables as wide as the other side has blocks: an entry past the end of a
run is a step that fetches nothing and computes nothing, but is still a step. Blocks of
the plan are therefore taken several at a time, up to `BLOCK` tokens, and the tables are
as wide as the longest run needs, of a few `PARTS` of a row. They lie in scalar memory,
1 MiB, and the kernels cannot index the segment ids of 524,288 tokens or
more, each being repeated over 128 lanes of 32 bits (2^31). Rows of more than `BLOCKS`
blocks are taken in chunks (chunks.py), which keeps to both limits.

Forward is the public kernel with its residuals. Its own derivative would do for whole
rows, but not for keys that come in parts: the two backward kernels are called here with
the log-sum-exp of all keys. They are private to JAX's module; the tests hold them to
what is needed, in the version that is installed.

Checked: values and gradients in interpret mode on CPU; compiled, but never run, for
TPU.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as splash,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask_info as mask_info,
)

from soraflax.ops.attention import chunks
from soraflax.ops.attention import context_parallel as layouts
from soraflax.ops.attention import kernel as kernels
from soraflax.ops.attention import plan as planning

HEAD_SIZES = (64, 128)
LANES = 128
BLOCK = 512
BLOCKS = 256
LARGEST = 1024
PARTS = (8, 2, 1)
_MASKED = -0.7 * float(np.finfo(np.float32).max)


def unsupported_reason(head_size: int, plan: planning.AttentionPlan) -> str | None:
    """What keeps splash from these sizes, with the nearest that would do; or None."""
    return kernels.unsupported_sizes(
        head_size, plan, head_sizes=HEAD_SIZES, tile=LANES, largest=LARGEST
    )


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, plan: planning.AttentionPlan, scale: float
) -> kernels.Partial:
    """Equation (1) of kernel.py."""
    queries, keys = _sides(plan)
    run = functools.partial(_forward_row, sizes=_sizes(queries.block, keys.block))
    arrays = (
        queries.split(_scaled(q, scale)),
        keys.split(k),
        keys.split(v),
        splash.SegmentIds(queries.ids(-1), keys.ids(-2)),
    )
    out, lse = _narrowed(
        lambda width: _each_row(run, *arrays, _table(plan.keys_of, width)),
        plan.keys_of,
        count=keys.count,
    )
    found = lse > _MASKED / 2
    lse = jnp.where(found, lse, kernels.MASKED)
    out = jnp.where(found[..., None], out, 0)
    return queries.join(out), lse[..., : queries.length]


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
    sizes = _sizes(queries.block, keys.block)
    by_queries = functools.partial(_queries_row, sizes=sizes)
    by_keys = functools.partial(_keys_row, sizes=sizes)
    delta = kernels.row_sums(d_out, out)
    arrays = (
        queries.split(_scaled(q, scale)),
        keys.split(k),
        keys.split(v),
        splash.SegmentIds(queries.ids(-1), keys.ids(-2)),
        queries.fill(lse),
        queries.split(d_out.astype(q.dtype)),
        queries.fill(delta),
    )
    dq = _narrowed(
        lambda width: _each_row(by_queries, *arrays, _table(plan.keys_of, width)),
        plan.keys_of,
        count=keys.count,
    )
    dk, dv = _narrowed(
        lambda width: _each_row(by_keys, *arrays, _table(plan.queries_of, width)),
        plan.queries_of,
        count=queries.count,
    )
    return _scaled(queries.join(dq), scale), keys.join(dk), keys.join(dv)


def _coarse(plan: planning.AttentionPlan) -> planning.AttentionPlan:
    """Blocks of up to `BLOCK` tokens."""

    def factor(block: int, runs: planning.Runs) -> int:
        return min(max(1, BLOCK // block), runs.start.shape[-1])

    return planning.coarsen(
        plan,
        queries=factor(plan.query_block, plan.keys_of),
        keys=factor(plan.key_block, plan.queries_of),
    )


KERNEL = kernels.Kernel(
    lambda q, k, v, plan, scale: _CHUNKED.forward(q, k, v, _coarse(plan), scale),
    lambda q, k, v, plan, scale, *saved: _CHUNKED.backward(
        q, k, v, _coarse(plan), scale, *saved
    ),
)
_CHUNKED = chunks.chunked(kernels.Kernel(_forward, _backward), blocks=BLOCKS)


def _forward_row(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    ids: splash.SegmentIds,
    table: mask_info.MaskInfo,
    *,
    sizes: splash.BlockSizes,
) -> tuple[jax.Array, jax.Array]:
    kernel = splash.SplashAttentionKernel(
        table,
        None,
        None,
        is_mqa=False,
        block_sizes=sizes,
        save_residuals=True,
        mask_value=_MASKED,
        attn_logits_soft_cap=None,
        residual_checkpoint_name=None,
        mask_function=None,
        interpret=layouts.platform() != "tpu",
    )
    out, (lse,) = kernel(q, k, v, ids)  # pyright: ignore[reportGeneralTypeIssues]
    return out, lse


def _queries_row(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    ids: splash.SegmentIds,
    lse: jax.Array,
    d_out: jax.Array,
    delta: jax.Array,
    table: mask_info.MaskInfo,
    *,
    sizes: splash.BlockSizes,
) -> jax.Array:
    arrays = (q, k, v, ids, None, lse, d_out, delta)
    shared = _shared(sizes)
    return splash._splash_attention_bwd_dq(*arrays, mask_info=table, **shared)


def _keys_row(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    ids: splash.SegmentIds,
    lse: jax.Array,
    d_out: jax.Array,
    delta: jax.Array,
    table: mask_info.MaskInfo,
    *,
    sizes: splash.BlockSizes,
) -> tuple[jax.Array, jax.Array]:
    _, dk, dv = splash._splash_attention_bwd_dkv(
        *(q, k, v, ids, None, lse, d_out, delta),
        bkv_compute=sizes.block_kv,
        mask_info=jax.tree.map(lambda x: x.mT, table),
        use_fused_bwd_kernel=False,
        **_shared(sizes),
    )
    return dk, dv


def _shared(sizes: splash.BlockSizes) -> dict[str, Any]:
    """What both backward kernels are told."""
    return {
        "bq": sizes.block_q,
        "bkv": sizes.block_kv,
        "is_mqa": False,
        "mask_value": _MASKED,
        "attn_logits_soft_cap": None,
        "q_layout": sizes.q_layout,
        "k_layout": sizes.k_layout,
        "v_layout": sizes.v_layout,
        "mask_function": None,
        "interpret": layouts.platform() != "tpu",
    }


def _each_row(run: Callable[..., Any], *arrays: Any) -> Any:
    return lax.map(lambda row: run(*row), arrays)


def _narrowed(work: Callable[[int], Any], runs: planning.Runs, *, count: int) -> Any:
    """`work(width)`, with the narrowest tables of `PARTS` that every run fits in."""
    if count < max(PARTS):
        return work(count)
    widths = [-(-count // part) for part in PARTS]
    longest = jnp.max(runs.stop - runs.start)
    which = sum((longest > width).astype(jnp.int32) for width in widths[:-1])
    return lax.switch(which, [functools.partial(work, width) for width in widths])


@dataclasses.dataclass(frozen=True)
class _Side:
    """The queries or the keys of a batch, as splash wants them.

    Attributes:
      segments: `[B, N]`.
      block: tokens in a block, a multiple of `LANES`.
      count: blocks in a row.
    """

    segments: jax.Array
    block: int
    count: int

    @property
    def length(self) -> int:
        """N."""
        return self.segments.shape[1]

    def fill(self, x: jax.Array) -> jax.Array:
        """`[B, H, N]` with zeros up to whole blocks."""
        short = self.block * self.count - self.length
        return jnp.pad(x, ((0, 0), (0, 0), (0, short)))

    def split(self, x: jax.Array) -> jax.Array:
        """`[B, N, H, K]` to `[B, H, N, K]`, with zeros up to whole blocks."""
        short = self.block * self.count - self.length
        x = jnp.pad(x, ((0, 0), (0, short), (0, 0), (0, 0)))
        return jnp.einsum("bnhk->bhnk", x)

    def join(self, x: jax.Array) -> jax.Array:
        """The inverse of `split`."""
        return jnp.einsum("bhnk->bnhk", x)[:, : self.length]

    def ids(self, padding: int) -> jax.Array:
        """`[B, N]` segment ids with `padding` for 0: splash compares and knows no 0."""
        short = self.block * self.count - self.length
        ids = jnp.pad(self.segments, ((0, 0), (0, short)))
        return jnp.where(ids > 0, ids, padding)


def _sides(plan: planning.AttentionPlan) -> tuple[_Side, _Side]:
    def side(segments: jax.Array, runs: planning.Runs, block: int) -> _Side:
        return _Side(segments, -(-block // LANES) * LANES, runs.start.shape[-1])

    return (
        side(plan.query_segments, plan.keys_of, plan.query_block),
        side(plan.key_segments, plan.queries_of, plan.key_block),
    )


def _sizes(queries: int, keys: int) -> splash.BlockSizes:
    return splash.BlockSizes(
        block_q=queries,
        block_kv=keys,
        block_q_dkv=queries,
        block_kv_dkv=keys,
        block_q_dq=queries,
        block_kv_dq=keys,
    )


def _table(runs: planning.Runs, width: int) -> mask_info.MaskInfo:
    """`[B, 1, blocks, width]`: which blocks to visit, one after the other."""
    place = runs.start[:, 0, :, :, None] + jnp.arange(width, dtype=jnp.int32)
    stop = runs.stop[:, 0, :, :, None]
    return mask_info.MaskInfo(
        data_next=jnp.maximum(jnp.minimum(place, stop - 1), 0).astype(jnp.int16),
        mask_next=None,
        block_mask=(place < stop).astype(jnp.int8),
        partial_mask_blocks=None,
        q_sequence=None,
    )


def _scaled(x: jax.Array, scale: float) -> jax.Array:
    return (scale * x.astype(jnp.float32)).astype(x.dtype)
