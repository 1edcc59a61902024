"""A trained captioner on disk.

    CAPTIONER/model/  config.json  params.safetensors  vocabulary.model
                      [autoencoder/ config.json  params.safetensors]

It reads the latents of one encoder, whose digest its configuration holds. Where it has
no autoencoder of its own, as the shipped one, that of the shipped model is taken, or
one that is given; another encoder's is refused.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from flax.core import meta

from soraflax import buckets, tokenizer
from soraflax import config as config_lib
from soraflax.nn import autoencoder, captioner
from soraflax.ops import packing
from soraflax.pretrained import abstract, models, shipped
from soraflax.pretrained import io as model_io

KIND = "captioner"


@dataclasses.dataclass(frozen=True)
class CaptionerModelConfig:
    """Everything about a trained captioner but its parameters.

    Attributes:
      captioner: sizes.
      statistics: of the latents in training, which normalise its tokens.
      autoencoder: digest of the encoder of those latents (`models.encoder_digest`).
      text_length: most tokens of a caption, end-of-text included.
      reference_fps: frame rate at which positions count latent frames.
      max_tokens: tokens of the longest clip in training; longer ones are fitted.
      max_frames: frames of the longest clip in training.
    """

    captioner: captioner.CaptionerConfig
    statistics: autoencoder.LatentStatistics
    autoencoder: str
    text_length: int = 64
    reference_fps: float = 8.0
    max_tokens: int = 256
    max_frames: int = 17

    def __post_init__(self) -> None:
        channels, read = len(self.statistics.mean), self.captioner.latent_channels
        if channels != read:
            raise ValueError(f"statistics of {channels} channels, latents of {read}")


@dataclasses.dataclass(frozen=True)
class CaptionerModel:
    """A trained captioner with all that it needs.

    Attributes:
      config: sizes, and everything else that captioning needs to know.
      params: parameters.
      autoencoder: whose latents it reads.
      tokenizer: of its captions.
      digest: digest of `params`.
    """

    config: CaptionerModelConfig
    params: Any
    autoencoder: models.AutoencoderModel
    tokenizer: tokenizer.Tokenizer
    digest: str


def shapes(config: captioner.CaptionerConfig) -> Any:
    """ShapeDtypeStructs of a captioner's parameters."""
    row = packing.Packed.shapes(
        packing.RowShape(8, 4, 1), patch_size=config.patch_size, text_width=None
    )
    return meta.unbox(
        jax.eval_shape(
            lambda row: captioner.Captioner(config).init(jax.random.key(0), row), row
        )["params"]
    )


def save_captioner(
    directory: str | os.PathLike[str],
    params: Any,
    *,
    config: CaptionerModelConfig,
    vocabulary: tokenizer.Tokenizer,
    autoencoder_dir: str | os.PathLike[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes | pathlib.Path] | None = None,
) -> str:
    """Write a trained captioner.

    Args:
      directory: directory to write; see `model_io.save_model`.
      params: parameters.
      config: its configuration.
      vocabulary: tokenizer of its captions.
      autoencoder_dir: whose latents it reads; it is copied. None leaves it out.
      metadata: further entries of its `config.json`.
      files: further files beside it, by name, such as a card.

    Returns:
      The digest of its parameters.

    Raises:
      ModelError: the autoencoder is not the one its latents came from, or the
        vocabulary is of another size.
    """
    directory = buckets.folder(directory)
    check_vocabulary(directory, vocabulary, words=config.captioner.vocabulary)
    own: dict[str, Any] = {models.VOCABULARY: vocabulary.model}
    if autoencoder_dir is not None:
        path = model_io.find_model(autoencoder_dir)
        check_encoder(path, models.load_autoencoder(path), config=config)
        own[models.AUTOENCODER] = path
    record = {"kind": KIND, "model": config_lib.to_dict(config)}
    return model_io.save_model(
        directory,
        params,
        config=dict(metadata or {}) | record,
        files=dict(files or {}) | own,
    )


def load_captioner(
    directory: str | os.PathLike[str] | None = None,
    *,
    codec: models.AutoencoderModel | None = None,
    cache: pathlib.Path | None = None,
) -> CaptionerModel:
    """Read what `save_captioner` wrote, there or in its `model/`.

    Args:
      directory: of the captioner; None for the shipped one.
      codec: an autoencoder, for a captioner without one of its own; by default that
        of the shipped model.
      cache: where shapes are `abstract.remembered`; None for nowhere.

    Raises:
      FileNotFoundError, ModelError: see `model_io.load_model`; also an autoencoder
        whose latents it does not read.
      ConfigError: the configuration is of another version.
    """
    given = shipped.captioner_or_given(directory)
    directory = model_io.find_model(given, kind=KIND)
    record = models.config_of(directory, kind=KIND)
    config = config_lib.to_dataclass(record, CaptionerModelConfig, path="model")
    like = abstract.remembered(shapes, config.captioner, cache=cache)
    params, _ = model_io.load_model(directory, like=like)
    inside = directory / models.AUTOENCODER
    if codec is None or inside.is_dir():
        path = inside if inside.is_dir() else shipped.folder() / models.AUTOENCODER
        codec = models.load_autoencoder(path, cache=cache)
    check_encoder(directory, codec, config=config)
    vocabulary = tokenizer.Tokenizer.load(directory / models.VOCABULARY)
    check_vocabulary(directory, vocabulary, words=config.captioner.vocabulary)
    digest = model_io.model_digest(directory)
    return CaptionerModel(config, params, codec, vocabulary, digest)


def check_encoder(
    directory: pathlib.Path,
    codec: models.AutoencoderModel,
    *,
    config: CaptionerModelConfig,
) -> None:
    """Refuse an autoencoder whose latents a captioner does not read.

    Raises:
      ModelError: naming both encoders.
    """
    if codec.encoder_digest != config.autoencoder:
        raise model_io.ModelError(
            f"{directory}: this captioner reads latents of encoder "
            f"{config.autoencoder[:12]}, not of {codec.encoder_digest[:12]}"
        )


def check_vocabulary(
    directory: buckets.Folder, vocabulary: tokenizer.Tokenizer, *, words: int
) -> None:
    """Refuse a vocabulary of another size than the `words` that a network writes.

    Raises:
      ModelError: naming both sizes.
    """
    pieces = vocabulary.vocab_size
    if pieces != words:
        raise model_io.ModelError(
            f"{directory}: a vocabulary of {pieces} pieces, but the network writes "
            f"{words}: use the one it was trained with"
        )
