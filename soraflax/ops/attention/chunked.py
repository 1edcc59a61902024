"""A kernel over rows longer than its limit, chunk by chunk.

By equations (4) and (5) of kernel.py the parts of a row can be attended to one after
the other. For each chunk of queries only the chunks of keys from the first to the last
that it touches are visited, so that cost still follows the visited blocks.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from soraflax.ops.attention import kernel as kernels
from soraflax.ops.attention import plan as planning
from soraflax.ops.attention import tiles


def chunked(kernel: kernels.Kernel, *, max_blocks: int) -> kernels.Kernel:
    """`kernel`, run on at most `max_blocks` blocks of a row of either side at a time.

    Rows that fit are not cut.
    """

    def forward(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        *,
        plan: planning.AttentionPlan,
        scale: float,
    ) -> kernels.Partial:
        chunks = _chunk(plan, max_blocks)
        if chunks.is_single:
            return kernel.forward(q, k, v, plan=plan, scale=scale)
        return _forward(kernel, chunks, q=q, k=k, v=v, scale=scale)

    def backward(residuals: kernels.Residuals, d_out: jax.Array) -> kernels.Gradients:
        chunks = _chunk(residuals.plan, max_blocks)
        if chunks.is_single:
            return kernel.backward(residuals, d_out)
        return _backward(kernel, chunks, residuals=residuals, d_out=d_out)

    return kernels.Kernel(forward, backward)


@dataclasses.dataclass(frozen=True)
class _ChunkedSide(tiles.Side):
    """The queries or the keys of a batch, in chunks of whole blocks.

    Attributes:
      chunk: blocks in a chunk.
    """

    chunk: int

    @property
    def chunks(self) -> int:
        """Chunks in a row; the last one may be part empty."""
        return -(-self.blocks // self.chunk)

    @property
    def padded_length(self) -> int:
        """Tokens in the chunks of a row."""
        return self.chunks * self.chunk * self.block

    def split(self, x: jax.Array) -> jax.Array:
        """`[B, N, ...]` to `[chunks, B, tokens of a chunk, ...]`, zeros at the end."""
        x = self.pad(x)
        x = x.reshape(x.shape[0], self.chunks, self.chunk * self.block, *x.shape[2:])
        return jnp.swapaxes(x, 0, 1)

    def join(self, x: jax.Array) -> jax.Array:
        """The inverse of `split`."""
        x = jnp.swapaxes(x, 0, 1)
        x = x.reshape(x.shape[0], -1, *x.shape[3:])
        return x[:, : self.length]

    def runs_in(
        self, index: jax.Array, *, other: jax.Array, blocks: int
    ) -> planning.Runs:
        """The runs of one chunk of this side, within one chunk of the other.

        Args:
          index: which chunk of this side.
          other: which chunk of the other side, in chunks of `blocks`.
          blocks: blocks in a chunk of the other side.
        """

        def window(ends: jax.Array) -> jax.Array:
            short = self.chunks * self.chunk - ends.shape[-1]
            ends = jnp.pad(ends, [*((0, 0) for _ in ends.shape[1:]), (0, short)])
            start = index * self.chunk
            ends = lax.dynamic_slice_in_dim(ends, start, self.chunk, axis=-1)
            # Counted from the other chunk's first block. A run that lies outside of the
            # chunk has both ends clipped to the same side, and so is empty.
            return jnp.clip(ends - other * blocks, 0, blocks)

        return jax.tree.map(window, self.runs)


@dataclasses.dataclass(frozen=True)
class _Chunks:
    """A plan for rows that no mesh cuts, in chunks.

    Attributes:
      plan: the plan of the whole rows.
      queries: its queries.
      keys: its keys.
    """

    plan: planning.AttentionPlan
    queries: _ChunkedSide
    keys: _ChunkedSide

    @property
    def is_single(self) -> bool:
        """Whether both sides are one chunk, so that nothing is cut."""
        return self.queries.chunks == self.keys.chunks == 1

    def pair(self, i: jax.Array, j: jax.Array) -> planning.AttentionPlan:
        """The plan of chunk `i` of the queries and chunk `j` of the keys."""
        queries, keys = self.queries, self.keys
        return dataclasses.replace(
            self.plan,
            query_segments=queries.split(queries.segments)[i],
            key_segments=keys.split(keys.segments)[j],
            keys_of=queries.runs_in(i, other=j, blocks=keys.chunk),
            queries_of=keys.runs_in(j, other=i, blocks=queries.chunk),
        )

    def touched(self, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        """First and last (exclusive) chunk of keys that chunk `i` of queries visits."""
        keys = self.keys
        total = keys.chunk * keys.chunks
        runs = self.queries.runs_in(i, other=jnp.int32(0), blocks=total)
        # Empty runs lie at the far ends, where they do not widen the range.
        start = jnp.min(jnp.where(runs.start < runs.stop, runs.start, total))
        stop = jnp.max(jnp.where(runs.start < runs.stop, runs.stop, 0))
        stop = -(-stop // keys.chunk)
        return jnp.minimum(start // keys.chunk, stop), stop


def _chunk(plan: planning.AttentionPlan, max_blocks: int) -> _Chunks:
    def chunked_side(side: tiles.Side) -> _ChunkedSide:
        # Chunks of one size, so that little is padded.
        chunk = -(-side.blocks // -(-side.blocks // max_blocks))
        return _ChunkedSide(side.segments, side.runs, side.block, chunk)

    return _Chunks(plan, *map(chunked_side, tiles.sides(plan)))


def _forward(
    kernel: kernels.Kernel,
    chunks: _Chunks,
    *,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    scale: float,
) -> kernels.Partial:
    queries, keys = chunks.queries, chunks.keys
    qs, ks, vs = queries.split(q), keys.split(k), keys.split(v)

    def query_chunk(i: jax.Array) -> kernels.Partial:
        def visit(j: jax.Array, partial: kernels.Partial) -> kernels.Partial:
            part = kernel.forward(
                qs[i], ks[j], vs[j], plan=chunks.pair(i, j), scale=scale
            )
            return kernels.merge(partial, part)

        return lax.fori_loop(*chunks.touched(i), visit, kernels.empty_partial(qs[0]))

    outs, lses = lax.map(query_chunk, jnp.arange(queries.chunks))
    lse = queries.join(lses.mT[..., None])[..., 0].mT
    return queries.join(outs).astype(q.dtype), lse


def _backward(
    kernel: kernels.Kernel,
    chunks: _Chunks,
    *,
    residuals: kernels.Residuals,
    d_out: jax.Array,
) -> kernels.Gradients:
    q, k, v = residuals.q, residuals.k, residuals.v
    queries, keys = chunks.queries, chunks.keys
    qs, outs, d_outs = map(queries.split, (q, residuals.out, d_out))
    lses = queries.split(residuals.lse.mT[..., None])[..., 0].mT
    ks, vs = keys.split(k), keys.split(v)

    def query_chunk(sums: tuple, i: jax.Array) -> tuple:
        def visit(j: jax.Array, sums: tuple) -> tuple:
            dq, dk, dv = sums
            pair = kernels.Residuals(
                q=qs[i],
                k=ks[j],
                v=vs[j],
                plan=chunks.pair(i, j),
                scale=residuals.scale,
                out=outs[i],
                lse=lses[i],
            )
            more = kernel.backward(pair, d_outs[i])
            more = tuple(x.astype(jnp.float32) for x in more)
            return dq + more[0], dk.at[j].add(more[1]), dv.at[j].add(more[2])

        dq = jnp.zeros(qs.shape[1:], jnp.float32)
        dq, dk, dv = lax.fori_loop(*chunks.touched(i), visit, (dq, *sums))
        return (dk, dv), dq

    zeros = jnp.zeros(ks.shape, jnp.float32)
    (dk, dv), dq = lax.scan(query_chunk, (zeros, zeros), jnp.arange(queries.chunks))
    dq = queries.join(dq).astype(q.dtype)
    return dq, keys.join(dk).astype(k.dtype), keys.join(dv).astype(v.dtype)
