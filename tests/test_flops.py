"""Closed forms against the models' own parameters and XLA's count of their FLOPs."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax import flops
from soraflax.nn import autoencoder, dit
from soraflax.ops import packing

TINY = dit.VARIANTS["tiny"]


def rows(config: dit.DiTConfig, *, tokens: int, text: int) -> packing.Packed:
    """One row that one segment fills."""
    empty = packing.Packed.zeros(
        packing.RowShape(tokens, text, segments=1),
        patch_size=config.patch_size,
        text_width=None if config.text else config.text_width,
    )
    return empty.replace(
        segments=jnp.ones((1, tokens), jnp.int32),
        levels=jnp.zeros((1, 2)),  # two entries a segment, none for padding
        level_ids=jnp.ones((1, tokens), jnp.int32),
        text_segments=jnp.ones((1, text), jnp.int32),
    )


def count(tree) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", ["tiny", "small", "base", "wan2_1_t2v_1_3b"])
def test_transformer_parameters(name):
    config = dit.VARIANTS[name]
    packed = rows(config, tokens=8, text=4)
    params = jax.eval_shape(dit.DiT(config).init, jax.random.key(0), packed)
    assert flops.transformer_parameters(config) == count(params)


@pytest.mark.parametrize("name", ["tiny", "small", "wan2_1", "wan2_2"])
def test_autoencoder_parameters(name):
    config = autoencoder.VARIANTS[name]
    r, s = config.temporal_ratio, config.spatial_ratio
    video = jnp.zeros((1, 1 + r, s, s, 3))
    params = jax.eval_shape(
        autoencoder.Autoencoder(config).init, jax.random.key(0), video
    )
    assert flops.autoencoder_parameters(config) == count(params)


def xla_flops(f, *args) -> float:
    cost: Any = jax.jit(f).lower(*args).cost_analysis()
    return cost["flops"]


def test_transformer_flops_are_those_that_xla_counts():
    """One block (a scan of one runs once), wide enough that products dominate."""
    config = dataclasses.replace(
        TINY,
        width=256,
        depth=1,
        mlp=1024,
        text=None,
        text_width=128,
        attention="reference",
        frequency_width=64,
    )
    packed = rows(config, tokens=128, text=64)
    model = dit.DiT(config)
    params = jax.eval_shape(model.init, jax.random.key(0), packed)
    counted = xla_flops(model.apply, params, packed)
    sizes = flops.lengths(np.asarray(packed.segments), np.asarray(packed.text_segments))
    expected = flops.transformer_flops(config, sizes)
    assert expected == pytest.approx(counted, rel=0.05)
    assert expected < counted


def test_autoencoder_flops_are_those_that_xla_counts():
    config = dataclasses.replace(
        autoencoder.VARIANTS["tiny"], width=64, convolution="reference"
    )
    video = jax.ShapeDtypeStruct((1, 129, 256, 256, 3), jnp.float32)
    model = autoencoder.Autoencoder(config)
    params = jax.eval_shape(model.init, jax.random.key(0), video)
    counted = xla_flops(model.apply, params, video)
    expected = flops.autoencoder_flops(config, video=(129, 256, 256))
    assert expected == pytest.approx(counted, rel=0.1)


def test_attention_is_the_sum_of_squared_lengths():
    one = flops.Lengths([100], [10])
    two = flops.Lengths([50, 50], [5, 5])
    saved = flops.transformer_flops(TINY, one) - flops.transformer_flops(TINY, two)
    d, text = TINY.width, TINY.text
    assert text is not None
    pairs = TINY.depth * 4 * d * (100**2 - 2 * 50**2 + 100 * 10 - 2 * 50 * 5)
    inner = text.heads * text.head_size
    pairs += text.depth * 4 * inner * (10**2 - 2 * 5**2)
    levels = 4 * d * (TINY.frequency_width + 7 * d)
    assert saved == pairs - levels
    assert flops.training(7) == 21


def test_lengths_of_packed_rows():
    segments = np.array([[1, 1, 2, 0], [0, 0, 0, 0], [1, 3, 3, 3]])
    text = np.array([[1, 2, 2], [0, 0, 0], [1, 1, 3]])
    sizes = flops.lengths(segments, text)
    assert sizes == flops.Lengths([2, 1, 1, 3], [1, 2, 2, 1])
    assert (sizes.self_pairs, sizes.cross_pairs, sizes.text_pairs) == (15, 9, 10)
    with pytest.raises(ValueError, match="2 segments have tokens, 1 have text"):
        flops.Lengths([1, 2], [1])


def kept_bytes(config: dit.DiTConfig, packed: packing.Packed) -> int:
    """Bytes that the gradient with respect to the parameters holds on to."""
    model = dit.DiT(config)
    params = jax.eval_shape(model.init, jax.random.key(0), packed)
    plans = jax.eval_shape(lambda p: dit.make_plans(p, config), packed)

    def backward(params, packed, plans):
        return jax.vjp(lambda p: model.apply(p, packed, plans=plans), params)[1]

    leaves = jax.tree.leaves(jax.eval_shape(backward, params, packed, plans))
    own = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))
    return sum(x.size * x.dtype.itemsize for x in leaves) - own


@pytest.mark.parametrize("remat", ["none", "full", "attention", "dots"])
def test_activation_bytes_are_about_what_is_kept(remat):
    config = dataclasses.replace(
        TINY, width=64, mlp=256, depth=12, text=None, remat=remat, attention="blocks"
    )
    packed = rows(config, tokens=512, text=32)
    expected = flops.transformer_activation_bytes(config, tokens=512, text=32)
    assert expected == pytest.approx(kept_bytes(config, packed), rel=0.25)


def test_autoencoder_activation_bytes_are_about_what_is_kept():
    config = dataclasses.replace(
        autoencoder.VARIANTS["tiny"], width=64, convolution="reference"
    )
    video = jnp.zeros((1, 9, 32, 32, 3))
    model = autoencoder.Autoencoder(config)
    params = jax.eval_shape(model.init, jax.random.key(0), video)

    def decoded(params, video):
        output: Any = model.apply(params, video)
        return output.video

    kept = jax.eval_shape(
        lambda p, v: jax.vjp(lambda p: decoded(p, v), p)[1], params, video
    )
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kept))
    size -= sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))
    expected = flops.autoencoder_activation_bytes(config, video=(9, 32, 32))
    assert expected == pytest.approx(size, rel=0.35)


def test_an_unknown_remat_policy_is_refused():
    class Sizes:
        width, mlp, heads, depth, dtype, remat = 8, 8, 1, 1, "float32", "some"

    with pytest.raises(
        ValueError, match="'some' has no formula; those that have: full"
    ):
        flops.transformer_activation_bytes(Sizes(), tokens=1, text=1)  # pyright: ignore
