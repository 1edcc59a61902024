"""Published text encoders: what transformers computed, strictness, the way back."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from soraflax import tokenizer
from soraflax.nn import text_encoder
from soraflax.pretrained import abstract, text_encoders
from soraflax.pretrained import io as model_io
from soraflax.weights import tensor_map, umt5
from tests.golden import text_encoder as judge

TOLERANCE = 1e-4
QUICK = {"xla_backend_optimization_level": 0}
WORDS = tokenizer.Tokenizer.embedded()


def tensors_of(kind, sizes=judge.SIZES):
    config = umt5.parse_config(sizes | {"model_type": kind})
    shapes = model_io.flat_shapes(abstract.text_encoder_shapes(config))
    like = tensor_map.expected(umt5.entries(config), shapes)
    return judge.tensors({name: a.shape for name, a in like.items()})


def save(folder, kind, tensors, **changes):
    folder.mkdir(parents=True)
    values = judge.SIZES | {"model_type": kind} | changes
    (folder / "config.json").write_text(json.dumps(values))
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module", params=judge.KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def theirs(kind, tmp_path_factory):
    return save(tmp_path_factory.mktemp("theirs") / "it", kind, tensors_of(kind))


def test_equals_what_transformers_computed(kind, theirs):
    """All captions in one row, and each in a row of its own."""
    config, params = umt5.load_text_encoder(theirs)
    total, rows = sum(judge.LENGTHS), 1 + len(judge.LENGTHS)
    ids, segments = np.zeros((2, rows, total), np.int32)
    start = 0
    for row, length in enumerate(judge.LENGTHS, start=1):
        ids[0, start : start + length] = ids[row, :length] = judge.caption(length)
        segments[0, start : start + length] = segments[row, :length] = row
        start += length
    module = text_encoder.TextEncoder(config)
    apply = jax.jit(module.apply, compiler_options=QUICK)
    found = np.asarray(apply({"params": params}, ids, segments))
    with np.load(judge.GOLDEN) as golden:
        for number, length in enumerate(judge.LENGTHS, start=1):
            wanted = golden[judge.key(kind, length)]
            for features in (found[0][segments[0] == number], found[number, :length]):
                error = np.abs(features - wanted).max() / np.abs(wanted).max()
                assert error <= TOLERANCE
    assert not found[segments == 0].any()


def test_the_way_back_gives_their_tensors(kind, theirs, tmp_path):
    config, params = umt5.load_text_encoder(theirs)
    umt5.save_text_encoder(tmp_path, params, config=config, max_shard_bytes=10_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    again, same = umt5.load_text_encoder(tmp_path)
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, same, params)
    next(tmp_path.glob("model-00002-*")).unlink()
    with pytest.raises(FileNotFoundError, match="missing, though the index names it"):
        umt5.load_text_encoder(tmp_path)


def test_both_names_of_the_embedding_are_read(tmp_path):
    tensors = tensors_of("umt5")
    both = tensors | {umt5.TIED: tensors[umt5.EMBEDDING].copy()}
    only = {k: t for k, t in both.items() if k != umt5.EMBEDDING}
    for name, held in (("both", both), ("only", only)):
        _, params = umt5.load_text_encoder(save(tmp_path / name, "umt5", held))
        np.testing.assert_array_equal(
            params["embedding"]["table"], tensors[umt5.EMBEDDING]
        )
    both[umt5.TIED][3] += 1
    with pytest.raises(model_io.ModelError, match="differ; the encoder has one"):
        umt5.load_text_encoder(save(tmp_path / "two", "umt5", both))


SECOND = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("umt5", {SECOND: None}, f"{SECOND} is missing"),
        ("t5", {SECOND: np.zeros((32, 4), np.float32)}, f"{SECOND} is unknown"),
        ("t5", {"decoder.x": np.zeros(3, np.float32)}, "decoder.x is unknown"),
        ("t5", {umt5.EMBEDDING: np.zeros((5, 24), np.float32)}, "has shape"),
        ("t5", {umt5.EMBEDDING: np.full((64, 24), np.nan, "f")}, "not finite"),
    ],
)
def test_other_tensors_are_refused_by_name(kind, change, message, tmp_path):
    tensors = {k: t for k, t in (tensors_of(kind) | change).items() if t is not None}
    with pytest.raises(model_io.ModelError, match=message):
        umt5.load_text_encoder(save(tmp_path / "it", kind, tensors))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "bert"}, "model_type is 'bert', not t5 or umt5"),
        ({"feed_forward_proj": "relu"}, "feed_forward_proj is 'relu', not 'gated-"),
        ({"d_ff": None}, "d_ff is None, not a size"),
        ({"num_heads": True}, "num_heads is True, not a size"),
        ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon is 1e-05, not 1e-06"),
        ({"relative_attention_num_buckets": 30}, "30 relative position buckets"),
    ],
)
def test_other_forms_are_refused_by_name(values, message):
    with pytest.raises(model_io.ModelError, match=message):
        umt5.parse_config(judge.SIZES | {"model_type": "umt5"} | values)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_converted_with_its_vocabulary(dtype, tmp_path):
    sizes = judge.SIZES | {"vocab_size": WORDS.vocab_size + 100}
    tensors = {k: t.astype(dtype) for k, t in tensors_of("umt5", sizes).items()}
    folder = save(tmp_path / "theirs", "umt5", tensors, vocab_size=sizes["vocab_size"])
    arguments = {"out": tmp_path / "ours", "cleaned": True, "family": "wan2.1"}
    with pytest.raises(tokenizer.TokenizerError, match=r"spiece\.model: no such file"):
        umt5.convert(folder, tmp_path, **arguments)
    WORDS.save(tmp_path / "spiece.model")
    digest = umt5.convert(folder, tmp_path, **arguments)
    model = text_encoders.load_text_encoder(tmp_path / "ours")
    assert model.digest == digest and model.tokenizer.cleaned
    assert model.tokenizer.model == WORDS.model and model.config.width == 24
    np.testing.assert_array_equal(
        model.params["embedding"]["table"], tensors[umt5.EMBEDDING].astype("f")
    )
    stored = (tmp_path / "ours" / model_io.PARAMS).stat().st_size
    whole = sum(t.size for t in tensors.values()) * np.dtype(dtype).itemsize
    assert whole <= stored < 1.2 * whole + 5000


def test_a_vocabulary_that_does_not_fit_is_refused(tmp_path):
    folder = save(tmp_path / "theirs", "umt5", tensors_of("umt5"))
    WORDS.save(tmp_path / "spiece.model")
    arguments = {"out": tmp_path / "ours", "cleaned": True, "family": "wan2.1"}
    with pytest.raises(model_io.ModelError, match="1024 pieces for embeddings of 64"):
        umt5.convert(folder, tmp_path, **arguments)
    assert not (tmp_path / "ours").exists()
