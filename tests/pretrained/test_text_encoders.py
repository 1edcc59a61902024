"""A text encoder on disk: whole, with its vocabulary, or refused."""

import dataclasses

import jax
import numpy as np
import pytest

from soraflax import tokenizer
from soraflax.nn import text_encoder
from soraflax.pretrained import abstract, models, text_encoders
from soraflax.pretrained import io as model_io

WORDS = tokenizer.Tokenizer.embedded()
TINY = text_encoder.VARIANTS["tiny"]
PARAMS = jax.tree.map(
    lambda leaf: np.full(leaf.shape, 0.5, np.float32),
    abstract.text_encoder_shapes(TINY),
)


def test_saved_and_loaded(tmp_path):
    words = tokenizer.Tokenizer(WORDS.model, cleaned=True)
    digest = text_encoders.save_text_encoder(
        tmp_path / "it", PARAMS, config=TINY, vocabulary=words
    )
    model = text_encoders.load_text_encoder(tmp_path / "it")
    assert (model.config, model.digest) == (TINY, digest)
    assert model.tokenizer == words != WORDS
    jax.tree.map(np.testing.assert_array_equal, model.params, PARAMS)
    (tmp_path / "it" / models.VOCABULARY).unlink()
    with pytest.raises(tokenizer.TokenizerError, match=r"vocabulary\.model: no such"):
        text_encoders.load_text_encoder(tmp_path / "it")


@pytest.mark.parametrize("size", [1023, 3000])
def test_a_vocabulary_of_another_size_is_refused(size, tmp_path):
    config = dataclasses.replace(TINY, vocabulary=size)
    with pytest.raises(model_io.ModelError, match=f"1024 pieces for .* of {size}"):
        text_encoders.save_text_encoder(
            tmp_path / "it", PARAMS, config=config, vocabulary=WORDS
        )


def test_another_kind_is_refused(tmp_path):
    model_io.save_model(tmp_path / "it", PARAMS, config={"kind": "video", "model": {}})
    with pytest.raises(FileNotFoundError, match="no trained model"):
        text_encoders.load_text_encoder(tmp_path)
    with pytest.raises(
        model_io.ModelError, match="of kind 'video', not 'text_encoder'"
    ):
        text_encoders.load_text_encoder(tmp_path / "it")
