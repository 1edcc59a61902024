"""Whole pipelines against diffusers': the same noise and words, the same video."""

from typing import Any

import numpy as np
import pytest
import torch

from soraflax.weights import wan
from soraflax.weights.wan import adapters, transformer
from tests.golden import wan_pipeline as judge
from tests.weights.wan import pipelines

TOLERANCE = 1e-3


@pytest.fixture(scope="module", params=judge.CASES)
def case(request):
    return judge.CASES[request.param]


@pytest.fixture(scope="module")
def pair(case, tmp_path_factory):
    """diffusers' pipeline, and our checkpoint of what it saves."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("pipeline")
    theirs = judge.load(judge.write(folder / "written", case))
    theirs.save_pretrained(folder / "saved", max_shard_size="50KB")
    vocabulary = folder / "saved" / "tokenizer" / "spiece.model"
    if not vocabulary.exists():  # newer versions write tokenizer.json alone
        original = folder / "written" / "tokenizer" / "spiece.model"
        vocabulary.write_bytes(original.read_bytes())
    found: Any = wan.convert(
        folder / "saved", folder / "ours", family=case.convert_from
    )
    assert found.unused == ()
    return theirs, folder


def test_the_same_video(pair, case):
    theirs, folder = pair
    latent, video = judge.run(theirs, case)
    ours, frames = pipelines.run(folder / "ours", case)
    given = slice(1, None) if case.image else slice(None)
    assert pipelines.error(ours[given], latent[given]) <= TOLERANCE
    assert pipelines.error(frames, video) <= TOLERANCE
    assert np.mean((video > 0) & (video < 1)) > 0.5, "all clipped: nothing is compared"


def test_diffusers_loads_the_way_back(pair, case):
    theirs, folder = pair
    wan.export(folder / "ours", folder / "back", family=case.convert_from)
    again = judge.load(folder / "back")
    for name in ("transformer", "transformer_2", "vae", "text_encoder"):
        part, other = getattr(theirs, name), getattr(again, name)
        assert (part is None) == (other is None)
        for key, tensor in part.state_dict().items() if part else ():
            assert torch.equal(tensor, other.state_dict()[key]), (name, key)
    words = [judge.PROMPT, judge.NEGATIVE]
    assert again.tokenizer(words).input_ids == theirs.tokenizer(words).input_ids
    for key, value in case.index.items():
        assert again.config[key] == value
    theirs.scheduler.set_timesteps(7)
    again.scheduler.set_timesteps(7)
    assert type(again.scheduler) is type(theirs.scheduler)
    assert torch.equal(again.scheduler.sigmas, theirs.scheduler.sigmas)


def _adapters(model, *, name, rank=3):
    """Random adapters of some layers, under names of a layout, and a kohya alpha."""
    rng, tensors = np.random.default_rng(0), {}
    for layer, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear) or "blocks" not in layer:
            continue
        wide, tall = module.in_features, module.out_features
        a = rng.standard_normal((rank, wide)).astype(np.float32)
        b = rng.standard_normal((tall, rank)).astype(np.float32)
        tensors |= name(layer, torch.from_numpy(a), torch.from_numpy(b))
    return tensors


def _original(layer):
    parts = {
        "attn1.to_out.0": "self_attn.o",
        "attn2.to_out.0": "cross_attn.o",
        "attn1.to_": "self_attn.",
        "attn2.to_": "cross_attn.",
        "ffn.net.0.proj": "ffn.0",
        "ffn.net.2": "ffn.2",
    }
    for theirs, original in parts.items():
        layer = layer.replace(theirs, original)
    return layer


LAYOUTS = {
    "diffusers": lambda layer, a, b: {
        f"transformer.{layer}.lora_A.weight": a,
        f"transformer.{layer}.lora_B.weight": b,
    },
    "original": lambda layer, a, b: {
        f"diffusion_model.{_original(layer)}.lora_A.weight": a,
        f"diffusion_model.{_original(layer)}.lora_B.weight": b,
    },
    "original with alpha": lambda layer, a, b: {
        f"diffusion_model.{_original(layer)}.lora_down.weight": a,
        f"diffusion_model.{_original(layer)}.lora_up.weight": b,
        f"diffusion_model.{_original(layer)}.alpha": torch.tensor(1.5),
    },
    "kohya": lambda layer, a, b: {
        f"lora_unet_{_original(layer).replace('.', '_')}.lora_down.weight": a,
        f"lora_unet_{_original(layer).replace('.', '_')}.lora_up.weight": b,
        f"lora_unet_{_original(layer).replace('.', '_')}.alpha": torch.tensor(1.5),
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fused_adapters_are_the_same(tmp_path, layout):
    from safetensors.torch import save_file

    case = judge.CASES["2.1"]
    theirs = judge.load(judge.write(tmp_path / "written", case))
    wan.convert(tmp_path / "written", tmp_path / "ours", family="wan2.1")
    before = {k: t.clone() for k, t in theirs.transformer.state_dict().items()}
    path = tmp_path / "lora.safetensors"
    save_file(_adapters(theirs.transformer, name=LAYOUTS[layout]), path)
    theirs.load_lora_weights(path)
    theirs.fuse_lora(lora_scale=0.7)
    theirs.unload_lora_weights()
    model = pipelines.load(tmp_path / "ours").model
    merged = adapters.merge(model, [adapters.AdapterFile.parse(f"{path}:0.7")])
    leaves = {
        name: make()
        for entry in transformer.entries(model.config.transformer)
        for name, make in entry.write(_leaf(merged.params, entry.ours))
    }
    moved = 0
    for name, tensor in theirs.transformer.state_dict().items():
        np.testing.assert_allclose(leaves[name], tensor.numpy(), atol=2e-5)
        moved += not torch.equal(tensor, before[name])
    assert moved == 2 * (2 * 4 + 2)


def _leaf(tree, path):
    for part in path.split("/"):
        tree = tree[part]
    return tree
