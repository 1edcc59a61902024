"""A trained prompt expander on disk: the captioner's network, reading text.

EXPANDER/model/  config.json  params.safetensors  vocabulary.model
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from soraflax import buckets, tokenizer
from soraflax import config as config_lib
from soraflax.nn import captioner
from soraflax.pretrained import captioners, models, shipped
from soraflax.pretrained import io as model_io

KIND = "expander"


@dataclasses.dataclass(frozen=True)
class ExpanderModelConfig:
    """Everything about a trained expander but its parameters.

    Attributes:
      network: sizes, of a network that reads text.
      prompt_length: most tokens of a short prompt, end-of-text included.
      text_length: most tokens of a long one.
    """

    network: captioner.CaptionerConfig
    prompt_length: int = 48
    text_length: int = 64

    def __post_init__(self) -> None:
        if self.network.reads != "text":
            raise ValueError(f"network.reads {self.network.reads!r}: use 'text'")


@dataclasses.dataclass(frozen=True)
class ExpanderModel:
    """A trained expander with all that it needs.

    Attributes:
      config: sizes and lengths.
      params: parameters.
      tokenizer: of both its texts.
      digest: digest of `params`.
    """

    config: ExpanderModelConfig
    params: Any
    tokenizer: tokenizer.Tokenizer
    digest: str


def save_expander(
    directory: str | os.PathLike[str],
    params: Any,
    *,
    config: ExpanderModelConfig,
    vocabulary: tokenizer.Tokenizer,
    metadata: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes | pathlib.Path] | None = None,
) -> str:
    """Write a trained expander.

    Args:
      directory: directory to write; see `model_io.save_model`.
      params: parameters.
      config: its configuration.
      vocabulary: tokenizer of its texts.
      metadata: further entries of its `config.json`.
      files: further files beside it, by name, such as a card.

    Returns:
      The digest of its parameters.

    Raises:
      ModelError: the vocabulary is of another size.
    """
    directory = buckets.folder(directory)
    captioners.check_vocabulary(directory, vocabulary, words=config.network.vocabulary)
    record = {"kind": KIND, "model": config_lib.to_dict(config)}
    return model_io.save_model(
        directory,
        params,
        config=dict(metadata or {}) | record,
        files=dict(files or {}) | {models.VOCABULARY: vocabulary.model},
    )


def load_expander(directory: str | os.PathLike[str] | None = None) -> ExpanderModel:
    """Read what `save_expander` wrote, there or in its `model/`.

    Args:
      directory: of the expander; None for the shipped one.

    Raises:
      FileNotFoundError, ModelError: see `model_io.load_model`.
      ConfigError: the configuration is of another version.
    """
    directory = model_io.find_model(shipped.expander_or_given(directory), kind=KIND)
    record = models.config_of(directory, kind=KIND)
    config = config_lib.to_dataclass(record, ExpanderModelConfig, path="model")
    params, _ = model_io.load_model(directory, like=captioners.shapes(config.network))
    vocabulary = tokenizer.Tokenizer.load(directory / models.VOCABULARY)
    captioners.check_vocabulary(directory, vocabulary, words=config.network.vocabulary)
    digest = model_io.model_digest(directory)
    return ExpanderModel(config, params, vocabulary, digest)
