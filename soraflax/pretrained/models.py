"""Trained models on disk: the autoencoder's, and the video model's that contains it.

    AE/model/       config.json  params.safetensors
    TEXT/model/     config.json  params.safetensors  vocabulary.model
    DIT/model/      config.json  params.safetensors      a transformer by itself
    TUNED/adapters/ config.json  params.safetensors      adapters of one
    VIDEO/model/    config.json  params.safetensors  vocabulary.model
                    autoencoder/ config.json  params.safetensors
                    text_encoder/ config.json  params.safetensors, where the transformer
                                  takes features of an outside encoder

`pretrained.io` defines the files, this module their configurations, but for the text
encoder's (`pretrained.text_encoders`). Each model but
adapters is complete: nothing else is needed to encode, decode or generate.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from soraflax import config as config_lib
from soraflax import tokenizer
from soraflax.diffusion import process as process_lib
from soraflax.diffusion import schedule
from soraflax.nn import autoencoder, dit, experts, lora
from soraflax.ops import batch_invariance, packing
from soraflax.pretrained import (
    abstract,
    migration,
    sampling_defaults,
    training_data,
)
from soraflax.pretrained import io as model_io

VOCABULARY = "vocabulary.model"
AUTOENCODER = "autoencoder"
TEXT_ENCODER = "text_encoder"
ENCODER = ("encoder", "moments", "linear_in")
NOT_FINITE = (
    "decoded pixels are not finite: the latent is too large (use less guidance), or "
    "the autoencoder's parameters are broken"
)


@dataclasses.dataclass(frozen=True)
class VideoModelConfig:
    """Everything about a trained transformer but its parameters.

    Attributes:
      transformer: sizes of the transformer.
      statistics: statistics of the latents in training, which normalise its tokens.
      autoencoder: digest of the encoder of those latents (`encoder_digest`).
      row: capacity of a row in training; generation packs rows alike.
      text_length: most tokens of a caption, end-of-text included.
      reference_fps: frame rate at which positions count latent frames.
      process: a name in `diffusion.process.PROCESSES`.
      prediction: prediction target of the transformer: 'velocity', 'noise' or 'data'.
      shift: shift of noise levels by a segment's token count.
      window: latent frames of the longest clips in training, and of the windows in
        which longer videos are generated; 0 where that is not known.
      boundary: noise level between two experts of `transformer`'s sizes (`nn.experts`),
        whose parameters are `{"high": ..., "low": ...}`; None for one transformer.
      trained_on: extremes and words of the clips of training; None where that is not
        known, as of models of 0.1.0.
      trained_levels: noise levels of training, where they were finitely many.
      sampling: how its authors sample; None where they do not say.
      cleaned: whether texts are cleaned before they are encoded (`tokenizer.clean`).
    """

    transformer: dit.DiTConfig
    statistics: autoencoder.LatentStatistics
    autoencoder: str
    row: packing.RowShape
    text_length: int = 64
    reference_fps: float = 8.0
    process: str = "rectified_flow"
    prediction: str = "velocity"
    shift: schedule.TokenCountShift = dataclasses.field(
        default_factory=schedule.TokenCountShift
    )
    window: int = 0
    boundary: float | None = None
    trained_on: training_data.TrainingData | None = None
    trained_levels: schedule.TrainedLevels | None = None
    sampling: sampling_defaults.SamplingDefaults | None = None
    cleaned: bool = False

    def __post_init__(self) -> None:
        process_lib.make(self.process, self.prediction)
        if self.boundary is not None:
            experts.ExpertsConfig(self.transformer, self.boundary)
        channels, expected = len(self.statistics.mean), self.transformer.latent_channels
        if channels != expected:
            raise ValueError(
                f"statistics of {channels} channels, latents of {expected}"
            )


@dataclasses.dataclass(frozen=True)
class AutoencoderModel:
    """A trained autoencoder.

    Attributes:
      config: sizes.
      params: parameters.
      digest: digest of the parameters.
      statistics: statistics of its latents; None if they were not measured.
    """

    config: autoencoder.AutoencoderConfig
    params: Any
    digest: str
    statistics: autoencoder.LatentStatistics | None = None

    @functools.cached_property
    def encoder_digest(self) -> str:
        """Digest of the encoder, with which its latents are stamped."""
        return encoder_digest(self.params)

    @functools.cached_property
    def encode(self) -> Any:
        """Compiled: video `[B, T, H, W, 3]` in [-1, 1] to mean `[B, t, h, w, z]`."""
        module = autoencoder.Autoencoder(self.config)

        def encode(params: Any, video: Any) -> Any:
            return module.apply({"params": params}, video, method="encode")[0]

        return functools.partial(jax.jit(encode), self.on_device)

    @functools.cached_property
    def decode(self) -> Any:
        """Compiled: latent `[B, t, h, w, z]` to uint8 video `[B, T, H, W, 3]`.

        It raises ValueError where a pixel is not a number, which would become black.
        """
        module = autoencoder.Autoencoder(self.config)

        @jax.jit
        def decode(params: Any, latent: Any) -> Any:
            video: Any = batch_invariance.map_rows(
                lambda part: module.apply({"params": params}, part, method="decode"),
                latent,
            )
            levels = jnp.clip((video + 1.0) * 127.5, 0.0, 255.0)
            return jnp.round(levels).astype(jnp.uint8), jnp.isfinite(video).all()

        def checked(latent: Any) -> Any:
            video, finite = decode(self.on_device, latent)
            if not finite:
                raise ValueError(NOT_FINITE)
            return video

        return checked

    @functools.cached_property
    def on_device(self) -> Any:
        """The parameters on the default device."""
        return jax.device_put(self.params)

    def release(self) -> None:
        """Free the device's memory until the parameters are needed again."""
        self.__dict__.pop("on_device", None)


