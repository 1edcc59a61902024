"""Muon: optax's rule, its layers dealt over devices, in the program too."""

import functools
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from soraflax import sharding
from soraflax.train import muon, optimizer

CONFIG = optimizer.OptimizerConfig(
    name="muon", warmup=0, schedule="constant", weight_decay=0.0, clip_norm=0.0
)


def params() -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "scanned": {"kernel": jax.random.normal(keys[0], (3, 16, 8))},
        "wide": {"kernel": jax.random.normal(keys[1], (2, 4, 12))},
        "single": {"kernel": jax.random.normal(keys[2], (4, 4)), "bias": jnp.ones(4)},
    }


def test_updates_and_states_are_those_of_optax() -> None:
    """So that checkpoints of before go on."""
    dimensions = optax.contrib.MuonDimensionNumbers(1, 2)
    theirs = optax.contrib.muon(
        CONFIG.learning_rate,
        eps=CONFIG.epsilon,
        adam_b1=CONFIG.beta1,
        adam_b2=CONFIG.beta2,
        muon_weight_dimension_numbers=lambda tree: jax.tree.map(
            lambda x: dimensions if x.ndim == 3 else None, tree
        ),
        consistent_rms=0.2,
    )
    ours = optimizer.make_optimizer(CONFIG, steps=10)
    values = params()
    left: Any = ours.init(values)
    right: Any = theirs.init(values)
    inner = jax.tree_util.tree_structure(left[0])
    assert inner == jax.tree_util.tree_structure(right)
    grads = values
    for _ in range(2):
        updates, left = ours.update(grads, left, values)
        with jax.numpy_dtype_promotion("standard"):
            expected, right = theirs.update(grads, right, values)
        chex.assert_trees_all_close(updates, expected, rtol=1e-4, atol=1e-7)
        grads = jax.tree.map(jnp.sin, grads)


SPECS = [
    ({"fsdp": 4, "context": 2}, P(None, "fsdp", "tensor"), 6),
    ({"fsdp": 2, "context": 4}, P(None, ("fsdp", "context"), "tensor"), 6),
    ({"fsdp": 4, "tensor": 2}, P(None, "tensor", "fsdp"), 5),
    ({"data": 2, "fsdp": 2, "tensor": 2}, P(None, ("fsdp", "tensor")), 8),
]


def program(sizes: dict[str, int], spec: P, depth: int) -> Any:
    """The compiled iterations in bfloat16, of kernels of 64 x 128."""
    place = jax.NamedSharding(sharding.make_mesh(**sizes), spec)
    made = functools.partial(muon.orthogonal, place=place, dtype="bfloat16")
    stack = jax.ShapeDtypeStruct((depth, 64, 128), jnp.float32, sharding=place)
    return jax.jit(made, out_shardings=place).lower(stack)


@pytest.mark.parametrize(("sizes", "spec", "depth"), SPECS)
def test_dealt_layers_are_what_they_are_on_one_device(sizes, spec, depth) -> None:
    place = jax.NamedSharding(sharding.make_mesh(**sizes), spec)
    stack = jax.random.normal(jax.random.key(1), (depth, 16, 32))
    dealt = jax.jit(functools.partial(muon.orthogonal, place=place))
    got = dealt(jax.device_put(stack, place))
    np.testing.assert_allclose(got, muon.orthogonal(stack), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("sizes", "spec", "depth"), SPECS)
def test_no_kernel_is_gathered(sizes, spec, depth) -> None:
    """An exchange for each axis, and back, in bfloat16; a device has its layers whole.

    Axes that hold copies gather what each of them made, no more than one share.
    """
    lowered = program(sizes, spec, depth)
    found = re.findall(
        r"stablehlo\.(all_\w+)[^\n]*-> tensor<(\d+)x(\d+)x(\d+)x(\w+)>",
        lowered.as_text(),
    )
    assert {kind for *_, kind in found} == {"bf16"}
    exchanged = [entry for entry in found if entry[0] == "all_to_all"]
    dealt = [axis for axis, _ in muon.exchanges(spec) if sizes.get(axis, 1) > 1]
    assert len(exchanged) == 2 * len(dealt)
    count = np.prod([sizes[axis] for axis in dealt])
    share = -(-depth // count) + 1  # rounded up to what the copies divide
    for name, layers, rows, columns, _ in found:
        assert int(rows) * int(columns) <= 64 * 128
        if name == "all_gather":
            assert int(layers) <= share
    compiled = lowered.compile()
    assert not re.search(rf"\[{depth},64,128\]\S* all-gather", compiled.as_text())


def test_axes_of_copies_take_layers_while_all_have_one() -> None:
    sizes = {"data": 4, "fsdp": 8, "context": 2, "tensor": 1}
    axes = functools.partial(muon.copying_axes, sizes, dealt=["fsdp"])
    assert axes(depth=40) == ["data"]
    assert axes(depth=64) == ["data", "context"]
    assert axes(depth=16) == ["context"]
    assert axes(depth=8) == []
    with pytest.raises(ValueError, match="layers are spread over"):
        muon.exchanges(P("fsdp"))


def test_rounded_iterations_are_near_the_exact_ones_and_exact_by_default() -> None:
    stack = jax.random.normal(jax.random.key(2), (2, 24, 48))
    exact = muon.orthogonal(stack, dtype="float32")
    np.testing.assert_array_equal(muon.orthogonal(stack), exact)
    rounded = muon.orthogonal(stack, dtype="bfloat16")
    assert rounded.dtype == jnp.float32
    distance = jnp.linalg.norm(rounded - exact) / jnp.linalg.norm(exact)
    assert 1e-4 < distance < 0.05


def test_a_convolution_is_one_matrix() -> None:
    kernel = jax.random.normal(jax.random.key(3), (3, 2, 2, 4, 8))
    tree = {"conv": {"kernel": kernel, "bias": jnp.ones(8)}}
    labels = optimizer.muon_labels(tree)
    assert labels == {"conv": {"kernel": "muon", "bias": "adam"}}
    rule = muon.scale_by_muon(epsilon=1e-8)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = rule.update(kernel, rule.init(kernel))
    flat = muon.orthogonal(kernel.reshape(1, 48, 8))
    expected = muon.RMS * np.sqrt(48) * flat.reshape(kernel.shape)
    np.testing.assert_allclose(np.asarray(updates), expected, rtol=1e-4, atol=1e-5)
