"""A kernel that takes long rows in chunks, whatever its own limit.

By equations (4) and (5) of kernel.py the parts of a row can be attended to one after
the other. For each chunk of queries only the chunks of keys from the first to the last
that it touches are visited, so that cost still follows the visited blocks.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from soraflax.ops.attention import kernel as kernels
from soraflax.ops.attention import plan as planning


def chunked(kernel: kernels.Kernel, *, blocks: int) -> kernels.Kernel:
    """`kernel`, never called with more than `blocks` blocks of a row on either side.

    Rows that fit are not cut.
    """
    return kernels.Kernel(
        functools.partial(_forward, kernel, blocks),
        functools.partial(_backward, kernel, blocks),
    )


def _forward(
    kernel: kernels.Kernel,
    blocks: int,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    plan: planning.AttentionPlan,
    scale: float,
) -> kernels.Partial:
    cut = _cut(plan, blocks)
    if cut.queries.count == cut.keys.count == 1:
        return kernel.forward(q, k, v, plan, scale)
    qs, ks, vs = cut.queries.split(q), cut.keys.split(k), cut.keys.split(v)

    def attend(i: jax.Array) -> kernels.Partial:
        def visit(j: jax.Array, found: kernels.Partial) -> kernels.Partial:
            parts = qs[i], ks[j], vs[j], cut.window(i, j), scale
            return kernels.merge(found, kernel.forward(*parts))

        return lax.fori_loop(*cut.touched(i), visit, kernels.empty_partial(qs[0]))

    outs, lses = lax.map(attend, jnp.arange(cut.queries.count))
    lse = cut.queries.join(lses.mT[..., None])[..., 0].mT
    return cut.queries.join(outs).astype(q.dtype), lse


def _backward(
    kernel: kernels.Kernel,
    blocks: int,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    plan: planning.AttentionPlan,
    scale: float,
    out: jax.Array,
    lse: jax.Array,
    d_out: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    cut = _cut(plan, blocks)
    if cut.queries.count == cut.keys.count == 1:
        return kernel.backward(q, k, v, plan, scale, out, lse, d_out)
    qs, outs, d_outs = map(cut.queries.split, (q, out, d_out))
    lses = cut.queries.split(lse.mT[..., None])[..., 0].mT
    ks, vs = cut.keys.split(k), cut.keys.split(v)

    def attend(sums: tuple, i: jax.Array) -> tuple:
        def visit(j: jax.Array, sums: tuple) -> tuple:
            dq, dk, dv = sums
            parts = qs[i], ks[j], vs[j], cut.window(i, j), scale
            more = kernel.backward(*parts, outs[i], lses[i], d_outs[i])
            more = tuple(x.astype(jnp.float32) for x in more)
            return dq + more[0], dk.at[j].add(more[1]), dv.at[j].add(more[2])

        dq = jnp.zeros(qs.shape[1:], jnp.float32)
        dq, dk, dv = lax.fori_loop(*cut.touched(i), visit, (dq, *sums))
        return (dk, dv), dq

    zeros = jnp.zeros(ks.shape, jnp.float32)
    (dk, dv), dq = lax.scan(attend, (zeros, zeros), jnp.arange(cut.queries.count))
    dq = cut.queries.join(dq).astype(q.dtype)
    return dq, cut.keys.join(dk).astype(k.dtype), cut.keys.join(dv).astype(v.dtype)


@dataclasses.dataclass(frozen=True)
class _Side:
    """The queries or the keys of a batch, in chunks of whole blocks.

    Attributes:
      segments: `[B, N]`.
      runs: what each block of this side visits of the other.
      block: tokens in a block.
      blocks: in a chunk.
    """

    segments: jax.Array
    runs: planning.Runs
    block: int
    blocks: int

    @property
    def count(self) -> int:
        """Chunks in a row."""
        return -(-self.runs.start.shape[-1] // self.blocks)

    def split(self, x: jax.Array) -> jax.Array:
        """`[B, N, ...]` to `[chunks, B, tokens of a chunk, ...]`, zeros at the end."""
        length = self.block * self.blocks
        short = self.count * length - x.shape[1]
        x = jnp.pad(x, [(0, 0), (0, short), *((0, 0) for _ in x.shape[2:])])
        x = x.reshape(x.shape[0], self.count, length, *x.shape[2:])
        return jnp.swapaxes(x, 0, 1)

    def join(self, x: jax.Array) -> jax.Array:
        """The inverse of `split`."""
        x = jnp.swapaxes(x, 0, 1)
        x = x.reshape(x.shape[0], -1, *x.shape[3:])
        return x[:, : self.segments.shape[1]]

    def runs_in(
        self, index: jax.Array, chunk: jax.Array, *, blocks: int
    ) -> planning.Runs:
        """The runs of one chunk of this side, inside one chunk of the other."""

        def part(ends: jax.Array) -> jax.Array:
            short = self.count * self.blocks - ends.shape[-1]
            ends = jnp.pad(ends, [*((0, 0) for _ in ends.shape[1:]), (0, short)])
            start = index * self.blocks
            ends = lax.dynamic_slice_in_dim(ends, start, self.blocks, axis=-1)
            return jnp.clip(ends - chunk * blocks, 0, blocks)

        return jax.tree.map(part, self.runs)


@dataclasses.dataclass(frozen=True)
class _Cut:
    """A plan for rows that no mesh cuts, in chunks.

    Attributes:
      plan: what is cut.
      queries: its queries.
      keys: its keys.
    """

    plan: planning.AttentionPlan
    queries: _Side
    keys: _Side

    def window(self, i: jax.Array, j: jax.Array) -> planning.AttentionPlan:
        """The plan of one chunk of queries and one of keys."""
        return dataclasses.replace(
            self.plan,
            query_segments=self.queries.split(self.queries.segments)[i],
            key_segments=self.keys.split(self.keys.segments)[j],
            keys_of=self.queries.runs_in(i, j, blocks=self.keys.blocks),
            queries_of=self.keys.runs_in(j, i, blocks=self.queries.blocks),
        )

    def touched(self, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        """From the first to past the last chunk of keys that chunk `i` visits."""
        every = self.keys.blocks * self.keys.count
        runs = self.queries.runs_in(i, jnp.int32(0), blocks=every)
        start = jnp.min(jnp.where(runs.start < runs.stop, runs.start, every))
        stop = jnp.max(jnp.where(runs.start < runs.stop, runs.stop, 0))
        stop = -(-stop // self.keys.blocks)
        return jnp.minimum(start // self.keys.blocks, stop), stop


def _cut(plan: planning.AttentionPlan, most: int) -> _Cut:
    def side(segments: jax.Array, runs: planning.Runs, block: int) -> _Side:
        count = runs.start.shape[-1]
        # Chunks of one size, so that little is padded.
        return _Side(segments, runs, block, -(-count // -(-count // most)))

    return _Cut(
        plan,
        side(plan.query_segments, plan.keys_of, plan.query_block),
        side(plan.key_segments, plan.queries_of, plan.key_block),
    )