@dataclasses.dataclass(frozen=True)
class TransformerModel:
    """A transformer by itself, without text encoder or autoencoder.

    Attributes:
      config: sizes.
      params: parameters.
      digest: digest of the parameters.
    """

    config: dit.DiTConfig
    params: Any
    digest: str


@dataclasses.dataclass(frozen=True)
class AdaptersModel:
    """Adapters of a transformer, apart from it (`nn.lora`).

    Attributes:
      config: sizes of the transformer.
      lora_config: rank, alpha and targets of the adapters.
      params: parameters of the adapters.
      base: digest of the model that they were trained on.
      digest: digest of `params`.
    """

    config: dit.DiTConfig
    lora_config: lora.LoraConfig
    params: Any
    base: str
    digest: str


@dataclasses.dataclass(frozen=True)
class VideoModel:
    """A trained transformer with all that it needs.

    Attributes:
      config: sizes, and everything else that sampling needs to know.
      params: parameters of the transformer; where its text comes as features, they are
        still in their file (`arrays.StoredArray`), as published models are large.
      autoencoder: autoencoder of its latents.
      tokenizer: tokenizer of its captions.
      digest: digest of `params`.
      text_encoder: directory of the encoder of its text features; None where it has an
        encoder of its own.
    """

    config: VideoModelConfig
    params: Any
    autoencoder: AutoencoderModel
    tokenizer: tokenizer.Tokenizer
    digest: str
    text_encoder: pathlib.Path | None = None


def encoder_digest(params: Any) -> str:
    """Digest of the parameters of an autoencoder that its latents depend on.

    A decoder trained further on the same encoder leaves it, and with it the latents and
    the transformers trained on them, as they were.
    """
    return model_io.digest({name: params[name] for name in ENCODER if name in params})


def save_autoencoder(
    directory: str | os.PathLike[str],
    params: Any,
    *,
    config: autoencoder.AutoencoderConfig,
    metadata: Mapping[str, Any] | None = None,
) -> str:
    """Write a trained autoencoder.

    Args:
      directory: directory to write; see `model_io.save_model`.
      params: nested dict of arrays.
      config: sizes.
      metadata: further entries of its `config.json`, such as its quality.

    Returns:
      The digest of the parameters.
    """
    record = {"kind": "autoencoder", "model": config_lib.to_dict(config)}
    return model_io.save_model(directory, params, config=dict(metadata or {}) | record)


