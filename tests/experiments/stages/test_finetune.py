"""What a fine-tuned model says of itself."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.stages.finetune import export
from soraflax.nn import lora
from soraflax.pretrained import arrays, slices, training_data
from soraflax.pretrained import io as model_io
from tests.generation import tiny


@pytest.mark.parametrize(
    ("own", "captions", "length"), [(True, 96, 96), (True, 8, 64), (False, 96, 64)]
)
def test_longer_captions_make_longer_prompts(
    own: bool, captions: int, length: int
) -> None:
    """What was trained on captions of 96 tokens refused prompts of more than 64."""
    base = dataclasses.replace(tiny.model().config, text_length=64)
    assert base.transformer.text is not None
    if not own:
        text = dataclasses.replace(base.transformer, text=None)
        base = dataclasses.replace(base, transformer=text)
    seen = training_data.TrainingData((64, 96), (0.5, 2.0), (1, 17), (8.0, 8.0))
    made = export.tuned_config(base, seen=seen, text_length=captions)
    assert made.text_length == length and made.trained_on == seen
    assert dataclasses.replace(made, trained_on=base.trained_on) == dataclasses.replace(
        base, text_length=length
    )


def test_adapters_are_merged_a_layer_at_a_time_when_they_are_written() -> None:
    base = tiny.model().params
    config = lora.LoraConfig(rank=2, targets=("stack/*_attention/*/kernel", "*/kernel"))
    key = jax.random.key(0)
    shapes = lora.shapes(base, config)
    adapters = jax.tree.map(lambda a: jax.random.normal(key, a.shape, a.dtype), shapes)
    base = jax.tree.map(jax.numpy.asarray, base)
    expected = model_io.flatten(lora.merge(base, adapters, config=config))
    found = model_io.named_leaves(export.merged(base, adapters, config=config))
    lazy = [n for n, leaf in found.items() if isinstance(leaf, arrays.LazyArray)]
    assert {leaf.ndim for n in lazy for leaf in [expected[n]]} == {2, 3}
    assert found.keys() == expected.keys()
    for name, leaf in found.items():
        pieces = list(slices.host_pieces(leaf))
        assert sum(piece.nbytes for piece in pieces) == expected[name].nbytes
        if name in lazy and expected[name].ndim == 3:
            assert len(pieces) == len(expected[name])
        flat = np.concatenate([piece.ravel() for piece in pieces])
        np.testing.assert_allclose(flat, expected[name].ravel(), rtol=1e-5, atol=1e-6)
