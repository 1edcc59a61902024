"""Which implementation is chosen, and what keeps a wrong one from it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax import sharding
from soraflax.ops import attention
from soraflax.ops.attention import (
    api,
    block_sparse,
    kernel,
    kernel_check,
    reference,
)
from tests.ops.attention import cases


def forward_unmasked(q, k, v, *, plan, scale):
    del plan
    unmasked = attention.make_plan(
        np.ones(q.shape[:2], np.int32), np.ones(k.shape[:2], np.int32)
    )
    return reference.KERNEL.forward(q, k, v, plan=unmasked, scale=scale)


def backward_without_delta(residuals, d_out):
    zeros = jnp.zeros_like(residuals.out)
    return reference.KERNEL.backward(dataclasses.replace(residuals, out=zeros), d_out)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_right_kernel_agrees_even_while_something_is_traced(dtype):
    actual = []

    @jax.jit
    def traced(x):
        actual.append(
            kernel_check.matches_reference(
                block_sparse.KERNEL, head_size=16, dtype=dtype
            )
        )
        return x

    traced(1.0)
    assert actual == [True]


@pytest.mark.parametrize(
    "wrong",
    [
        kernel.Kernel(forward_unmasked, reference.KERNEL.backward),
        kernel.Kernel(reference.KERNEL.forward, backward_without_delta),
    ],
    ids=["forward", "backward"],
)
def test_a_wrong_kernel_is_not_used(wrong):
    with pytest.warns(UserWarning, match=r"heads of 16 in float32 is off by .* cpu"):
        assert not kernel_check.matches_reference(wrong, head_size=16, dtype="float32")


def test_a_kernel_that_does_not_compile_is_not_used():
    def forward(q, k, v, *, plan, scale):
        raise NotImplementedError("no such instruction")

    broken = kernel.Kernel(forward, reference.KERNEL.backward)
    with pytest.warns(UserWarning, match="fails .no such instruction. on this cpu"):
        assert not kernel_check.matches_reference(broken, head_size=16, dtype="float32")


def chosen(platform, monkeypatch, *, agrees=True, block=128, size=64, **arguments):
    """What the entry takes where it is free to choose."""
    monkeypatch.setattr(sharding, "platform", lambda: platform)
    monkeypatch.setattr(kernel_check, "matches_reference", lambda *_, **__: agrees)
    plan = attention.make_plan(
        np.ones((1, 384), int), np.ones((1, 384), int), block=block
    )
    q = jnp.zeros((1, 384, 2, size))
    return api._choose(q, plan, bias=arguments.get("bias"))


def test_the_platform_and_the_sizes_choose(monkeypatch):
    assert chosen("tpu", monkeypatch) == "splash"
    assert chosen("gpu", monkeypatch) == "triton"
    assert chosen("cpu", monkeypatch) == "blocks"
    assert chosen("cpu", monkeypatch, block=384) == "reference"
    assert chosen("tpu", monkeypatch, size=80) == "blocks"
    assert chosen("tpu", monkeypatch, block=100) == "blocks"
    assert chosen("gpu", monkeypatch, block=100) == "blocks"
    assert chosen("gpu", monkeypatch, agrees=False) == "blocks"
    bias = jnp.zeros((2, 2 * 384 - 1))
    assert chosen("tpu", monkeypatch, bias=bias) == "reference"
    assert chosen("cpu", monkeypatch, bias=bias) == "blocks"
    assert chosen("cpu", monkeypatch, block=384, bias=bias) == "reference"
    assert chosen("gpu", monkeypatch, block=16, bias=bias) == "blocks"


@pytest.mark.parametrize(
    ("implementation", "size", "block", "message"),
    [
        ("splash", 80, 128, "'splash' cannot take heads of size 80: use 64, or"),
        ("splash", 64, 100, "'splash' cannot take blocks of 100 queries: use 128"),
        ("splash", 64, 1280, "'splash' cannot take blocks of 1280 queries: use 1024"),
        ("triton", 96, 128, "'triton' cannot take heads of size 96: use 64, or"),
        ("triton", 64, 100, "'triton' cannot take blocks of 100 queries: use 128"),
    ],
)
def test_sizes_that_a_kernel_cannot_take_are_refused(
    implementation, size, block, message
):
    row = np.ones((1, 1300), np.int32)
    q, k, v, _ = cases.inputs(1300, 1300, rows=1, size=size)
    plan = attention.make_plan(row, row, block=block)
    with pytest.raises(ValueError, match=message):
        attention.attention(q, k, v, plan=plan, implementation=implementation)


@pytest.mark.parametrize(
    ("implementation", "platform", "target", "call"),
    [
        ("splash", "tpu", "tpu", "tpu_custom_call"),
        ("triton", "gpu", "cuda", "__gpu$xla.gpu.triton"),
    ],
)
@pytest.mark.parametrize("size", [64, 128])
def test_kernels_lower_for_their_platform(
    implementation, platform, target, call, size, monkeypatch
):
    """Three kernels: forward, and backward for queries and for keys."""
    monkeypatch.setattr(sharding, "platform", lambda: platform)
    row = np.ones((2, 700), np.int32)
    plan = attention.make_plan(row, row)

    def loss(q, k, v):
        out = attention.attention(q, k, v, plan=plan, implementation=implementation)
        return jnp.sum(out.astype(jnp.float32))

    x = jax.ShapeDtypeStruct((2, 700, 2, size), jnp.bfloat16)
    traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(x, x, x)
    lowered = traced.lower(lowering_platforms=(target,))
    assert lowered.as_text().count(f"@{call}(") == 3
