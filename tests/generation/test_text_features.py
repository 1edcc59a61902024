"""Captions to features: in their order, as alone, on one device and on several."""

import jax
import numpy as np
import pytest
from flax.core import meta

from soraflax import sharding, tokenizer
from soraflax.generation import text_features
from soraflax.nn import text_encoder
from soraflax.pretrained import text_encoders

WORDS = tokenizer.Tokenizer.embedded()
TINY = text_encoder.VARIANTS["tiny"]
LONG = "a very large red ball and a small blue box that go round and round " * 12
TEXTS = ["a red ball", "", LONG, "two boxes", "a red ball", LONG[:90]]


@pytest.fixture(scope="module")
def model():
    module = text_encoder.TextEncoder(TINY)
    ids = np.ones((1, 4), np.int32)
    boxed = jax.eval_shape(module.init, jax.random.key(0), ids, ids)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: (0.5 * rng.normal(size=p.shape)).astype(np.float32), meta.unbox(boxed)
    )
    return text_encoders.TextEncoderModel(TINY, params, WORDS, "digest")


@pytest.fixture(scope="module")
def encoder(model):
    return text_features.FeatureEncoder(model)


@pytest.fixture(scope="module")
def together(encoder):
    return encoder.encode(TEXTS, max_length=1000)


def test_features_are_those_of_captions_alone(model, together):
    encoded = [WORDS.encode(text) for text in TEXTS]
    ids, rows = np.zeros((2, len(TEXTS), max(map(len, encoded))), np.int32)
    for row, caption in enumerate(encoded):
        ids[row, : len(caption)], rows[row, : len(caption)] = caption, 1
    module = text_encoder.TextEncoder(TINY)
    expected = jax.jit(module.apply)({"params": model.params}, ids, rows)
    for row, features in enumerate(together):
        assert features.shape == (len(encoded[row]), TINY.width)
        assert features.dtype == np.float32
        wanted = expected[row, : len(features)]
        np.testing.assert_allclose(features, wanted, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(together[0], together[4], rtol=1e-3, atol=1e-4)


def test_devices_share_rows_and_parameters(model, together):
    mesh = sharding.make_mesh(fsdp=4, tensor=2)
    split = text_features.FeatureEncoder(model, mesh=mesh)
    for features, expected in zip(
        split.encode(TEXTS, max_length=1000), together, strict=True
    ):
        np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-4)


def test_enormous_captions_are_refused_or_cut(encoder, together):
    with pytest.raises(tokenizer.TokenizerError, match="at most 512 fit"):
        encoder.encode([LONG * 3])
    whole, cut = encoder.encode(["a red ball", LONG], max_length=100, cut=True)
    assert cut.shape == (100, TINY.width)
    np.testing.assert_allclose(whole, together[0], rtol=1e-4, atol=1e-5)


def test_nothing_in_nothing_out(encoder):
    assert encoder.encode([]) == []


@pytest.mark.parametrize("shards", [1, 4])
def test_rows_hold_every_caption_once(shards):
    rng = np.random.default_rng(0)
    lengths = [*rng.integers(1, 300, 200).tolist(), 700, 513, 512]
    seen = []
    for length, rows in text_features._batches(lengths, shards, width=64):
        assert len(rows) % shards == 0
        assert len(rows) * length <= max(1024, shards * length)
        assert len(rows) // shards & (len(rows) // shards - 1) == 0
        for row in rows:
            taken = np.zeros(length, int)
            for caption, place in row:
                seen.append(caption)
                assert place.stop - place.start == lengths[caption]
                taken[place] += 1
            assert taken.max(initial=0) <= 1
    assert sorted(seen) == list(range(len(lengths)))


@pytest.mark.parametrize(
    ("lengths", "width", "expected"),
    [
        ([60] * 64, 64, 64),  # attention costs more than padding saves
        ([70] * 56, 4096, 512),  # seven to a row, where 128 tokens hold one
        ([500] * 3, 64, 512),
        ([600, 20], 64, 1024),
    ],
)
def test_rows_are_as_long_as_is_cheapest(lengths, width, expected):
    first, _ = next(iter(text_features._batches(lengths, 1, width=width)))
    assert first == expected


def test_the_dtype_is_one_of_two(model):
    with pytest.raises(ValueError, match="dtype 'float16': use 'float32' or"):
        text_features.FeatureEncoder(model, dtype="float16")


def test_bfloat16_is_near(model, together):
    half = text_features.FeatureEncoder(model, dtype="bfloat16")
    for features, expected in zip(
        half.encode(TEXTS, max_length=1000), together, strict=True
    ):
        error = np.linalg.norm(features - expected) / np.linalg.norm(expected)
        assert 0 < error < 0.05