def load_autoencoder(
    directory: str | os.PathLike[str], *, cache: pathlib.Path | None = None
) -> AutoencoderModel:
    """Read what `save_autoencoder` wrote, there or in its `model/`.

    Args:
      directory: of the model.
      cache: where shapes are `abstract.remembered`; None for nowhere.

    Raises:
      FileNotFoundError, ModelError: see `model_io.load_model`.
      ConfigError: the configuration is of another version of the autoencoder.
    """
    record = config_of(directory, kind="autoencoder")
    config = config_lib.to_dataclass(
        record, autoencoder.AutoencoderConfig, path="autoencoder"
    )
    like = abstract.remembered(abstract.autoencoder_shapes, config, cache=cache)
    params, metadata = model_io.load_model(directory, like=like)
    statistics = metadata.get("latents")
    if statistics is not None:
        statistics = config_lib.to_dataclass(
            statistics, autoencoder.LatentStatistics, path="latents"
        )
    digest = model_io.model_digest(directory)
    return AutoencoderModel(config, params, digest, statistics)


def save_transformer(
    directory: str | os.PathLike[str],
    params: Any,
    *,
    config: dit.DiTConfig,
    metadata: Mapping[str, Any] | None = None,
) -> str:
    """Write a transformer by itself; arguments and result as of `save_autoencoder`."""
    record = {"kind": "transformer", "model": config_lib.to_dict(config)}
    return model_io.save_model(directory, params, config=dict(metadata or {}) | record)


def load_transformer(directory: str | os.PathLike[str]) -> TransformerModel:
    """Read what `save_transformer` wrote, there or in its `model/`.

    Raises:
      FileNotFoundError, ModelError: see `model_io.load_model`.
      ConfigError: the configuration is of another version of the transformer.
    """
    record = config_of(directory, kind="transformer")
    config = config_lib.to_dataclass(record, dit.DiTConfig, path="transformer")
    params, _ = model_io.load_model(directory, like=abstract.transformer_shapes(config))
    return TransformerModel(config, params, model_io.model_digest(directory))


def save_adapters(
    directory: str | os.PathLike[str],
    params: Any,
    *,
    lora_config: lora.LoraConfig,
    config: dit.DiTConfig,
    base: str,
) -> str:
    """Write adapters by themselves.

    Args:
      directory: directory to write; see `model_io.save_model`.
      params: parameters as of `lora.init`.
      lora_config: rank, alpha and targets.
      config: sizes of the transformer that they adapt.
      base: digest of that transformer.

    Returns:
      The digest of the parameters.
    """
    record = {"kind": "lora", "lora": config_lib.to_dict(lora_config), "base": base}
    record |= {"model": config_lib.to_dict(config)}
    return model_io.save_model(directory, params, config=record)


def load_adapters(directory: str | os.PathLike[str]) -> AdaptersModel:
    """Read what `save_adapters` wrote, there or in its `model/`.

    Raises:
      FileNotFoundError, ModelError: see `model_io.load_model`.
      ConfigError: the configuration is of another version.
    """
    sizes = config_of(directory, kind="lora")
    config = config_lib.to_dataclass(sizes, dit.DiTConfig, path="model")
    record = model_io.model_config(directory)
    lora_config = config_lib.to_dataclass(
        record.get("lora", {}), lora.LoraConfig, path="lora"
    )
    like = lora.shapes(abstract.transformer_shapes(config), lora_config)
    params, _ = model_io.load_model(directory, like=like)
    digest = model_io.model_digest(directory)
    return AdaptersModel(config, lora_config, params, record.get("base", ""), digest)


