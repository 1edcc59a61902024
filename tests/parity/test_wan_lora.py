"""Adapters that diffusers reads with PEFT: the same outputs, alone and merged."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
from diffusers import WanPipeline

from soraflax.nn import dit, lora
from soraflax.ops import packing, patch
from soraflax.pretrained import abstract
from soraflax.weights import files, wan
from soraflax.weights.wan import transformer
from tests.golden import wan_transformer as judge

TOLERANCE = 1e-4
SIZES = judge.SMALL["wan2.2"]
CASE = judge.Case(3, 4, 6, 0.7, known=1)
TARGETS = ("stack/*_attention/*/kernel", "stack/*/mlp/*", "levels/*", "head/out/*")


@pytest.mark.parametrize("alpha", [3.0, 7.5])
def test_diffusers_computes_the_same_with_them(tmp_path, alpha):
    theirs = judge.make(SIZES)
    config = dataclasses.replace(
        transformer.parse_config(SIZES), dtype="float32", remat="none"
    )
    form = lora.LoraConfig(rank=3, alpha=alpha, targets=TARGETS)
    state = {name: t.numpy().copy() for name, t in theirs.state_dict().items()}
    base = transformer.from_tensors(files.in_memory(state), config)
    rng = np.random.default_rng(0)
    adapters = jax.tree.map(
        lambda a: (0.2 * rng.normal(size=a.shape)).astype(np.float32),
        lora.shapes(abstract.transformer_shapes(config), form),
    )
    plain = judge.run(theirs, CASE, SIZES)
    wan.save_lora(
        tmp_path / "pytorch_lora_weights.safetensors",
        adapters,
        config=config,
        lora_config=form,
    )
    pipeline = WanPipeline(None, None, None, None, transformer=theirs)
    pipeline.load_lora_weights(tmp_path)
    expected = judge.run(theirs, CASE, SIZES)
    segment = judge.segment(CASE, SIZES)
    shape = packing.RowShape(len(segment), judge.TEXT, 1)
    levels = packing.level_table(jax.numpy.asarray([[0.0, CASE.level]]))
    packed = packing.assemble([[segment]], shape).replace(levels=levels)
    wanted = patch.patchify(expected, config.patch)
    for join in (lora.attach, lora.merge):
        params = jax.tree.map(jax.numpy.asarray, join(base, adapters, config=form))
        found = dit.DiT(config).apply({"params": params}, packed)[0]
        assert np.linalg.norm(found - wanted) <= TOLERANCE * np.linalg.norm(wanted)
    assert np.linalg.norm(expected - plain) > 0.05 * np.linalg.norm(plain)


def test_what_diffusers_writes_is_read(tmp_path):
    from peft import LoraConfig, get_peft_model_state_dict

    theirs = judge.make(SIZES)
    theirs.add_adapter(
        LoraConfig(
            r=4, lora_alpha=6, target_modules=["to_q", "to_v"], init_lora_weights=False
        )
    )
    layers = get_peft_model_state_dict(theirs)
    WanPipeline.save_lora_weights(tmp_path, transformer_lora_layers=layers)
    (path,) = tmp_path.glob("*.safetensors")
    config = transformer.parse_config(SIZES)
    form, adapters = wan.load_lora(path, config)
    assert form.rank == 4 and len(form.targets) == 4
    a = adapters["stack"]["blocks"]["self_attention"]["q"][lora.A]
    there = layers["blocks.2.attn1.to_q.lora_A.weight"]
    np.testing.assert_array_equal(a[2], torch.einsum("ri->ir", there).numpy())
