"""A kernel that is given long rows in chunks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax.ops import attention
from soraflax.ops.attention import block_sparse, chunked, kernel, reference
from tests.ops.attention import cases

LENGTHS = ([(1, 7), (2, 13), (4, 9)], [(1, 30)])
TEXT = ([(1, 3), (3, 2), (4, 11)], [(1, 17)])


def both(chunked_kernel, query, key):
    """Output and gradients by a kernel, and by the definition."""
    q, k, v, w = cases.inputs(query.shape[1], key.shape[1])
    plan = attention.make_plan(query, key, block=4)

    def loss(attend, q, k, v):
        out = attend(q, k, v)
        return jnp.vdot(out, w), out

    def gradients(attend):
        call = functools.partial(loss, attend)
        return jax.jit(jax.grad(call, argnums=(0, 1, 2), has_aux=True))(q, k, v)

    def by_kernel(q, k, v):
        return kernel.attend(q, k, v, plan, chunked_kernel, 0.3)

    def defined(q, k, v):
        return reference.attention(q, k, v, plan=plan, scale=0.3)

    return gradients(by_kernel), gradients(defined)


@pytest.mark.parametrize("inner", [block_sparse.KERNEL, reference.KERNEL])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_chunks_equal_the_whole(inner, size):
    query = np.stack([cases.ids(row, 37) for row in LENGTHS])
    actual, expected = both(chunked.chunked(inner, max_blocks=size), query, query)
    cases.check_close(actual, expected, atol=1e-5)


def test_chunks_of_keys_of_another_length():
    query = np.stack([cases.ids(row, 37) for row in LENGTHS])
    key = np.stack([cases.ids(row, 18) for row in TEXT])
    actual, expected = both(
        chunked.chunked(block_sparse.KERNEL, max_blocks=2), query, key
    )
    cases.check_close(actual, expected, atol=1e-5)


def test_chunks_that_do_not_touch_are_left_out():
    """Four segments of eight: of chunks of eight, one in four is computed."""
    counted, lengths = [], []

    def forward(q, k, v, *, plan, scale):
        lengths.append((q.shape[1], k.shape[1]))
        jax.debug.callback(lambda: counted.append(1))
        return reference.KERNEL.forward(q, k, v, plan=plan, scale=scale)

    row = np.repeat(np.arange(1, 5, dtype=np.int32), 8)[None]
    plan = attention.make_plan(row, row, block=4)
    q, k, v, _ = cases.inputs(32, 32, rows=1)
    inner = kernel.Kernel(forward, reference.KERNEL.backward)
    in_chunks = chunked.chunked(inner, max_blocks=2)
    jax.block_until_ready(in_chunks.forward(q, k, v, plan=plan, scale=1.0))
    jax.effects_barrier()
    assert len(counted) == 4 and set(lengths) == {(8, 8)}
