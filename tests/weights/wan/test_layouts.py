"""Other layouts of Wan's transformers: the same parameters, or refused by name."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from soraflax.pretrained import io as model_io
from soraflax.weights import tensor_map, wan
from soraflax.weights.wan import layouts, transformer
from tests.golden import wan_transformer as judge
from tests.weights.wan import test_transformer as plain

FAMILY = "wan2.1"
# Names as Wan's own code gives them.
ORIGINAL = {
    "patch_embedding": "patch_embedding",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "proj_out": "head.head",
}
BLOCK = {
    "attn1.to_out.0": "self_attn.o",
    "attn2.to_out.0": "cross_attn.o",
    "attn1.norm_": "self_attn.norm_",
    "attn2.norm_": "cross_attn.norm_",
    "attn1.to_": "self_attn.",
    "attn2.to_": "cross_attn.",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "norm2": "norm3",
    "scale_shift_table": "modulation",
}


def original(name):
    if name == "scale_shift_table":
        return "head.modulation"
    if name.startswith("blocks."):
        for theirs, own in BLOCK.items():
            name = name.replace(theirs, own)
        return name
    layer, _, part = name.rpartition(".")
    return f"{ORIGINAL[layer]}.{part}"


@pytest.fixture(scope="module")
def tensors():
    return plain.tensors_of(plain.sizes_of(FAMILY))


@pytest.fixture(scope="module")
def expected(tensors, tmp_path_factory):
    folder = plain.save(tmp_path_factory.mktemp("plain") / "t", FAMILY, tensors)
    return wan.load_transformer(folder)


def one_file(folder, tensors, *, heads=2):
    """A file beside a `config.json` that says no more than the number of heads."""
    path = folder / "one.safetensors"
    safetensors.numpy.save_file(tensors, path)
    values = {"_class_name": "WanModel", "num_heads": heads, "model_type": "t2v"}
    (folder / "config.json").write_text(json.dumps(values))
    return path


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
def test_the_original_names(tmp_path, tensors, expected, prefix):
    renamed = {prefix + original(name): t for name, t in tensors.items()}
    assert len(renamed) == len(tensors) and set(renamed) != set(tensors)
    path = one_file(tmp_path, renamed)
    for place in (path, tmp_path):
        config, params = wan.load_transformer(place)
        assert config == expected[0] and plain.same(params, expected[1])
    wan.convert(path, tmp_path / "ours", family=FAMILY)


def test_heads_have_128_features_where_nothing_says_how_many(tmp_path, tensors):
    like = tensor_map.expected(
        transformer.entries(wan_config := plain.sizes_of(FAMILY)),
        plain.shapes_of(wan_config),
    )
    wide = {name: np.zeros(a.shape, np.float32) for name, a in like.items()}
    found = layouts.config_of(
        {k: t for k, t in _opened(tmp_path, wide).items()}, origin="x"
    )
    sizes = judge.SMALL[FAMILY]
    assert found["num_attention_heads"] == 1  # of 32 features
    for name in ("ffn_dim", "num_layers", "text_dim", "freq_dim", "in_channels"):
        assert found[name] == sizes[name]


def _opened(folder, tensors):
    from soraflax.weights import files

    path = folder / "x.safetensors"
    safetensors.numpy.save_file(tensors, path)
    return files.open_tensors(path)


@pytest.mark.parametrize("kind", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
@pytest.mark.parametrize("scaled", ["", ".scale_weight", ".weight_scale", "rows"])
def test_eight_bits_are_multiplied_by_their_scale(tmp_path, tensors, kind, scaled):
    quantised, values = {}, {}
    for name, tensor in tensors.items():
        if tensor.ndim != 2 or "table" in name:
            quantised[name] = values[name] = tensor
            continue
        layer, scale = name.removesuffix(".weight"), np.ones((), np.float32)
        if scaled:
            scale = np.asarray(np.abs(tensor).max() / 8, np.float32)
        if scaled == "rows":
            scale = (np.abs(tensor).max(1, keepdims=True) / 8).astype(np.float32)
        small = (tensor / scale).astype(kind)
        quantised[name] = small
        values[name] = small.astype(np.float32) * scale
        if scaled:
            end = ".scale_weight" if scaled == "rows" else scaled
            quantised[layer + end] = scale
            quantised[layer + ".scale_input"] = np.ones((), np.float32)
    quantised["scaled_fp8"] = np.zeros(2, kind)
    path = one_file(tmp_path, {original_or(name): t for name, t in quantised.items()})
    _, params = wan.load_transformer(path)
    kernel = params["stack"]["blocks"]["mlp"]["up"]["kernel"]
    for layer in range(2):
        wanted = values[f"blocks.{layer}.ffn.net.0.proj.weight"].T
        np.testing.assert_allclose(kernel[layer], wanted, rtol=1e-6)
    wan.convert(path, tmp_path / "ours", family=FAMILY)


def original_or(name):
    """The original name; of what belongs to a layer too."""
    for end in (".scale_weight", ".weight_scale", ".scale_input"):
        if name.endswith(end):
            layer = name.removesuffix(end)
            return original(f"{layer}.weight").removesuffix(".weight") + end
    return name if name == "scaled_fp8" else original(name)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("vace_blocks.0.proj_out.weight", "is a VACE transformer"),
        ("img_emb.proj.1.weight", "is an image-to-video transformer of Wan 2.1"),
        ("motion_encoder.x", "is Wan Animate's transformer"),
        ("blocks.0.self_attn.q.scale_weight", r"has shape \(5,\); read are one scale"),
        ("blocks.0.nothing.scale_weight", "has no blocks.0.nothing.weight"),
        ("blocks.0.nothing.weight", "blocks.0.nothing.weight is unknown"),
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path, tensors, more, message):
    renamed = {original(name): t for name, t in tensors.items()}
    path = one_file(tmp_path, renamed | {more: np.zeros(5, np.float32)})
    with pytest.raises(model_io.ModelError, match=message):
        wan.load_transformer(path)


def test_a_file_with_other_models_in_it_is_refused(tmp_path, tensors):
    renamed = {f"model.diffusion_model.{original(n)}": t for n, t in tensors.items()}
    other = {"first_stage_model.decoder.x": np.zeros(1, np.float32)}
    path = one_file(tmp_path, renamed | other)
    with pytest.raises(model_io.ModelError, match="is not of the transformer"):
        wan.load_transformer(path)


def test_something_else_is_refused(tmp_path):
    path = one_file(tmp_path, {"model.layers.0.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(model_io.ModelError, match="in none of the layouts read: diff"):
        wan.load_transformer(path)


def test_image_to_video_weights_say_what_they_are(tmp_path, tensors):
    wide = dict(tensors)
    kernel = wide["patch_embedding.weight"]
    wide["patch_embedding.weight"] = np.zeros((len(kernel), 36, 1, 2, 2), np.float32)
    path = one_file(tmp_path, {original(name): t for name, t in wide.items()})
    with pytest.raises(model_io.ModelError, match="36 input channels: an image-to-vid"):
        wan.load_transformer(path)
