"""Wan's autoencoders: what diffusers computed, strictness, and the way back."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from soraflax.nn import autoencoder
from soraflax.pretrained import abstract, models
from soraflax.pretrained import io as model_io
from soraflax.weights import wan
from soraflax.weights.wan import autoencoder as wan_autoencoder
from tests.golden import wan_autoencoder as judge

TENSORS = "diffusion_pytorch_model.safetensors"


def _weights(family):
    """Sizes, and tensors under diffusers' names, at reduced width."""
    config, _ = wan_autoencoder.parse_config(judge.config(judge.SMALL[family]))
    shapes = model_io.flat_shapes(abstract.autoencoder_shapes(config))
    named = {
        entry.theirs: entry.form.write(np.zeros(shapes[entry.ours].shape)).shape
        for entry in wan_autoencoder.autoencoder_entries(config)
    }
    return config, judge.tensors(named)


def _save(folder, family, tensors, **changes):
    folder.mkdir(parents=True)
    values = judge.config(judge.SMALL[family]) | changes
    (folder / "config.json").write_text(json.dumps(values))
    safetensors.numpy.save_file(tensors, folder / TENSORS)
    return folder


@pytest.mark.parametrize("family", wan.FAMILIES)
@pytest.mark.parametrize("at", range(len(judge.CASES)))
def test_equals_what_diffusers_computed(family, at):
    config, tensors = _weights(family)
    params = wan_autoencoder.autoencoder_from_tensors(tensors, config)
    pixels = judge.video(judge.CASES[at], config.spatial_ratio)
    module = autoencoder.Autoencoder(config)
    result = jax.jit(module.apply)({"params": params}, pixels)
    video = jnp.clip(result.video, -1, 1)[:, :, ::4, ::4]
    with np.load(judge.GOLDEN) as golden:
        for name, found in (("mean", result.mean), ("video", video)):
            expected = golden[f"{family}/{at}/{name}"]
            error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
            assert found.shape == expected.shape and error <= 1e-4


@pytest.mark.parametrize("family", wan.FAMILIES)
def test_files_become_ours_and_theirs_again(tmp_path, family):
    config, tensors = _weights(family)
    theirs = _save(tmp_path / "theirs" / "vae", family, tensors)
    converted: Any = wan.convert(theirs, tmp_path / "ours", family=family)
    loaded = models.load_autoencoder(tmp_path / "ours")
    assert loaded.config == config and loaded.digest == converted.digest
    assert loaded.statistics == converted.statistics is not None
    wan.export(tmp_path / "ours", tmp_path / "back", family=family)
    back = safetensors.numpy.load_file(tmp_path / "back" / TENSORS)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)
    values = json.loads((tmp_path / "back" / "config.json").read_text())
    assert wan_autoencoder.parse_config(values) == (config, loaded.statistics)


@pytest.mark.parametrize("name", ["wan2_1", "wan2_2"])
def test_variants_are_the_published_ones(name):
    """The sizes that Wan's `config.json` files give, and their parameter counts."""
    published = judge.FULL[name.replace("_", ".")]
    config, _ = wan_autoencoder.parse_config(published)
    variant = autoencoder.VARIANTS[name]
    assert wan_autoencoder.format_config(config, None) == wan_autoencoder.format_config(
        variant, None
    )
    shapes = abstract.autoencoder_shapes(variant)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count == {"wan2_1": 126_892_531, "wan2_2": 704_688_668}[name]
    expected = {"wan2_1": (4, 8, 16), "wan2_2": (4, 16, 48)}[name]
    ratios = variant.temporal_ratio, variant.spatial_ratio
    assert (*ratios, variant.latent_channels) == expected


def test_half_precision_is_read(tmp_path):
    config, tensors = _weights("wan2.1")
    half = {k: v.astype(ml_dtypes.bfloat16) for k, v in tensors.items()}
    theirs = _save(tmp_path / "theirs", "wan2.1", half)
    ours: Any = wan.convert(theirs, tmp_path / "ours", family="wan2.1")
    assert ours.config == config
    kernel = ours.params["moments"]["kernel"]
    assert kernel.dtype == np.float32
    tensors["quant_conv.bias"] = np.full(8, np.nan, ml_dtypes.bfloat16)
    with pytest.raises(model_io.ModelError, match=r"quant_conv\.bias is not finite"):
        wan_autoencoder.autoencoder_from_tensors(tensors, config)


def _without(tensors):
    del tensors["decoder.conv_in.bias"]


def _extra(tensors):
    tensors["decoder.extra"] = np.zeros(1, np.float32)


def _misshapen(tensors):
    tensors["quant_conv.bias"] = np.zeros(7, np.float32)


