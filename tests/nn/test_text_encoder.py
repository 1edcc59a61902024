"""Packed captions are encoded as alone; the buckets against T5's rule."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from soraflax import flops
from soraflax.nn import text_encoder

TINY = text_encoder.VARIANTS["tiny"]


@pytest.fixture(scope="module")
def apply():
    encoder = text_encoder.TextEncoder(TINY)
    ids = jnp.ones((3, 12), jnp.int32)
    boxed = jax.eval_shape(encoder.init, jax.random.key(0), ids, ids)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: (0.5 * rng.normal(size=p.shape)).astype(np.float32), meta.unbox(boxed)
    )
    jitted = jax.jit(
        encoder.apply, compiler_options={"xla_backend_optimization_level": 0}
    )
    return lambda ids, segments: np.asarray(
        jitted(params, np.asarray(ids, np.int32), np.asarray(segments, np.int32))
    )


def test_packed_captions_equal_captions_alone(apply):
    a, b = [5, 6, 7, 8, 1], [9, 10, 1]
    rows = [a + b + [0] * 4, a + [0] * 7, b + [0] * 9]
    segments = [[1] * 5 + [2] * 3 + [0] * 4, [1] * 5 + [0] * 7, [1] * 3 + [0] * 9]
    both, first, second = apply(rows, segments)
    np.testing.assert_allclose(both[:5], first[:5], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(both[5:8], second[:3], rtol=1e-4, atol=1e-5)
    assert not np.any(both[8:]) and not np.any(first[5:]) and not np.any(second[3:])


def test_captions_do_not_leak_and_padding_is_irrelevant(apply):
    rng = np.random.default_rng(1)
    ids = rng.integers(1, 1024, (3, 12))
    segments = np.array([[1] * 4 + [2] * 5 + [0] * 3] * 3)
    changed = np.where(segments == 2, ids % 1000 + 1, ids)
    dirty = np.where(segments == 0, 5000, changed)
    before, after, padded = (apply(x, segments) for x in (ids, changed, dirty))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert np.all(np.any(before[:, 4:9] != after[:, 4:9], axis=-1))
    np.testing.assert_array_equal(after, padded)


def test_word_order_matters(apply):
    segments = [[1] * 4 + [0] * 8] * 3
    row = [5, 6, 7, 1] + [0] * 8
    swapped = [6, 5, 7, 1] + [0] * 8
    before, after, _ = apply([row, swapped, row], segments)
    assert np.abs(before[3] - after[3]).max() > 1e-3


def t5_bucket(offset, buckets, max_distance):
    """T5's rule for one key minus query offset, in plain Python."""
    side = buckets // 2
    base, distance = (side if offset > 0 else 0), abs(offset)
    near = side // 2
    if distance < near:
        return base + distance
    ratio = math.log(distance / near) / math.log(max_distance / near)
    return base + min(near + int(ratio * (side - near)), side - 1)


def test_relative_buckets_follow_t5():
    line = text_encoder.relative_buckets(200, buckets=32, max_distance=128)
    # Powers of two sit on a rounding edge of the logarithm; 16, 32, 64 are exact in it.
    for i, j in [(0, 0), (3, 1), (1, 3), (20, 0), (0, 21), (0, 50), (150, 3), (0, 199)]:
        assert line[j - i + 199] == t5_bucket(j - i, 32, 128), (i, j)
    assert line.min() == 0 and line.max() == 31 and len(line) == 399


def test_every_layer_has_its_own_bias():
    encoder = text_encoder.TextEncoder(TINY)
    ids = jnp.ones((1, 4), jnp.int32)
    params = jax.eval_shape(encoder.init, jax.random.key(0), ids, ids)["params"]
    bias = params["layers"]["attention"]["relative_bias"]
    assert bias.value.shape == (TINY.depth, TINY.buckets, TINY.heads)
    assert bias.names == ("layers", None, "heads")


def test_t5_shares_one_bias():
    config = dataclasses.replace(TINY, shared_bias=True)
    encoder = text_encoder.TextEncoder(config)
    ids = jnp.ones((1, 4), jnp.int32)
    params = jax.eval_shape(encoder.init, jax.random.key(0), ids, ids)["params"]
    assert params["relative_bias"].value.shape == (TINY.buckets, TINY.heads)
    assert "relative_bias" not in params["layers"]["attention"]
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == flops.text_encoder_parameters(config)


def test_umt5_xxl_has_its_published_size():
    encoder = text_encoder.TextEncoder(text_encoder.VARIANTS["umt5_xxl"])
    ids = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), ids, ids)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    # Embedding, 24 layers (four projections, gated MLP, bias, two norms), last norm.
    layer = 4 * 4096**2 + 3 * 4096 * 10240 + 32 * 64 + 2 * 4096
    assert count == 256384 * 4096 + 24 * layer + 4096 == 5_680_910_336


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"buckets": 30}, "30 relative position buckets .* nearest legal number: 32"),
        ({"max_distance": 8}, "max_distance 8 is within the 8 .* at least 9"),
        ({"remat": "some"}, "unknown remat policy 'some'"),
    ],
)
def test_impossible_sizes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)
