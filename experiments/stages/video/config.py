"""The configuration of the stage `video`, and what must agree in it."""

import dataclasses
from typing import Literal

from jax.sharding import Mesh

from data_pipelines import latents, pipeline, text_features
from experiments.stages import run_config
from soraflax import config as config_lib
from soraflax import sharding
from soraflax.nn import autoencoder, dit
from soraflax.train import denoising, mesh_checks, optimizer


@dataclasses.dataclass(frozen=True)
class VideoEvaluationConfig:
    """Validation loss and caption gap at fixed noise levels.

    Attributes:
      batches: greatest number of packed batches of held-out clips, for the loss.
      clips: greatest number of held-out clips, for the caption gap.
      words: kinds of words of which the caption gap is measured: the name of each, then
        the words that take each other's place; empty for no caption gap.
    """

    batches: int = 2
    clips: int = 64
    words: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise ValueError(f"batches {self.batches}: use 1 or more")
        if self.clips < 1:
            raise ValueError(f"clips {self.clips}: use 1 or more")
        for kind in self.words:
            if len(kind) < 3:
                raise ValueError(f"words {kind}: give a name and 2 words or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoRunConfig(run_config.RunConfig):
    """A run of the stage `video`.

    Attributes:
      stage: `"video"`.
      autoencoder: directory of the trained autoencoder.
      text_encoder: directory of the text encoder of `data.features`, where `model`
        takes features; "" where it has an encoder of its own.
      data: latents (or clips), captions and rows.
      cache: encoding of clips, where `data.path` holds clips.
      model: sizes of the transformer.
      loss: the denoising objective.
      optimizer: update rule and learning rate schedule.
      evaluation: batches of the validation loss.
    """

    stage: Literal["video"]
    autoencoder: str
    text_encoder: str = ""
    data: pipeline.PackedDataConfig
    cache: latents.LatentCacheConfig
    model: dit.DiTConfig
    loss: denoising.DenoisingConfig
    optimizer: optimizer.OptimizerConfig
    evaluation: VideoEvaluationConfig

    def __post_init__(self) -> None:
        run_config.check_rows_of_latents(self)
        self._check_text()

    def _check_text(self) -> None:
        """Features and their encoder are given where the model takes features."""
        given = {"data.features": self.data.features, "text_encoder": self.text_encoder}
        takes_features = self.model.text is None
        for key, value in given.items():
            if takes_features and not value:
                raise ValueError(
                    f"{key} is empty, but the model takes features (model.text is "
                    "None): embed the captions with python -m data_pipelines.embed, "
                    "and give --config.data.features=FEATURES "
                    "--config.text_encoder=TEXT"
                )
            if value and not takes_features:
                raise ValueError(
                    f"{key} is {value}, but the model has a text encoder of its own "
                    f"(model.text): leave {key} empty"
                )
        if takes_features and self.evaluation.words:
            raise ValueError(
                "evaluation.words: captions with other words have no features; leave "
                "it empty"
            )


def check_mesh(config: VideoRunConfig, mesh: Mesh) -> None:
    """Refuse a mesh that does not divide the model or its rows.

    Raises:
      ConfigError: naming both sizes and the nearest legal one.
    """
    try:
        mesh_checks.check(
            config.model,
            config.data.row,
            rows=config.data.rows * len(sharding.batch_shard_processes(mesh)),
            mesh=mesh,
            accumulate=config.train.accumulate,
        )
    except ValueError as error:
        raise config_lib.ConfigError(f"config.mesh: {error}") from error


def check_model(
    model: dit.DiTConfig, encoder: autoencoder.AutoencoderConfig, *, pieces: int
) -> None:
    """Refuse a transformer that does not fit the autoencoder or the vocabulary.

    Args:
      model: sizes of the transformer.
      encoder: sizes of the autoencoder.
      pieces: size of the vocabulary.

    Raises:
      ConfigError: naming both sizes.
    """
    channels = encoder.latent_channels
    if model.latent_channels != channels:
        raise config_lib.ConfigError(
            f"config.model.latent_channels {model.latent_channels}: the "
            f"autoencoder has {channels}; use {channels}"
        )
    if model.text is not None and model.text.vocabulary != pieces:
        raise config_lib.ConfigError(
            f"config.model.text.vocabulary {model.text.vocabulary}: the vocabulary has "
            f"{pieces} pieces; use {pieces}"
        )


def check_features(config: VideoRunConfig, store: text_features.FeatureStore) -> None:
    """Refuse features of another width than the transformer takes, or too many.

    Raises:
      ConfigError: naming both sizes.
    """
    width, length = config.model.text_width, config.data.captions.max_length
    if store.width != width:
        raise config_lib.ConfigError(
            f"config.data.features {store.path}: of width {store.width}, but the "
            f"transformer takes {width} (model.text_width)"
        )
    if store.max_length > length:
        raise config_lib.ConfigError(
            f"config.data.captions.max_length {length}: the features are of captions "
            f"of up to {store.max_length} tokens; use {store.max_length}"
        )