def _infinite(tensors):
    tensors["quant_conv.bias"][0] = np.inf


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without, "decoder.conv_in.bias is missing"),
        (_extra, "decoder.extra is unknown"),
        (_misshapen, r"quant_conv.bias has shape \(7,\), not \(8,\)"),
        (_infinite, "quant_conv.bias is not finite"),
    ],
)
def test_damaged_weights_are_named_and_nothing_is_written(tmp_path, damage, message):
    _, tensors = _weights("wan2.1")
    damage(tensors)
    theirs = _save(tmp_path / "theirs", "wan2.1", tensors)
    with pytest.raises(model_io.ModelError, match=message):
        wan.convert(theirs, tmp_path / "ours", family="wan2.1")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "AutoencoderKL"}, "of class AutoencoderKL, not"),
        ({"attn_scales": [0.5]}, r"attn_scales is \[0.5\], not \[\]"),
        ({"in_channels": 4}, "in_channels is 4, not 3"),
        ({"latents_mean": [0.0]}, "latents_mean must be 4 finite numbers, not 1"),
        ({"latents_std": [0.0] * 4}, "latents_std must be positive"),
        ({"dim_mult": [1, 2]}, "3 flags for 2 stages"),
        ({"dim_mult": 4}, "config.json: "),
        ({"patch_size": "2"}, "patch_size is '2', not a number"),
        ({"latents_mean": [None] * 4}, "config.json: "),
    ],
)
def test_other_configurations_are_refused(tmp_path, changes, message):
    _, tensors = _weights("wan2.1")
    theirs = _save(tmp_path / "theirs", "wan2.1", tensors, **changes)
    with pytest.raises(model_io.ModelError, match=message):
        wan.convert(theirs, tmp_path / "ours", family="wan2.1")


def test_the_other_family_and_our_own_variants_are_refused(tmp_path):
    _, tensors = _weights("wan2.1")
    theirs = _save(tmp_path / "theirs", "wan2.1", tensors)
    with pytest.raises(model_io.ModelError, match=r"of wan2\.1, not wan2\.2"):
        wan.convert(theirs, tmp_path / "ours", family="wan2.2")
    with pytest.raises(ValueError, match=r"use wan2\.1 or wan2\.2"):
        wan.convert(theirs, tmp_path / "ours", family="wan3")
    with pytest.raises(model_io.ModelError, match=r"end_kernel is 1, not 3"):
        wan_autoencoder.family_of(autoencoder.VARIANTS["small"])


def test_pickled_weights_are_refused_with_a_hint(tmp_path):
    (tmp_path / "Wan2.1_VAE.pth").write_bytes(b"\x80\x02")
    for path in (tmp_path, tmp_path / "Wan2.1_VAE.pth"):
        with pytest.raises(model_io.ModelError, match="are not read; convert it once"):
            wan.convert(path, tmp_path / "ours", family="wan2.1")
    with pytest.raises(FileNotFoundError, match="no such file or directory"):
        wan.convert(tmp_path / "none", tmp_path / "ours", family="wan2.1")


def test_nothing_that_is_not_ours_is_replaced(tmp_path):
    _, tensors = _weights("wan2.1")
    theirs = _save(tmp_path / "repository" / "vae", "wan2.1", tensors)
    before = {path: path.read_bytes() for path in theirs.iterdir()}
    for out in (theirs, theirs.parent, tmp_path):
        with pytest.raises(model_io.ModelError, match="choose another"):
            wan.convert(theirs, out, family="wan2.1")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    with pytest.raises(model_io.ModelError, match="exists and is not a model"):
        wan.convert(theirs, other, family="wan2.1")
    for _ in range(2):
        wan.convert(theirs, tmp_path / "ours", family="wan2.1")
        wan.export(tmp_path / "ours", tmp_path / "back", family="wan2.1")
    for out in (tmp_path / "ours", other):
        with pytest.raises(model_io.ModelError, match="choose another"):
            wan.export(tmp_path / "ours", out, family="wan2.1")
    assert {path: path.read_bytes() for path in theirs.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "back",
        "other",
        "ours",
        "repository",
    ]


def test_a_tensor_given_twice_is_refused(tmp_path):
    _, tensors = _weights("wan2.1")
    theirs = _save(tmp_path / "theirs", "wan2.1", tensors)
    name = "quant_conv.bias"
    safetensors.numpy.save_file({name: tensors[name]}, theirs / "more.safetensors")
    with pytest.raises(
        model_io.ModelError, match=r"quant_conv\.bias is in another file"
    ):
        wan.convert(theirs, tmp_path / "ours", family="wan2.1")


def test_without_statistics_diffusers_is_told_so():
    config, _ = wan_autoencoder.parse_config(judge.SMALL["wan2.1"])
    values = wan_autoencoder.format_config(config, None)
    assert values["latents_mean"] == [0.0] * 4 and values["latents_std"] == [1.0] * 4
