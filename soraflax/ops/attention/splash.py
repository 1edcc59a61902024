"""Attention on TPU: JAX's splash kernels, given what this batch of rows visits.

Splash takes, for every block of queries, a list of the key blocks to visit, and the
like for its backward kernels. JAX builds those lists from a mask known beforehand; here
they come from the runs of the plan, inside jit, so that one compiled step serves every
packing. Segment ids then mask inside the visited blocks.

The lists are tables as wide as the other side has blocks: an entry past the end of a
run is a step that fetches nothing and computes nothing, but is still a step. Several
blocks of the plan are therefore joined, up to `BLOCK` tokens, and the tables are only
as wide as the longest run needs, of a few `WIDTHS` (fractions of a row). They lie in
scalar memory, 1 MiB, and the kernels cannot index the segment ids of 524,288 tokens or
more, each being repeated over 128 lanes of 32 bits (2^31). Rows of more than
`MAX_BLOCKS` blocks are taken in chunks (chunked.py), which keeps to both limits.

Forward is the public kernel with its residuals. Its own derivative would do for whole
rows, but not for keys that come in parts: the two backward kernels are called here with
the log-sum-exp of all keys. They are private to JAX's module; the tests check that the
installed version has them as they are called here.

Verified: values and gradients in interpret mode on CPU; compiled for TPU, never run.
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

from soraflax import sharding
from soraflax.ops.attention import chunked, tiles
from soraflax.ops.attention import kernel as kernels
from soraflax.ops.attention import plan as planning

HEAD_SIZES = (64, 128)
LANES = 128
BLOCK = 512  # tokens that blocks of a plan are joined up to
MAX_BLOCK = 1024
MAX_BLOCKS = 256
WIDTHS = (8, 2, 1)  # tables of 1/8, 1/2 and all of the blocks of a row
_MASK_VALUE = -0.7 * float(np.finfo(np.float32).max)  # splash's own


def unsupported_reason(head_size: int, plan: planning.AttentionPlan) -> str | None:
    """Why splash cannot run these sizes, with the nearest it can; None if it can."""
    return kernels.unsupported_sizes(
        head_size, plan, head_sizes=HEAD_SIZES, tile=LANES, max_block=MAX_BLOCK
    )


def _forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    plan: planning.AttentionPlan,
    scale: float,
) -> kernels.Partial:
    """Equation (1) of kernel.py."""
    queries, keys = _sides(plan)
    run = functools.partial(_forward_row, sizes=_sizes(queries, keys))
    arrays = (
        _heads_first(queries, _scaled(q, scale)),
        _heads_first(keys, k),
        _heads_first(keys, v),
        splash.SegmentIds(_ids(queries, padding=-1), _ids(keys, padding=-2)),
    )
    out, lse = _narrowest(
        lambda width: _map_rows(run, *arrays, _table(plan.keys_of, width)),
        plan.keys_of,
        blocks=keys.blocks,
    )
    # Splash marks a query without keys by its own mask value.
    has_keys = lse > _MASK_VALUE / 2
    lse = jnp.where(has_keys, lse, kernels.MASK_VALUE)
    out = jnp.where(has_keys[..., None], out, 0)
    return _tokens_first(queries, out), lse[..., : queries.length]


def _backward(residuals: kernels.Residuals, d_out: jax.Array) -> kernels.Gradients:
    """Equations (2) and (3) of kernel.py."""
    q, plan, scale = residuals.q, residuals.plan, residuals.scale
    queries, keys = _sides(plan)
    sizes = _sizes(queries, keys)
    by_queries = functools.partial(_queries_row, sizes=sizes)
    by_keys = functools.partial(_keys_row, sizes=sizes)
    delta = kernels.row_sums(d_out, residuals.out)
    arrays = (
        _heads_first(queries, _scaled(q, scale)),
        _heads_first(keys, residuals.k),
        _heads_first(keys, residuals.v),
        splash.SegmentIds(_ids(queries, padding=-1), _ids(keys, padding=-2)),
        queries.pad(residuals.lse, axis=2),
        _heads_first(queries, d_out.astype(q.dtype)),
        queries.pad(delta, axis=2),
    )
    dq = _narrowest(
        lambda width: _map_rows(by_queries, *arrays, _table(plan.keys_of, width)),
        plan.keys_of,
        blocks=keys.blocks,
    )
    dk, dv = _narrowest(
        lambda width: _map_rows(by_keys, *arrays, _table(plan.queries_of, width)),
        plan.queries_of,
        blocks=queries.blocks,
    )
    dq = _scaled(_tokens_first(queries, dq), scale)
    return dq, _tokens_first(keys, dk), _tokens_first(keys, dv)


def _coarse(plan: planning.AttentionPlan) -> planning.AttentionPlan:
    """The plan in blocks of up to `BLOCK` tokens."""

    def factor(side: tiles.Side) -> int:
        return min(max(1, BLOCK // side.block), side.blocks)

    queries, keys = map(factor, tiles.sides(plan))
    return planning.coarsen(plan, queries=queries, keys=keys)


def _coarse_forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    plan: planning.AttentionPlan,
    scale: float,
) -> kernels.Partial:
    return _CHUNKED.forward(q, k, v, plan=_coarse(plan), scale=scale)


def _coarse_backward(
    residuals: kernels.Residuals, d_out: jax.Array
) -> kernels.Gradients:
    coarse = dataclasses.replace(residuals, plan=_coarse(residuals.plan))
    return _CHUNKED.backward(coarse, d_out)


KERNEL = kernels.Kernel(_coarse_forward, _coarse_backward)
_CHUNKED = chunked.chunked(kernels.Kernel(_forward, _backward), max_blocks=MAX_BLOCKS)


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
        mask_value=_MASK_VALUE,
        attn_logits_soft_cap=None,
        residual_checkpoint_name=None,
        mask_function=None,
        interpret=sharding.platform() != "tpu",
    )
    out, (lse,) = kernel(q, k, v, ids)  # pyright: ignore[reportGeneralTypeIssues]
    return out, lse


def _queries_row(*arrays: Any, sizes: splash.BlockSizes) -> jax.Array:
    """dq of one row; `arrays` are q, k, v, ids, lse, d_out, delta and the table."""
    q, k, v, ids, lse, d_out, delta, table = arrays
    return splash._splash_attention_bwd_dq(
        *(q, k, v, ids, None, lse, d_out, delta),
        mask_info=table,
        **_backward_options(sizes),
    )


def _keys_row(*arrays: Any, sizes: splash.BlockSizes) -> tuple[jax.Array, jax.Array]:
    """dk and dv of one row; `arrays` as of `_queries_row`."""
    q, k, v, ids, lse, d_out, delta, table = arrays
    _, dk, dv = splash._splash_attention_bwd_dkv(
        *(q, k, v, ids, None, lse, d_out, delta),
        bkv_compute=sizes.block_kv,
        # This kernel reads its table by columns: entry [step, block of keys].
        mask_info=jax.tree.map(lambda x: x.mT, table),
        use_fused_bwd_kernel=False,
        **_backward_options(sizes),
    )
    return dk, dv


def _backward_options(sizes: splash.BlockSizes) -> dict[str, Any]:
    """Options of both backward kernels."""
    return {
        "bq": sizes.block_q,
        "bkv": sizes.block_kv,
        "is_mqa": False,
        "mask_value": _MASK_VALUE,
        "attn_logits_soft_cap": None,
        "q_layout": sizes.q_layout,
        "k_layout": sizes.k_layout,
        "v_layout": sizes.v_layout,
        "mask_function": None,
        "interpret": sharding.platform() != "tpu",
    }


def _map_rows(run: Callable[..., Any], *arrays: Any) -> Any:
    return lax.map(lambda row: run(*row), arrays)


def _narrowest(
    compute: Callable[[int], Any], runs: planning.Runs, *, blocks: int
) -> Any:
    """`compute(width)` with the narrowest of `WIDTHS` that every run fits in.

    Each width is compiled; the longest run of the batch chooses among them.

    Args:
      compute: the kernel, with tables of a static width.
      runs: the runs that the tables list.
      blocks: blocks in a row of the other side, the length of the longest possible run.
    """
    if blocks < max(WIDTHS):
        return compute(blocks)
    widths = [-(-blocks // part) for part in WIDTHS]
    longest = jnp.max(runs.stop - runs.start)
    index = sum((longest > width).astype(jnp.int32) for width in widths[:-1])
    return lax.switch(index, [functools.partial(compute, width) for width in widths])


def _table(runs: planning.Runs, width: int) -> mask_info.MaskInfo:
    """`[B, 1, blocks, width]`: the blocks of each run, one after the other.

    A run of n blocks fills n entries. The others repeat its last block, which is in
    memory already and so not fetched again, with a `block_mask` of 0: nothing computed.
    An empty run (start == stop, perhaps 0) repeats some block: clipped to a legal one.
    """
    index = runs.start[:, 0, :, :, None] + jnp.arange(width, dtype=jnp.int32)
    stop = runs.stop[:, 0, :, :, None]
    return mask_info.MaskInfo(
        data_next=jnp.maximum(jnp.minimum(index, stop - 1), 0).astype(jnp.int16),
        mask_next=None,
        block_mask=(index < stop).astype(jnp.int8),
        partial_mask_blocks=None,
        q_sequence=None,
    )


def _sides(plan: planning.AttentionPlan) -> list[tiles.Side]:
    """Queries and keys; a row of one short block is padded to a multiple of `LANES`."""
    return [
        dataclasses.replace(side, block=-(-side.block // LANES) * LANES)
        for side in tiles.sides(plan)
    ]


def _heads_first(side: tiles.Side, x: jax.Array) -> jax.Array:
    """`[B, N, H, K]` to `[B, H, N, K]`, with zeros up to whole blocks."""
    return jnp.einsum("bnhk->bhnk", side.pad(x))


def _tokens_first(side: tiles.Side, x: jax.Array) -> jax.Array:
    """The inverse of `_heads_first`."""
    return jnp.einsum("bhnk->bnhk", x)[:, : side.length]


def _ids(side: tiles.Side, *, padding: int) -> jax.Array:
    """`[B, N]` segment ids; `padding` differs between queries and keys.

    Splash attends wherever ids are equal, and would let padding attend to padding.
    """
    ids = side.pad(side.segments)
    return jnp.where(ids > 0, ids, padding)


def _sizes(queries: tiles.Side, keys: tiles.Side) -> splash.BlockSizes:
    return splash.BlockSizes(
        block_q=queries.block,
        block_kv=keys.block,
        block_q_dkv=queries.block,
        block_kv_dkv=keys.block,
        block_q_dq=queries.block,
        block_kv_dq=keys.block,
    )


def _scaled(x: jax.Array, scale: float) -> jax.Array:
    return (scale * x.astype(jnp.float32)).astype(x.dtype)
