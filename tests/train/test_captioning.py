"""The captioner's loss is the mean over words, and falls when it is followed."""

import functools

import jax
import numpy as np
import pytest

from soraflax import sharding
from soraflax.nn import captioner
from soraflax.ops import packing
from soraflax.pretrained import captioners
from soraflax.train import captioning, prefetch

CONFIG = captioner.CaptionerConfig(
    latent_channels=4,
    vocabulary=20,
    width=16,
    heads=2,
    mlp=16,
    encoder_depth=1,
    decoder_depth=1,
)
MODULE = captioner.Captioner(CONFIG)
SHAPE = packing.RowShape(tokens=12, text=8, segments=2)


def segment(seed: int, words: list[int]) -> packing.Segment:
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(1, 4, 4, 4)).astype(np.float32)
    return packing.Segment.from_latent(
        latent, np.array(words, np.int32), patch=CONFIG.patch
    )


@functools.cache
def params():
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype(np.float32),
        captioners.shapes(CONFIG),
    )


@jax.jit
def loss(params, packed):
    return captioning.loss(params, packed, jax.random.key(0), module=MODULE)


def test_a_batch_weighs_every_word_alike():
    first, second = segment(0, [5, 6, 7, 1]), segment(1, [9, 1])
    value, scalars = loss(params(), packing.assemble([[first, second], []], SHAPE))
    alone = [
        loss(params(), packing.assemble([[one], []], SHAPE)) for one in (first, second)
    ]
    weights = [float(made["loss_weight"]) for _, made in alone]
    assert weights == [4, 2] and float(scalars["loss_weight"]) == 6
    expected = np.average([float(one) for one, _ in alone], weights=weights)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert float(scalars["segments"]) == 2 and float(scalars["useful_tokens"]) == 8


def test_following_the_gradient_learns_a_caption():
    packed = packing.assemble([[segment(0, [5, 6, 1]), segment(1, [7, 1])], []], SHAPE)
    grad = jax.jit(
        jax.grad(
            lambda p: captioning.loss(p, packed, jax.random.key(0), module=MODULE)[0]
        )
    )
    now = params()
    for _ in range(60):
        now = jax.tree.map(lambda p, g: p - 0.3 * g, now, grad(now))
    value, scalars = loss(now, packed)
    assert float(value) < 0.3 * float(loss(params(), packed)[0])
    assert float(scalars["token_accuracy"]) == 1.0
    validation = captioning.Validation(MODULE, [packed])
    assert validation(now)["validation/loss"] == pytest.approx(float(value), rel=1e-5)


def test_validation_divides_rows_over_the_mesh():
    """Batches are read at the first call, and each is put on the devices once."""
    rows = [[segment(n, [5 + n, 6, 1])] for n in range(4)]
    batches = [packing.assemble(rows[:2], SHAPE), packing.assemble(rows[2:], SHAPE)]
    mesh, placed, read = sharding.make_mesh(data=2, devices=jax.devices()[:2]), [], []

    def put(batch):
        placed.append(prefetch.put_batch(batch, mesh))
        return placed[-1]

    def lazily():
        for batch in batches:
            read.append(batch)
            yield batch

    validation = captioning.Validation(MODULE, lazily(), put=put)
    assert read == []
    over_mesh = validation(params())
    whole = captioning.Validation(MODULE, batches)(params())
    assert over_mesh == pytest.approx(whole, rel=1e-5)
    assert len(placed) == 2 and len(read) == 2
    shards = placed[0].tokens.addressable_shards
    assert [shard.data.shape[0] for shard in shards] == [1, 1]
    assert validation(params()) == over_mesh and len(read) == 2


def test_an_empty_split_is_refused():
    empty = packing.Packed.zeros(SHAPE, patch_size=CONFIG.patch_size, text_width=None)
    with pytest.raises(ValueError, match="no captions to validate on"):
        captioning.Validation(MODULE, [empty])(params())
    with pytest.raises(ValueError, match="no captions to validate on"):
        captioning.Validation(MODULE, [])(params())
