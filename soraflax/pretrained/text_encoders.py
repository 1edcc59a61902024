"""Text encoders of the T5 family on disk, each with the vocabulary of its captions.

    TEXT/model/  config.json  params.safetensors  vocabulary.model

A model that takes features (`dit.DiTConfig.text` None) was trained on those of one
encoder and one vocabulary, whose digests stand with the features.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from soraflax import config as config_lib
from soraflax import tokenizer
from soraflax.nn import text_encoder
from soraflax.pretrained import abstract, models
from soraflax.pretrained import io as model_io

KIND = "text_encoder"
CLEANED = "cleaned"  # entry of `config.json`: whether captions are cleaned
# Rows of published embeddings that no piece has: sentinels, and the rest to a round
# number (128 of T5, 384 of UMT5).
MAX_SPARE_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class TextEncoderModel:
    """A trained text encoder.

    Attributes:
      config: sizes.
      params: parameters, float32; or still in their file.
      tokenizer: tokenizer of its captions; it knows whether they are cleaned.
      digest: digest of the parameters.
    """

    config: text_encoder.TextEncoderConfig
    params: Any
    tokenizer: tokenizer.Tokenizer
    digest: str


def check_vocabulary(
    config: text_encoder.TextEncoderConfig,
    vocabulary: tokenizer.Tokenizer,
    *,
    origin: Any,
) -> None:
    """Refuse a vocabulary that is not of these embeddings.

    Raises:
      ModelError: with both sizes.
    """
    spare = config.vocabulary - vocabulary.vocab_size
    if not 0 <= spare <= MAX_SPARE_ROWS:
        raise model_io.ModelError(
            f"{origin}: a vocabulary of {vocabulary.vocab_size} pieces for embeddings "
            f"of {config.vocabulary}; use the spiece.model of these weights"
        )


def save_text_encoder(
    directory: str | os.PathLike[str],
    params: Any,
    *,
    config: text_encoder.TextEncoderConfig,
    vocabulary: tokenizer.Tokenizer,
    metadata: Mapping[str, Any] | None = None,
) -> str:
    """Write a text encoder and its vocabulary.

    Args:
      directory: directory to write; see `model_io.save_model`.
      params: parameters; those in bfloat16 are stored so.
      config: sizes.
      vocabulary: tokenizer of its captions.
      metadata: further entries of its `config.json`.

    Returns:
      The digest of the parameters.

    Raises:
      ModelError: a vocabulary of another size, or what `model_io.save_model` refuses.
    """
    check_vocabulary(config, vocabulary, origin=directory)
    record = {"kind": KIND, "model": config_lib.to_dict(config)}
    record |= {CLEANED: vocabulary.cleaned}
    return model_io.save_model(
        directory,
        params,
        config=dict(metadata or {}) | record,
        files={models.VOCABULARY: vocabulary.model},
    )


def load_vocabulary(directory: str | os.PathLike[str]) -> tokenizer.Tokenizer:
    """The tokenizer of a text encoder, whose parameters are not read.

    Raises:
      FileNotFoundError, ModelError, TokenizerError: see `load_text_encoder`.
    """
    directory = model_io.find_model(directory, kind=KIND)
    models.config_of(directory, kind=KIND)
    cleaned = bool(model_io.model_config(directory).get(CLEANED))
    return tokenizer.Tokenizer.load(directory / models.VOCABULARY, cleaned=cleaned)


def load_text_encoder(
    directory: str | os.PathLike[str], *, stored: bool = False
) -> TextEncoderModel:
    """Read what `save_text_encoder` wrote, there or in its `model/`.

    Args:
      directory: of the encoder.
      stored: whether parameters stay in their file, in the dtype that they have there
        (`arrays.StoredArray`).

    Raises:
      FileNotFoundError, ModelError: see `model_io.load_model`.
      ConfigError: the configuration is of another version of the encoder.
      TokenizerError: its vocabulary is missing or damaged.
    """
    directory = model_io.find_model(directory, kind=KIND)
    record = models.config_of(directory, kind=KIND)
    config = config_lib.to_dataclass(
        record, text_encoder.TextEncoderConfig, path="text_encoder"
    )
    vocabulary = load_vocabulary(directory)
    check_vocabulary(config, vocabulary, origin=directory / models.VOCABULARY)
    like = abstract.text_encoder_shapes(config)
    load = model_io.open_model if stored else model_io.load_model
    params, _ = load(directory, like=like)
    digest = model_io.model_digest(directory)
    return TextEncoderModel(config, params, vocabulary, digest)
