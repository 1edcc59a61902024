"""The block's gathers and gates, and the scan over blocks."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from soraflax.nn import transformer
from soraflax.ops import attention, rope

QUICK = {"xla_backend_optimization_level": 0}


@dataclasses.dataclass(frozen=True)
class Plans:
    self_attention: Any
    cross_attention: Any


@pytest.fixture(scope="module")
def inputs():
    """Two rows of 12 tokens of width 16, with 6 levels and 5 text tokens."""
    rng = np.random.default_rng(0)
    segments = jnp.array([[1] * 5 + [2] * 7, [1] * 9 + [0] * 3], jnp.int32)
    text_segments = jnp.array([[1, 1, 2, 2, 2], [1, 1, 1, 1, 0]], jnp.int32)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    rest = {
        "modulation": normal(2, 6, 6, 16),
        "level_ids": 2 * segments + jnp.asarray(rng.integers(0, 2, (2, 12)), jnp.int32),
        "angles": rope.rope_angles(normal(2, 12, 3), 8),
        "text": normal(2, 5, 16),
    }
    rest["level_ids"] = jnp.minimum(rest["level_ids"], 5)
    plans = (
        attention.make_plan(segments, segments),
        attention.make_plan(segments, text_segments),
    )
    return normal(2, 12, 16), rest, plans


def stack_and_params(inputs, depth):
    x, rest, plans = inputs
    stack = transformer.Stack(depth=depth, heads=2, mlp=24)
    boxed = jax.eval_shape(
        lambda key: stack.init(key, x, **rest, plans=Plans(*plans)), jax.random.key(0)
    )["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda p: jnp.asarray(0.3 * rng.normal(size=p.shape), jnp.float32),
        meta.unbox(boxed),
    )
    return stack, params, boxed


def test_gather_is_indexing_forward_and_backward():
    rng = np.random.default_rng(2)
    table = jnp.asarray(rng.normal(size=(2, 5, 3)), jnp.float32)
    ids = jnp.asarray(rng.integers(0, 5, (2, 11)), jnp.int32)
    weight = jnp.asarray(rng.normal(size=(2, 11, 3)), jnp.float32)

    def indexed(table):
        return jnp.take_along_axis(table, ids[..., None], axis=1)

    np.testing.assert_array_equal(transformer.gather(table, ids), indexed(table))
    actual = jax.grad(lambda t: jnp.sum(weight * transformer.gather(t, ids)))(table)
    expected = jax.grad(lambda t: jnp.sum(weight * indexed(t)))(table)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_nothing_of_tokens_by_width_is_kept_for_the_modulation():
    """Kept for the backward pass: the arguments, which exist anyway, and no gather."""
    x = jnp.ones((1, 64, 8))
    table, ids = jnp.ones((1, 4, 8)), jnp.zeros((1, 64), jnp.int32)

    def saved_shapes(f, *args):
        _, backward = jax.vjp(f, *args)
        return [leaf.shape for leaf in jax.tree.leaves(backward)]

    shapes = saved_shapes(
        lambda x, t: transformer.modulate(x, t, scale=t, level_ids=ids), x, table
    )
    assert shapes.count(x.shape) == 1
    shapes = saved_shapes(
        lambda x, y, t: transformer.gated_add(x, y, gate=t, level_ids=ids), x, x, table
    )
    assert shapes.count(x.shape) <= 2


def test_scan_equals_one_block_after_another(inputs):
    x, rest, plans = inputs
    stack, params, _ = stack_and_params(inputs, 3)
    block = transformer.Block(heads=2, mlp=24)

    @jax.jit
    def unrolled(params, x):
        for layer in range(3):
            own = jax.tree.map(lambda p, i=layer: p[i], params["blocks"])
            x, _ = block.apply(
                {"params": own},
                x,
                rest["modulation"],
                rest["level_ids"],
                rest["angles"],
                rest["text"],
                Plans(*plans),
                None,
            )
        return x

    scanned: Any = stack.apply({"params": params}, x, **rest, plans=Plans(*plans))
    np.testing.assert_allclose(scanned, unrolled(params, x), rtol=1e-4, atol=1e-4)


def test_a_row_goes_around_the_blocks_that_it_does_not_keep(inputs):
    x, rest, plans = inputs
    _, params, _ = stack_and_params(inputs, 3)

    def run(params, depth, **kept):
        stack = transformer.Stack(depth=depth, heads=2, mlp=24)
        words = {**rest, "plans": Plans(*plans), **kept}
        return jax.jit(lambda p: stack.apply({"params": p}, x, **words))(params)

    whole = run(params, 3)
    fewer = run(jax.tree.map(lambda p: p[jnp.array([0, 2])], params), 2)
    kept = np.ones((len(x), 3), bool)
    np.testing.assert_allclose(run(params, 3, kept=jnp.asarray(kept)), whole, atol=1e-5)
    kept[0, 1] = False
    found = run(params, 3, kept=jnp.asarray(kept))
    np.testing.assert_allclose(found[0], fewer[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[1:], whole[1:], rtol=1e-4, atol=1e-4)
    assert np.abs(whole[0] - fewer[0]).max() > 1e-2


def test_layers_axis_leads_every_parameter(inputs):
    _, _, boxed = stack_and_params(inputs, 3)
    leaves = jax.tree.leaves(boxed, is_leaf=lambda b: isinstance(b, meta.AxisMetadata))
    assert {leaf.names[0] for leaf in leaves} == {"layers"}
    assert {leaf.value.shape[0] for leaf in leaves} == {3}


def test_fresh_block_is_the_identity(inputs):
    x, rest, plans = inputs
    stack = transformer.Stack(depth=2, heads=2, mlp=24)
    rest = {**rest, "modulation": jnp.zeros_like(rest["modulation"])}
    variables = stack.init(jax.random.key(0), x, **rest, plans=Plans(*plans))
    y = stack.apply(meta.unbox(variables), x, **rest, plans=Plans(*plans))
    np.testing.assert_array_equal(x, y)


def test_unknown_remat_policy_is_refused():
    with pytest.raises(ValueError, match="unknown remat policy 'half'; known: none"):
        transformer.remat(transformer.Block, "half")


def test_with_locality_near_tokens_agree_before_anything_is_learned():
    positions = jnp.broadcast_to(jnp.arange(6.0)[None, :, None], (1, 6, 3))
    angles = rope.rope_angles(positions, 24, theta=10.0)
    ids = jnp.ones((1, 6), jnp.int32)
    layer = transformer.Attention(heads=2, qk_bias_init=2.0)
    x = jnp.zeros((1, 6, 48))
    plan = attention.make_plan(ids, ids)
    variables = layer.init(jax.random.key(0), x, x, plan=plan, angles=angles)
    params = meta.unbox(variables["params"])
    for name in ("q", "k"):
        np.testing.assert_array_equal(params[name]["bias"], [0.0] * 24 + [2.0] * 24)
    bias = jnp.broadcast_to(params["q"]["bias"].reshape(2, 24), (1, 6, 2, 24))
    rotated = rope.apply_rope(bias, angles)
    scores = jnp.einsum("bnhk,bmhk->hnm", rotated, rotated)
    np.testing.assert_array_equal(scores[0], 0.0)
    assert np.all(np.diff(scores[1, 0, :4]) < 0)
    assert np.all(np.argmax(scores[1], axis=-1) == np.arange(6))
