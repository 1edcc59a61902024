"""Adapter files of every layout, merged: equation (1), and what is refused by name."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import safetensors.numpy

from soraflax.nn import autoencoder, dit
from soraflax.pretrained import abstract, arrays
from soraflax.pretrained import io as model_io
from soraflax.weights.wan import adapters, lora, transformer
from tests.generation import tiny
from tests.golden import wan_transformer as judge

CONFIG = transformer.parse_config(judge.SMALL["wan2.1"])
SHAPES = abstract.transformer_shapes(CONFIG)
A = np.arange(3 * 32, dtype=np.float32).reshape(3, 32) / 100
B = np.arange(48 * 3, dtype=np.float32).reshape(48, 3) / 100
UP, KERNEL = "stack/blocks/mlp/up", ("stack", "blocks", "mlp", "up", "kernel")
ALPHA = np.asarray(1.5, np.float32)
LAYOUTS = {
    "diffusers": ("transformer.blocks.1.ffn.net.0.proj", "lora_A", "lora_B", None),
    "PEFT": ("base_model.model.blocks.1.ffn.net.0.proj", "lora_A", "lora_B", None),
    "original": ("diffusion_model.blocks.1.ffn.0", "lora_A", "lora_B", None),
    "alpha": ("diffusion_model.blocks.1.ffn.0", "lora_down", "lora_up", ALPHA),
    "kohya": ("lora_unet_blocks_1_ffn_0", "lora_down", "lora_up", ALPHA),
    "plain": ("blocks.1.ffn.0", "lora_A", "lora_B", None),
}


def model(boundary=None, config=CONFIG):
    """A video model of which only the transformer matters here."""
    params = tiny.randomised(SHAPES, scale=0.1)
    if boundary is not None:
        params = {"high": params, "low": params}
    own = dataclasses.replace(
        tiny.model().config,
        transformer=config,
        statistics=autoencoder.LatentStatistics((0.0,) * 4, (1.0,) * 4),
        boundary=boundary,
    )
    return dataclasses.replace(tiny.model(), config=own, params=params)


def tensors(layout="original"):
    layer, a, b, alpha = LAYOUTS[layout]
    made = {f"{layer}.{a}.weight": A, f"{layer}.{b}.weight": B}
    return made | ({} if alpha is None else {f"{layer}.alpha": alpha})


def written(folder, content, metadata=None):
    path = folder / "lora.safetensors"
    safetensors.numpy.save_file(content, path, metadata)
    return path


def kernel(params):
    for part in KERNEL:
        params = params[part]
    return np.asarray(params)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_added(tmp_path, layout):
    path, base = written(tmp_path, tensors(layout)), model()
    merged = adapters.merge(base, [adapters.AdapterFile(path, 0.5)])
    before, after = kernel(base.params), kernel(merged.params)
    alpha = 3.0 if LAYOUTS[layout][3] is None else 1.5
    np.testing.assert_array_equal(after[0], before[0])
    expected = before[1] + 0.5 * alpha / 3 * (B @ A).T
    np.testing.assert_allclose(after[1], expected, rtol=1e-5, atol=1e-5)
    assert merged.digest != base.digest
    leaves = model_io.flat_shapes(merged.params)
    lazy = [k for k, v in leaves.items() if isinstance(v, arrays.UpdatedArray)]
    assert lazy == [f"{UP}/kernel"]


def test_parts_of_a_kernel_are_those_of_the_whole(tmp_path):
    path = written(tmp_path, tensors())
    merged = adapters.merge(model(), [adapters.AdapterFile(path)])
    twice = adapters.merge(merged, [adapters.AdapterFile(path, -1.0)])
    leaf = merged.params["stack"]["blocks"]["mlp"]["up"]["kernel"]
    index = slice(1, 2), slice(3, 9), slice(5, 40)
    np.testing.assert_allclose(leaf.read(index), np.asarray(leaf)[index], rtol=1e-6)
    np.testing.assert_array_equal(leaf[1], np.asarray(leaf)[1])
    np.testing.assert_allclose(kernel(twice.params), kernel(model().params), atol=1e-5)


def test_metadata_of_peft_give_alpha(tmp_path):
    fields = {"transformer.r": 3, "transformer.lora_alpha": 6.0}
    metadata = {lora.METADATA: json.dumps(fields)}
    path = written(tmp_path, tensors("diffusers"), metadata)
    after = kernel(adapters.merge(model(), [adapters.AdapterFile(path)]).params)
    expected = kernel(model().params)[1] + 2 * (B @ A).T
    np.testing.assert_allclose(after[1], expected, rtol=1e-5, atol=1e-5)
    fields["transformer.use_dora"] = True
    path = written(tmp_path, tensors("diffusers"), {lora.METADATA: json.dumps(fields)})
    with pytest.raises(model_io.ModelError, match="use_dora is True, which is not"):
        adapters.merge(model(), [adapters.AdapterFile(path)])


def test_two_experts_are_told_apart(tmp_path):
    base = model(0.875)
    path = written(tmp_path, tensors())
    with pytest.raises(
        model_io.ModelError, match=r"use high=.*lora\.safetensors or low="
    ):
        adapters.merge(base, [adapters.AdapterFile(path)])
    merged = adapters.merge(base, [adapters.AdapterFile(path, expert="low")])
    np.testing.assert_array_equal(kernel(merged.params["high"]), kernel(model().params))
    assert not np.array_equal(kernel(merged.params["low"]), kernel(model().params))
    second = {
        name.replace("transformer.", "transformer_2."): t
        for name, t in tensors("diffusers").items()
    }
    path = written(tmp_path, tensors("diffusers") | second)
    both = adapters.merge(base, [adapters.AdapterFile(path)])
    for expert in ("high", "low"):
        moved = kernel(both.params[expert]) - kernel(model().params)
        assert np.abs(moved[1]).max() > 0.1
    with pytest.raises(model_io.ModelError, match="of the second of two experts; this"):
        adapters.merge(model(), [adapters.AdapterFile(path)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("diffusion_model.blocks.1.ffn.0.lora_B.weight"),
            "no lora_B or",
        ),
        (
            lambda t: t.pop("diffusion_model.blocks.1.ffn.0.lora_A.weight"),
            "no lora_A or",
        ),
        (
            lambda t: t.update({"blocks.0.norm3.diff": A}),
            "is no adapter of a linear la",
        ),
        (
            lambda t: t.update({"blocks.9.ffn.0.lora_A.weight": A}),
            "is of no linear layer",
        ),
        (
            lambda t: t.update({"lora_te_x.lora_down.weight": A}),
            "is of no linear layer",
        ),
        (
            lambda t: t.update({"patch_embedding.lora_A.weight": A}),
            "is of no linear layer",
        ),
        (
            lambda t: t.update(
                {"diffusion_model.blocks.1.ffn.0.lora_A.weight": A[:, 1:]}
            ),
            "the layer is of 32 to 48",
        ),
        (
            lambda t: t.update(
                {
                    "diffusion_model.blocks.1.ffn.0.lora_A.weight": np.full_like(
                        A, np.inf
                    )
                }
            ),
            "are not finite",
        ),
        (lambda t: t.clear(), "has no adapters"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, message):
    content = tensors()
    change(content)
    path = written(tmp_path, content)
    with pytest.raises(model_io.ModelError, match=message) as error:
        adapters.merge(model(), [adapters.AdapterFile(path)])
    assert len(str(error.value).splitlines()) == 1


def test_other_forms_have_no_such_adapters(tmp_path):
    path = written(tmp_path, tensors())
    base = model(config=dit.VARIANTS["tiny"])
    with pytest.raises(model_io.ModelError, match="Wan's form"):
        adapters.merge(base, [adapters.AdapterFile(path)])
    with pytest.raises(FileNotFoundError, match="nowhere: no such file"):
        adapters.merge(model(), [adapters.AdapterFile(pathlib.Path("nowhere"))])


@pytest.mark.parametrize(
    ("text", "path", "scale", "expert"),
    [
        ("a.safetensors", "a.safetensors", 1.0, None),
        ("a.safetensors:0.5", "a.safetensors", 0.5, None),
        ("a:b.safetensors", "a:b.safetensors", 1.0, None),
        ("high=x/a.safetensors:-1", "x/a.safetensors", -1.0, "high"),
        ("low=a", "a", 1.0, "low"),
        ("other=a", "other=a", 1.0, None),
    ],
)
def test_words_of_a_user(text, path, scale, expert):
    found = adapters.AdapterFile.parse(text)
    assert found == adapters.AdapterFile(pathlib.Path(path), scale, expert)


def test_a_scale_is_a_finite_number():
    with pytest.raises(ValueError, match="use a finite number"):
        adapters.AdapterFile.parse("a.safetensors:inf")
