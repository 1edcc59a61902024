"""Our text encoder against transformers', through its files, both ways."""

import jax
import numpy as np
import pytest
import torch
import transformers

from soraflax.nn import text_encoder
from soraflax.pretrained import abstract
from soraflax.pretrained import io as model_io
from soraflax.weights import tensor_map, umt5
from tests.golden import text_encoder as judge

TOLERANCE = 1e-4
SIZES = {
    "small": judge.SIZES,
    # Other buckets, and heads that are no part of the width.
    "wide": judge.SIZES
    | {
        "vocab_size": 500,
        "d_model": 96,
        "d_kv": 40,
        "num_layers": 6,
        "relative_attention_num_buckets": 16,
        "relative_attention_max_distance": 50,
    },
}
LENGTHS = (*judge.LENGTHS, 64, 200)
FULL = {
    "umt5_xxl": ("umt5", 256384),
    "t5_v1_1_xxl": ("t5", 32128),
}


@pytest.fixture(
    scope="module", params=[(k, n) for k in judge.KINDS for n in SIZES], ids=str
)
def pair(request, tmp_path_factory):
    """An encoder of transformers, and ours, through its files."""
    kind, name = request.param
    theirs = judge.make(kind, SIZES[name])
    folder = tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(folder, max_shard_size="30KB")
    config, params = umt5.load_text_encoder(folder)
    apply = jax.jit(text_encoder.TextEncoder(config).apply)
    return theirs, config, params, apply


def relative(found, expected):
    error = np.abs(found - expected).max() / np.abs(expected).max()
    return max(error, np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_alone_and_packed_equal_theirs(pair):
    theirs, config, params, apply = pair
    expected = judge.run(theirs, LENGTHS)
    captions = [judge.caption(n, config.vocabulary) for n in LENGTHS]
    ids = np.concatenate(captions)[None]
    segments = np.repeat(np.arange(1, len(LENGTHS) + 1), LENGTHS)[None]
    packed = apply({"params": params}, ids, segments.astype(np.int32))
    places = np.split(np.arange(ids.shape[1]), np.cumsum(LENGTHS)[:-1])
    for caption, place, wanted in zip(captions, places, expected, strict=True):
        assert relative(packed[0, place], wanted) <= TOLERANCE
        ones = np.ones((1, len(caption)), np.int32)
        alone = apply({"params": params}, caption[None], ones)
        assert relative(alone[0], wanted) <= TOLERANCE


def test_gradients_equal_theirs(pair):
    theirs, config, params, _ = pair
    lengths = (7, 150)
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((n, config.width), np.float32) for n in lengths]
    captions = [judge.caption(n, config.vocabulary) for n in lengths]
    segments = np.repeat([1, 2], lengths).astype(np.int32)[None]

    def total(params):
        module = text_encoder.TextEncoder(config)
        out = module.apply({"params": params}, np.concatenate(captions)[None], segments)
        return (out[0] * np.concatenate(weights)).sum()

    leaves = model_io.flat_shapes(jax.jit(jax.grad(total))(params))
    theirs.zero_grad()
    for ids, weight in zip(captions, weights, strict=True):
        out = theirs(torch.from_numpy(ids.astype(np.int64))[None]).last_hidden_state[0]
        (out * torch.from_numpy(weight)).sum().backward()
    grads = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    for entry in umt5.entries(config):
        for name, make in entry.write(leaves[entry.ours]):
            error = np.linalg.norm(make() - grads[name])
            assert error <= 1e-3 * np.linalg.norm(grads[name]), name


@pytest.mark.parametrize("most", [30_000, 10**9])
def test_transformers_reads_ours(pair, tmp_path, most):
    theirs, config, params, _ = pair
    umt5.save_text_encoder(tmp_path, params, config=config, max_shard_bytes=most)
    again = type(theirs).from_pretrained(tmp_path)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_every_distance_has_their_bucket():
    for buckets, most in ((32, 128), (16, 50), (64, 300)):
        config = transformers.UMT5Config(
            relative_attention_num_buckets=buckets,
            relative_attention_max_distance=most,
        )
        theirs = transformers.models.umt5.modeling_umt5.UMT5Attention(config, True)
        offsets = np.arange(-699, 700)
        expected = theirs._relative_position_bucket(torch.from_numpy(offsets))
        found = text_encoder.relative_buckets(700, buckets=buckets, max_distance=most)
        np.testing.assert_array_equal(found, expected.numpy())


@pytest.mark.parametrize("name", sorted(FULL))
def test_full_size(name):
    """Names, shapes and count of every tensor, without memory for them."""
    kind, vocabulary = FULL[name]
    sizes = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_heads": 64}
    sizes |= {"num_layers": 24, "vocab_size": vocabulary}
    sizes |= {"feed_forward_proj": "gated-gelu"}
    with torch.device("meta"):
        if kind == "t5":
            theirs = transformers.T5EncoderModel(transformers.T5Config(**sizes))
        else:
            theirs = transformers.UMT5EncoderModel(transformers.UMT5Config(**sizes))
    variant = text_encoder.VARIANTS[name]
    assert umt5.parse_config(theirs.config.to_dict()) == variant
    shapes = model_io.flat_shapes(abstract.text_encoder_shapes(variant))
    like = tensor_map.expected(umt5.entries(variant), shapes)
    state = {k: tuple(t.shape) for k, t in theirs.state_dict().items()}
    state.pop(umt5.TIED)
    assert state == {k: a.shape for k, a in like.items()}