def save_video_model(
    directory: str | os.PathLike[str],
    params: Any,
    *,
    config: VideoModelConfig,
    autoencoder_dir: str | os.PathLike[str],
    vocabulary: tokenizer.Tokenizer,
    metadata: Mapping[str, Any] | None = None,
    files: Mapping[str, model_io.File] | None = None,
) -> str:
    """Write a trained transformer with its autoencoder and vocabulary.

    Args:
      directory: directory to write; see `model_io.save_model`.
      params: parameters of the transformer; of two experts a dict by their names.
      config: its configuration.
      autoencoder_dir: directory of the autoencoder of its latents; it is copied.
      vocabulary: tokenizer of its captions.
      metadata: further entries of its `config.json`.
      files: further files beside it, by name, such as a card, or `TEXT_ENCODER`.

    Returns:
      The digest of its parameters.

    Raises:
      ModelError: the autoencoder is not the one its latents came from.
    """
    autoencoder_path = model_io.find_model(autoencoder_dir)
    check_encoder(autoencoder_path, load_autoencoder(autoencoder_path), config=config)
    record = {"kind": "video", "model": config_lib.to_dict(config)}
    own = {VOCABULARY: vocabulary.model, AUTOENCODER: autoencoder_path}
    return model_io.save_model(
        directory,
        params,
        config=dict(metadata or {}) | record,
        files=dict(files or {}) | own,
    )


def load_video_model(
    directory: str | os.PathLike[str],
    *,
    cache: pathlib.Path | None = None,
    only_shapes: bool = False,
) -> VideoModel:
    """Read what `save_video_model` wrote, there or in its `model/`.

    Args:
      directory: of the model.
      cache: where shapes are `abstract.remembered`; None for nowhere.
      only_shapes: leaves the transformer's parameters unread; `params` are their
        ShapeDtypeStructs, for `io.load_sharded`.

    Raises:
      FileNotFoundError, ModelError: see `model_io.load_model`.
      ConfigError: the configuration is of another version of the model.
    """
    directory = model_io.find_model(directory, kind="video")
    record = config_of(directory, kind="video")
    config = config_lib.to_dataclass(record, VideoModelConfig, path="model")
    codec = load_autoencoder(directory / AUTOENCODER, cache=cache)
    check_encoder(directory / AUTOENCODER, codec, config=config)
    shapes = abstract.remembered(
        abstract.transformer_shapes, config.transformer, cache=cache
    )
    if config.boundary is not None:
        shapes = dict.fromkeys(experts.NAMES, shapes)
    params, features = shapes, config.transformer.text is None
    if not only_shapes:
        load = model_io.open_model if features else model_io.load_model
        params, _ = load(directory, like=shapes)
    path = directory / VOCABULARY
    return VideoModel(
        config=config,
        params=params,
        autoencoder=codec,
        tokenizer=tokenizer.Tokenizer.load(path, cleaned=config.cleaned),
        digest=model_io.model_digest(directory),
        text_encoder=directory / TEXT_ENCODER if features else None,
    )


def config_of(directory: str | os.PathLike[str], *, kind: str) -> Any:
    """The configuration of a model of one kind, of this version, not yet converted.

    Raises:
      FileNotFoundError, ModelError: no model there, or one of another kind.
    """
    record = model_io.model_config(directory)
    if record.get("kind") != kind:
        raise model_io.ModelError(
            f"{directory}: holds a model of kind {record.get('kind')!r}, not {kind!r}"
        )
    if "model" not in record:
        raise model_io.ModelError(f"{directory}: its configuration has no 'model'")
    return migration.migrate(record["model"], kind)


def check_encoder(
    directory: pathlib.Path, codec: AutoencoderModel, *, config: VideoModelConfig
) -> None:
    """Refuse an autoencoder whose encoder did not make a model's latents.

    Raises:
      ModelError: naming both digests.
    """
    if codec.encoder_digest != config.autoencoder:
        raise model_io.ModelError(
            f"{directory}: encoder {codec.encoder_digest[:12]}, but the transformer "
            f"was trained on latents of {config.autoencoder[:12]}"
        )
