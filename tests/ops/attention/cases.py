"""Packed rows for the tests of attention, and one call for output and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from soraflax.ops import attention

ROWS, HEADS, SIZE = 2, 2, 8


def ids(lengths: list[tuple[int, int]], total: int) -> np.ndarray:
    """One row of segment ids from (id, length) pairs; the rest is padding."""
    row = np.concatenate([np.full(n, i, np.int32) for i, n in lengths] or [[]])
    return np.pad(row, (0, total - len(row))).astype(np.int32)


def inputs(
    n: int,
    m: int,
    rows: int = ROWS,
    dtype=jnp.float32,
    *,
    heads: int = HEADS,
    size: int = SIZE,
) -> list[jax.Array]:
    """Queries, keys, values and a cotangent of the output."""
    keys = jax.random.split(jax.random.key(7), 4)
    lengths = (n, m, m, n)
    return [
        jax.random.normal(k, (rows, length, heads, size), dtype)
        for k, length in zip(keys, lengths, strict=True)
    ]


@functools.partial(
    jax.jit, static_argnames=("implementation", "block", "key_axis", "causal")
)
def run(
    q,
    k,
    v,
    w,
    query_segments,
    key_segments,
    *,
    implementation,
    block=8,
    key_axis="tokens",
    causal=False,
):
    """The output and the gradients of vdot(output, w)."""
    plan = attention.make_plan(
        query_segments,
        key_segments,
        block=block,
        heads=q.shape[2],
        key_axis=key_axis,
        causal=causal,
    )

    def loss(q, k, v):
        out = attention.attention(q, k, v, plan=plan, implementation=implementation)
        return jnp.vdot(out, w), out

    grads, out = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(q, k, v)
    return out, grads


def check_close(a, b, *, atol=2e-6):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=atol), a, b
    )
