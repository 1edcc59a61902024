"""Attention over the pairs of blocks that a plan visits, and no others.

Forward, for each block of queries, over its run of key blocks (online softmax,
arXiv:2205.14135, algorithm 1; arXiv:2112.05682):

    m' = max(m, rowmax(s)),   p = exp(s - m'),   a = exp(m - m')                  (1)
    l  <- a l + rowsum(p),    o <- a o + p v,    m <- m'                          (2)
    out = o / l,              lse = m + log l                                     (3)

The backward pass recomputes each block of p from `lse`. For each block of keys, over
its run of query blocks:

    p = exp(s - lse),    dv += p^T do,    delta = rowsum(do out)                  (4)
    ds = p (do v^T - delta),    dq += scale ds k,    dk += scale ds^T q           (5)

Where scores have a bias of relative positions (relative.py), a tile of it is added to s
of blocks at one distance; its gradient is the sum of their ds.

The loops have dynamic trip counts: time follows the number of visited pairs, while
every shape, and so the compiled program, depends on the row alone. Arrays are laid out
as `[rows x blocks, H, block, K]`, so that a step reads contiguous blocks.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from soraflax.ops.attention import kernel as kernels
from soraflax.ops.attention import plan as planning
from soraflax.ops.attention import tiles

# Contractions of blocks with the heads as batch: a b^T, a b and a^T b.
_A_BT = (((2,), (2,)), ((0,), (0,)))
_A_B = (((2,), (1,)), ((0,), (0,)))
_AT_B = (((1,), (1,)), ((0,), (0,)))


def forward(
    q: Float[Array, "B N H K"],
    k: Float[Array, "B M H K"],
    v: Float[Array, "B M H K"],
    *,
    plan: planning.AttentionPlan,
    scale: float,
    bias_tiles: Float[Array, "T H Q C"] | None = None,
) -> kernels.Partial:
    """Equations (1) to (3); queries without a key get 0.

    Args:
      q, k, v, plan, scale: as of `kernel.Forward`.
      bias_tiles: bias of blocks of keys T // 2 before those of queries to T // 2 after.
    """
    queries, keys = tiles.sides(plan)
    qs, ks, vs = _split(queries, q), _split(keys, k), _split(keys, v)
    query_ids, key_ids = _ids(queries), _ids(keys)
    starts, stops = queries.runs.start.reshape(-1), queries.runs.stop.reshape(-1)

    def query_block(i: jax.Array, outputs: tuple) -> tuple:
        qi, ids = _at(qs, i), _at(query_ids, i)
        # Runs count blocks inside a row; `first` is where its row's keys begin.
        first = i // queries.blocks * keys.blocks
        nearest = _middle(bias_tiles) - i % queries.blocks

        def step(j: jax.Array, state: tuple) -> tuple:
            o, m, total = state
            kj, vj = _at(ks, first + j), _at(vs, first + j)
            mask = tiles.pair_mask(
                queries,
                keys,
                ids=(ids, _at(key_ids, first + j)),
                blocks=(i % queries.blocks, j),
                causal=plan.causal,
            )
            s = scale * _dot(qi, kj, contraction=_A_BT)
            s = s if bias_tiles is None else s + _at(bias_tiles, nearest + j)
            s = jnp.where(mask, s, kernels.MASK_VALUE)
            peak = jnp.maximum(m, jnp.max(s, axis=-1))
            p = jnp.where(mask, jnp.exp(s - peak[..., None]), 0.0)
            a = jnp.exp(m - peak)
            o = a[..., None] * o + _dot(p.astype(vj.dtype), vj, contraction=_A_B)
            return o, peak, a * total + jnp.sum(p, axis=-1)

        zero = jnp.zeros(qi.shape, jnp.float32)
        state = (zero, jnp.full(qi.shape[:2], kernels.MASK_VALUE), zero[..., 0])
        o, m, total = lax.fori_loop(starts[i], stops[i], step, state)
        total = jnp.maximum(total, kernels.MIN_TOTAL)
        out = (o / total[..., None]).astype(q.dtype)
        lse = m + jnp.log(total)
        return _put(outputs[0], i, value=out), _put(outputs[1], i, value=lse)

    empty = jnp.zeros_like(qs), jnp.zeros(qs.shape[:3], jnp.float32)
    out, lse = lax.fori_loop(0, qs.shape[0], query_block, empty)
    return _join(queries, out), _join(queries, lse[..., None])[..., 0].mT


def backward(
    residuals: kernels.Residuals,
    d_out: Float[Array, "B N H K"],
    *,
    bias_tiles: Float[Array, "T H Q C"] | None = None,
) -> tuple:
    """Equations (4) and (5), one block of keys after the other.

    Returns:
      The gradients of q, k and v, and of `bias_tiles`, `[0]` without them.
    """
    q, k, v, scale = residuals.q, residuals.k, residuals.v, residuals.scale
    queries, keys = tiles.sides(residuals.plan)
    qs, dos = _split(queries, q), _split(queries, d_out)
    ks, vs = _split(keys, k), _split(keys, v)
    query_ids, key_ids = _ids(queries), _ids(keys)
    starts, stops = keys.runs.start.reshape(-1), keys.runs.stop.reshape(-1)
    lses = _split(queries, residuals.lse.mT[..., None])[..., 0]
    deltas = jnp.einsum(
        "rhnk,rhnk->rhn",
        dos,
        _split(queries, residuals.out),
        preferred_element_type=jnp.float32,
    )

    def key_block(j: jax.Array, gradients: tuple) -> tuple:
        dq, dk, dv, d_tiles = gradients
        kj, vj, ids = _at(ks, j), _at(vs, j), _at(key_ids, j)
        first = j // keys.blocks * queries.blocks
        nearest = _middle(bias_tiles) + j % keys.blocks

        def step(i: jax.Array, state: tuple) -> tuple:
            dq, dkj, dvj, d_tiles = state
            blocks = i, j % keys.blocks
            tile, i = nearest - i, first + i
            qi, do = _at(qs, i), _at(dos, i)
            s = scale * _dot(qi, kj, contraction=_A_BT)
            s = s if bias_tiles is None else s + _at(bias_tiles, tile)
            mask = tiles.pair_mask(
                queries,
                keys,
                ids=(_at(query_ids, i), ids),
                blocks=blocks,
                causal=residuals.plan.causal,
            )
            p = jnp.where(mask, jnp.exp(s - _at(lses, i)[..., None]), 0.0)
            dvj = dvj + _dot(p.astype(do.dtype), do, contraction=_AT_B)
            ds = p * (_dot(do, vj, contraction=_A_BT) - _at(deltas, i)[..., None])
            if bias_tiles is not None:
                d_tiles = _put(d_tiles, tile, value=_at(d_tiles, tile) + ds)
            ds = ds.astype(qi.dtype)
            dkj = dkj + _dot(ds, qi, contraction=_AT_B)
            # Several blocks of keys add to one block of dq: it is carried through all.
            dqi = _at(dq, i) + _dot(ds, kj, contraction=_A_B)
            return _put(dq, i, value=dqi), dkj, dvj, d_tiles

        zero = jnp.zeros(kj.shape, jnp.float32)
        state = (dq, zero, zero, d_tiles)
        dq, dkj, dvj, d_tiles = lax.fori_loop(starts[j], stops[j], step, state)
        return dq, _put(dk, j, value=dkj), _put(dv, j, value=dvj), d_tiles

    shapes = (x.shape for x in (qs, ks, vs, bias_tiles) if x is not None)
    zeros = [jnp.zeros(shape, jnp.float32) for shape in shapes]
    zeros += [jnp.zeros(0, jnp.float32)] * (bias_tiles is None)
    dq, dk, dv, d_tiles = lax.fori_loop(0, ks.shape[0], key_block, tuple(zeros))
    dq = (scale * _join(queries, dq)).astype(q.dtype)
    dk = (scale * _join(keys, dk)).astype(k.dtype)
    return dq, dk, _join(keys, dv).astype(v.dtype), d_tiles


def _backward(residuals: kernels.Residuals, d_out: jax.Array) -> kernels.Gradients:
    return backward(residuals, d_out)[:3]


KERNEL = kernels.Kernel(forward, _backward)


def _middle(bias_tiles: jax.Array | None) -> int:
    """The tile of blocks at one place."""
    return 0 if bias_tiles is None else bias_tiles.shape[0] // 2


def _split(side: tiles.Side, x: jax.Array) -> jax.Array:
    """`[B, N, H, K]` to `[rows x blocks, H, block, K]`."""
    x = side.pad(x)
    x = x.reshape(side.rows, side.blocks, side.block, *x.shape[2:])
    x = jnp.einsum("bcnhk->bchnk", x)
    return x.reshape(-1, *x.shape[2:])


def _join(side: tiles.Side, x: jax.Array) -> jax.Array:
    """The inverse of `_split`."""
    x = x.reshape(side.rows, side.blocks, *x.shape[1:])
    x = jnp.einsum("bchnk->bcnhk", x)
    return x.reshape(side.rows, -1, *x.shape[3:])[:, : side.length]


def _ids(side: tiles.Side) -> jax.Array:
    """`[rows x blocks, block]` segment ids."""
    return side.pad(side.segments).reshape(-1, side.block)


def _dot(a: jax.Array, b: jax.Array, *, contraction: tuple) -> jax.Array:
    return lax.dot_general(a, b, contraction, preferred_element_type=jnp.float32)


def _at(x: jax.Array, index: jax.Array) -> jax.Array:
    return lax.dynamic_index_in_dim(x, index, keepdims=False)


def _put(x: jax.Array, index: jax.Array, *, value: jax.Array) -> jax.Array:
    return lax.dynamic_update_index_in_dim(x, value, index, 0)
