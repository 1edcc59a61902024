"""Attention over the pairs of blocks that a plan visits, and no others.

Forward, for each block of queries, over its run of key blocks (online softmax,
arXiv:2205.14135, algorithm 1; arXiv:2112.05682):

    m' = max(m, rowmax(s)),   p = exp(s - m'),   a = exp(m - m')                  (1)
    l  <- a l + rowsum(p),    o <- a o + p v,    m <- m'                          (2)
    out = o / l,              lse = m + log l                                     (3)

The backward pass keeps only `out` and `lse` and computes each block of p again. For
each block of keys, over its run of query blocks:

    p = exp(s - lse),    dv += p^T do,    delta = rowsum(do out)                  (4)
    ds = p (do v^T - delta),    dq += scale ds k,    dk += scale ds^T q           (5)

The loops have dynamic trip counts: time follows the number of visited pairs, while
every shape, and so the compiled program, depends on the row alone. Arrays are held as
`[rows x blocks, H, block, K]`, so one step reads three contiguous pieces.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from soraflax.ops.attention import kernel
from soraflax.ops.attention import plan as planning

# Contractions of blocks with the heads as batch: a b^T, a b and a^T b.
_OUTER = (((2,), (2,)), ((0,), (0,)))
_INNER = (((2,), (1,)), ((0,), (0,)))
_TURNED = (((1,), (1,)), ((0,), (0,)))


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, plan: planning.AttentionPlan, scale: float
) -> kernel.Partial:
    """Equations (1) to (3); what the mask leaves empty is 0."""
    queries = _side(plan.query_segments, plan.keys_of, block=plan.query_block)
    keys = _side(plan.key_segments, plan.queries_of, block=plan.key_block)
    qs, ks, vs = queries.cut(q), keys.cut(k), keys.cut(v)

    def query_block(i: jax.Array, done: tuple) -> tuple:
        qi, ids, first = _at(qs, i), _at(queries.ids, i), keys.first(i, queries)

        def step(j: jax.Array, state: tuple) -> tuple:
            o, m, total = state
            kj, vj = _at(ks, first + j), _at(vs, first + j)
            mask = _mask(ids, _at(keys.ids, first + j))
            s = jnp.where(mask, scale * _dot(qi, kj, dimensions=_OUTER), kernel.MASKED)
            peak = jnp.maximum(m, jnp.max(s, axis=-1))
            p = jnp.where(mask, jnp.exp(s - peak[..., None]), 0.0)
            a = jnp.exp(m - peak)
            o = a[..., None] * o + _dot(p.astype(vj.dtype), vj, dimensions=_INNER)
            return o, peak, a * total + jnp.sum(p, axis=-1)

        zero = jnp.zeros(qi.shape, jnp.float32)
        start = (zero, jnp.full(qi.shape[:2], kernel.MASKED), zero[..., 0])
        o, m, total = lax.fori_loop(queries.start[i], queries.stop[i], step, start)
        total = jnp.maximum(total, kernel.SMALL)
        out = (o / total[..., None]).astype(q.dtype)
        lse = m + jnp.log(total)
        return _put(done[0], i, value=out), _put(done[1], i, value=lse)

    empty = jnp.zeros_like(qs), jnp.zeros(qs.shape[:3], jnp.float32)
    out, lse = lax.fori_loop(0, qs.shape[0], query_block, empty)
    return queries.join(out), queries.join(lse[..., None])[..., 0].mT


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
    """Equations (4) and (5), one block of keys after the other."""
    queries = _side(plan.query_segments, plan.keys_of, block=plan.query_block)
    keys = _side(plan.key_segments, plan.queries_of, block=plan.key_block)
    qs, dos, ks, vs = queries.cut(q), queries.cut(d_out), keys.cut(k), keys.cut(v)
    lses = queries.cut(lse.mT[..., None])[..., 0]
    deltas = jnp.einsum(
        "rhnk,rhnk->rhn", dos, queries.cut(out), preferred_element_type=jnp.float32
    )

    def key_block(j: jax.Array, done: tuple) -> tuple:
        dq, dk, dv = done
        kj, vj, ids = _at(ks, j), _at(vs, j), _at(keys.ids, j)
        first = queries.first(j, keys)

        def step(i: jax.Array, state: tuple) -> tuple:
            dq, dkj, dvj = state
            i = first + i
            qi, do = _at(qs, i), _at(dos, i)
            s = scale * _dot(qi, kj, dimensions=_OUTER)
            mask = _mask(_at(queries.ids, i), ids)
            p = jnp.where(mask, jnp.exp(s - _at(lses, i)[..., None]), 0.0)
            dvj = dvj + _dot(p.astype(do.dtype), do, dimensions=_TURNED)
            ds = p * (_dot(do, vj, dimensions=_OUTER) - _at(deltas, i)[..., None])
            ds = ds.astype(qi.dtype)
            dkj = dkj + _dot(ds, qi, dimensions=_TURNED)
            dqi = _at(dq, i) + _dot(ds, kj, dimensions=_INNER)
            return _put(dq, i, value=dqi), dkj, dvj

        zero = jnp.zeros(kj.shape, jnp.float32)
        start = (dq, zero, zero)
        dq, dkj, dvj = lax.fori_loop(keys.start[j], keys.stop[j], step, start)
        return dq, _put(dk, j, value=dkj), _put(dv, j, value=dvj)

    empty = tuple(jnp.zeros(x.shape, jnp.float32) for x in (qs, ks, vs))
    dq, dk, dv = lax.fori_loop(0, ks.shape[0], key_block, empty)
    dq = (scale * queries.join(dq)).astype(q.dtype)
    dk = (scale * keys.join(dk)).astype(k.dtype)
    return dq, dk, keys.join(dv).astype(v.dtype)


KERNEL = kernel.Kernel(_forward, _backward)


@dataclasses.dataclass(frozen=True)
class _Side:
    """The queries or the keys of a batch, cut into blocks; rows laid end to end.

    Attributes:
      ids: `[rows x blocks, block]` segment ids.
      start: `[rows x blocks]`, first block of the other side to visit, in its row.
      stop: past the last one.
      rows: B.
      length: tokens in a row.
    """

    ids: jax.Array
    start: jax.Array
    stop: jax.Array
    rows: int
    length: int

    @property
    def per_row(self) -> int:
        return self.ids.shape[0] // self.rows

    def first(self, index: jax.Array, other: "_Side") -> jax.Array:
        """The first block, on this side, of the row that `other`'s block is in."""
        return (index // other.per_row) * self.per_row

    def cut(self, x: jax.Array) -> jax.Array:
        """`[B, N, H, K]` to `[rows x blocks, H, block, K]`."""
        block = self.ids.shape[1]
        short = self.per_row * block - self.length
        x = jnp.pad(x, ((0, 0), (0, short), (0, 0), (0, 0)))
        x = x.reshape(self.rows, self.per_row, block, *x.shape[2:])
        x = jnp.einsum("bcnhk->bchnk", x)
        return x.reshape(-1, *x.shape[2:])

    def join(self, x: jax.Array) -> jax.Array:
        """The inverse of `cut`."""
        x = x.reshape(self.rows, self.per_row, *x.shape[1:])
        x = jnp.einsum("bchnk->bcnhk", x)
        return x.reshape(self.rows, -1, *x.shape[3:])[:, : self.length]


def _side(segments: jax.Array, runs: planning.Runs, *, block: int) -> _Side:
    ids = planning.to_blocks(segments, block)
    rows, length = segments.shape
    return _Side(
        ids=ids.reshape(-1, block),
        start=runs.start.reshape(-1),
        stop=runs.stop.reshape(-1),
        rows=rows,
        length=length,
    )


def _mask(query_ids: jax.Array, key_ids: jax.Array) -> jax.Array:
    same = query_ids[:, None] == key_ids[None, :]
    return same & (query_ids > 0)[:, None]


def _dot(a: jax.Array, b: jax.Array, *, dimensions: tuple) -> jax.Array:
    return lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


def _at(x: jax.Array, index: jax.Array) -> jax.Array:
    return lax.dynamic_index_in_dim(x, index, keepdims=False)


def _put(x: jax.Array, index: jax.Array, *, value: jax.Array) -> jax.Array:
    return lax.dynamic_update_index_in_dim(x, value, index, 0)
