"""Adapters in diffusers' layout: their names, the way back, and what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from soraflax.nn import dit, lora
from soraflax.pretrained import abstract
from soraflax.pretrained import io as model_io
from soraflax.weights import wan
from soraflax.weights.wan import lora as wan_lora
from soraflax.weights.wan import transformer
from tests.golden import wan_transformer as judge

SIZES = transformer.parse_config(judge.SMALL["wan2.2"])
FORM = lora.LoraConfig(
    rank=3,
    alpha=5.0,
    targets=("stack/*_attention/*/kernel", "stack/*/mlp/*", "levels/*", "head/*"),
)


def drawn(form=FORM, *, sizes=SIZES):
    rng = np.random.default_rng(0)
    shapes = lora.shapes(abstract.transformer_shapes(sizes), form)
    return jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), shapes)


def test_names_and_shapes_are_diffusers(tmp_path):
    adapters, path = drawn(), tmp_path / "lora.safetensors"
    wan.save_lora(path, adapters, config=SIZES, lora_config=FORM)
    tensors = safetensors.numpy.load_file(path)
    name = "transformer.blocks.1.attn2.to_out.0.lora_{}.weight"
    assert tensors[name.format("A")].shape == (3, SIZES.width)
    assert tensors[name.format("B")].shape == (SIZES.width, 3)
    ours = adapters["stack"]["blocks"]["cross_attention"]["out"]
    np.testing.assert_array_equal(tensors[name.format("A")], ours[lora.A][1].T)
    assert len(tensors) == 2 * (SIZES.depth * 10 + 4)
    with safetensors.safe_open(path, "np") as source:
        facts = json.loads(source.metadata()[wan_lora.METADATA])
    assert facts["transformer.r"] == 3 and facts["transformer.lora_alpha"] == 5.0
    assert len(facts["transformer.target_modules"]) == SIZES.depth * 10 + 4


@pytest.mark.parametrize("prefix", ["transformer", "transformer_2"])
def test_what_is_written_is_read(tmp_path, prefix):
    adapters, path = drawn(), tmp_path / "lora.safetensors"
    wan.save_lora(path, adapters, config=SIZES, lora_config=FORM, prefix=prefix)
    form, again = wan.load_lora(path, SIZES, prefix=prefix)
    assert (form.rank, form.alpha) == (3, 5.0)
    shapes = abstract.transformer_shapes(SIZES)
    assert lora.targets(shapes, form) == lora.targets(shapes, FORM)
    assert model_io.digest(again) == model_io.digest(adapters)
    other = {"transformer": "transformer_2", "transformer_2": "transformer"}[prefix]
    with pytest.raises(model_io.ModelError, match=f"no adapters of {other}"):
        wan.load_lora(path, SIZES, prefix=other)


def test_without_metadata_alpha_is_the_rank(tmp_path):
    path = tmp_path / "lora.safetensors"
    wan.save_lora(path, drawn(), config=SIZES, lora_config=FORM)
    safetensors.numpy.save_file(safetensors.numpy.load_file(path), path)
    form, _ = wan.load_lora(path, SIZES)
    assert form.alpha == form.rank == 3


def _without(tensors):
    del tensors["transformer.blocks.1.attn1.to_q.lora_B.weight"]


def _extra(tensors):
    tensors["transformer.blocks.0.attn1.to_x.lora_B.weight"] = np.zeros((2, 2))


def _infinite(tensors):
    tensors["transformer.blocks.1.attn1.to_q.lora_B.weight"][0, 0] = np.inf


def _ranks(tensors):
    name = "transformer.blocks.1.attn1.to_q.lora_A.weight"
    tensors[name] = np.zeros((2, SIZES.width))


def _nothing(tensors):
    tensors.clear()
    tensors["transformer.blocks.0.other.lora_A.weight"] = np.zeros((2, 2))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without, r"blocks\.1\.attn1\.to_q\.lora_B\.weight is missing"),
        (_extra, r"blocks\.0\.attn1\.to_x\.lora_B\.weight is unknown"),
        (_infinite, r"blocks\.1\.attn1\.to_q\.lora_B\.weight is not finite"),
        (_ranks, r"ranks \[2, 3\]"),
        (_nothing, r"ranks \[2\] of 0 layers"),
    ],
)
def test_damaged_files_are_named(tmp_path, damage, message):
    path = tmp_path / "lora.safetensors"
    wan.save_lora(path, drawn(), config=SIZES, lora_config=FORM)
    tensors = safetensors.numpy.load_file(path)
    damage(tensors)
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(model_io.ModelError, match=message):
        wan.load_lora(path, SIZES)


def rewritten(path, facts, *, more=None):
    """A file of `FORM` whose metadata say `facts` too, or are another text."""
    wan.save_lora(path, drawn(), config=SIZES, lora_config=FORM)
    tensors = safetensors.numpy.load_file(path) | (more or {})
    with safetensors.safe_open(path, "np") as source:
        values = json.loads(source.metadata()[wan_lora.METADATA])
    text = facts if isinstance(facts, str) else json.dumps(values | facts)
    safetensors.numpy.save_file(tensors, path, {wan_lora.METADATA: text})
    return path


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"transformer.alpha_pattern": {"blocks.0": 9}}, "alpha_pattern is {'bl.*one"),
        ({"transformer.rank_pattern": {"blocks.0": 4}}, "rank_pattern is {'bl.*one"),
        ({"transformer.use_rslora": True}, "use_rslora is True, which is not"),
        ({"transformer.use_dora": True}, "use_dora is True, which is not"),
        ({"transformer.init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"transformer.invented": 1}, "invented is 1, which is not computed"),
        ({"transformer.r": 4}, "r is 4, but the tensors are of rank 3"),
        ({"transformer.lora_alpha": float("nan")}, "alpha nan: use a number above 0"),
        ({"transformer.lora_alpha": float("inf")}, "alpha inf: use a number above 0"),
        ({"transformer.lora_alpha": "x"}, "could not convert string"),
        ({"lora_alpha": 3}, "lora_alpha is of neither transformer nor transformer_2"),
        ("[]", "not a JSON object"),
        ("{", "not JSON"),
    ],
)
def test_metadata_of_other_adapters_are_refused(tmp_path, facts, message):
    path = rewritten(tmp_path / "lora.safetensors", facts)
    with pytest.raises(model_io.ModelError, match=message) as caught:
        wan.load_lora(path, SIZES)
    assert wan_lora.METADATA in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_metadata_without_effect_are_left(tmp_path):
    facts = {
        "lora_dropout": 0.1,
        "peft_type": "LORA",
        "init_lora_weights": True,
        "bias": "none",
        "use_rslora": False,
        "loftq_config": {},
        "alpha_pattern": {"blocks.0": FORM.alpha},
    }
    facts = {f"transformer.{name}": value for name, value in facts.items()}
    facts |= {"transformer_2.use_dora": True}
    path = rewritten(tmp_path / "lora.safetensors", facts)
    form, adapters = wan.load_lora(path, SIZES)
    assert form.alpha == FORM.alpha
    assert model_io.digest(adapters) == model_io.digest(drawn())


@pytest.mark.parametrize("name", ["text_encoder.q.lora_A.weight", "blocks.0.x"])
def test_tensors_under_other_prefixes_are_refused(tmp_path, name):
    more = {name: np.zeros((2, 2), np.float32)}
    path = rewritten(tmp_path / "lora.safetensors", {}, more=more)
    with pytest.raises(model_io.ModelError, match=f"{name} is of neither"):
        wan.load_lora(path, SIZES)


def test_what_has_no_place_in_the_file_is_refused(tmp_path):
    path = tmp_path / "lora.safetensors"
    form = dataclasses.replace(FORM, targets=("patch_embedding/kernel",))
    with pytest.raises(model_io.ModelError, match="is a convolution there"):
        wan.save_lora(path, drawn(form), config=SIZES, lora_config=form)
    tiny = dit.VARIANTS["tiny"]
    with pytest.raises(model_io.ModelError, match="not a transformer of Wan's form"):
        wan.save_lora(path, {}, config=tiny, lora_config=FORM)
    with pytest.raises(model_io.ModelError, match="is missing"):
        wan.save_lora(path, {}, config=SIZES, lora_config=FORM)
    with pytest.raises(FileNotFoundError):
        wan.load_lora(path, SIZES)
    path.write_bytes(b"no")
    with pytest.raises(model_io.ModelError, match="not a readable safetensors"):
        wan.load_lora(path, SIZES)
