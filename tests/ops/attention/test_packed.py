"""A packed row equals its clips alone, by every implementation, on every mesh axis."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax import sharding
from soraflax.ops.attention import api
from tests.ops.attention import cases

LENGTHS = (24, 33)
TEXT = (5, 3)
TOTAL, TEXT_TOTAL, ROWS, HEADS, SIZE = 64, 16, 8, 8, 64

# Heads, and the mesh: every axis is split in one of them, tokens in three ways.
MESHES = {
    "one device": (8, {}),
    "rows and heads": (8, {"data": 2, "fsdp": 2, "tensor": 2}),
    "context by heads": (8, {"context": 8}),
    "context by ring": (3, {"context": 8}),
    "context by both": (6, {"context": 4, "fsdp": 2}),
}


def segments(lengths, total) -> np.ndarray:
    row = cases.ids(list(enumerate(lengths, start=1)), total)
    return np.tile(row, (ROWS, 1))


@functools.cache
def alone(text: bool):
    """Inputs, and the output and gradients of every clip by itself, at its tokens."""
    total, lengths = (TEXT_TOTAL, TEXT) if text else (TOTAL, LENGTHS)
    arrays = cases.inputs(TOTAL, total, rows=ROWS, heads=HEADS, size=SIZE)
    out, grads = jax.tree.map(jnp.zeros_like, (arrays[0], tuple(arrays[:3])))
    start = other = 0
    for n, m in zip(LENGTHS, lengths, strict=True):
        queries, keys = slice(start, start + n), slice(other, other + m)
        sides = (queries, keys, keys, queries)
        cut = [x[:, side] for x, side in zip(arrays, sides, strict=True)]
        ids = [np.ones((ROWS, size), np.int32) for size in (n, m)]
        y, dx = cases.run(*cut, *ids, implementation="reference")
        out = out.at[:, queries].set(y)
        grads = tuple(
            g.at[:, side].set(d)
            for g, side, d in zip(grads, (queries, keys, keys), dx, strict=True)
        )
        start, other = start + n, other + m
    return arrays, (out, grads)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("implementation", api.KERNELS)
def test_packed_equals_alone(implementation, mesh):
    heads, sizes = MESHES[mesh]
    arrays, expected = jax.tree.map(lambda x: x[:, :, :heads], alone(text=False))
    row = segments(LENGTHS, TOTAL)
    devices = jax.devices() if sizes else jax.devices()[:1]
    with jax.set_mesh(sharding.make_mesh(**({"fsdp": 1} | sizes), devices=devices)):
        actual = cases.run(*arrays, row, row, implementation=implementation, block=128)
    cases.check_close(actual, expected, atol=1e-5)


@pytest.mark.parametrize("mesh", ["one device", "context by both"])
@pytest.mark.parametrize("implementation", api.KERNELS)
def test_packed_text_equals_text_alone(implementation, mesh):
    heads, sizes = MESHES[mesh]
    arrays, expected = jax.tree.map(lambda x: x[:, :, :heads], alone(text=True))
    ids = segments(LENGTHS, TOTAL), segments(TEXT, TEXT_TOTAL)
    devices = jax.devices() if sizes else jax.devices()[:1]
    with jax.set_mesh(sharding.make_mesh(**({"fsdp": 1} | sizes), devices=devices)):
        actual = cases.run(
            *arrays, *ids, implementation=implementation, block=128, key_axis="text"
        )
    cases.check_close(actual, expected, atol=1e-5)
