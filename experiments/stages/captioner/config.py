"""The configuration of the stage `captioner`, and what must agree in it."""

import dataclasses
from typing import Any, Literal

from jax.sharding import Mesh

from data_pipelines import latents, pipeline
from experiments.stages import run_config, runtime
from soraflax import config as config_lib
from soraflax import sharding, tokenizer
from soraflax.nn import autoencoder, captioner
from soraflax.train import mesh_checks, optimizer


@dataclasses.dataclass(frozen=True)
class CaptionerEvaluationConfig:
    """Loss and token accuracy on held-out captions.

    Attributes:
      batches: greatest number of packed batches of held-out clips.
    """

    batches: int = 2

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise ValueError(f"batches {self.batches}: use 1 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionerRunConfig(run_config.RunConfig):
    """A run of the stage `captioner`.

    Attributes:
      stage: `"captioner"`.
      autoencoder: directory of the trained autoencoder, or of a video model with one.
      base: directory of a trained captioner to train on; "" for a new one.
      data: latents (or clips), captions and rows.
      cache: encoding of clips, where `data.path` holds clips.
      model: sizes of the captioner.
      optimizer: update rule and learning rate schedule.
      evaluation: batches of the validation loss.
    """

    stage: Literal["captioner"]
    autoencoder: str
    base: str = ""
    data: pipeline.PackedDataConfig
    cache: latents.LatentCacheConfig
    model: captioner.CaptionerConfig
    optimizer: optimizer.OptimizerConfig
    evaluation: CaptionerEvaluationConfig

    def __post_init__(self) -> None:
        run_config.check_rows_of_latents(self)
        if not self.cache.enabled:
            raise ValueError(
                "cache.enabled False: a captioner reads cached latents; use True"
            )
        captions = self.data.captions
        if captions.dropout or self.data.windows:
            raise ValueError(
                f"data.captions.dropout {captions.dropout}, data.windows "
                f"{self.data.windows}: a captioner reads whole clips with their "
                "captions; use 0 for both"
            )


def check_mesh(config: Any, mesh: Mesh) -> None:
    """Refuse a mesh that does not divide the rows or the model, or cuts a row.

    Args:
      config: with `data` and `model`, of this stage or of `expander`.
      mesh: of the run.

    Raises:
      ConfigError: naming both sizes.
    """
    rows = config.data.rows * len(sharding.batch_shard_processes(mesh))
    runtime.check_rows(rows, mesh, key="config.data.rows")
    if mesh.shape["context"] > 1:
        raise config_lib.ConfigError(
            f"config.mesh.context {mesh.shape['context']}: a captioner's rows are "
            "short; use 1"
        )
    model = config.model
    divided = [
        ("tensor", model.heads, "heads"),
        ("tensor", model.mlp, "hidden features"),
        ("tensor", model.vocabulary, "pieces of the vocabulary"),
        ("fsdp", model.width, "features"),
    ]
    try:
        mesh_checks.check_axes(divided, mesh=mesh)
    except ValueError as error:
        raise config_lib.ConfigError(f"config.mesh: {error}") from error


def check_model(
    model: captioner.CaptionerConfig,
    encoder: autoencoder.AutoencoderConfig,
    *,
    vocabulary: tokenizer.Tokenizer,
) -> None:
    """Refuse a captioner that does not fit the autoencoder or the vocabulary.

    Raises:
      ConfigError: naming both sizes.
    """
    channels = encoder.latent_channels
    if model.reads != "latents":
        raise config_lib.ConfigError(
            f"config.model.reads {model.reads!r}: a captioner reads clips; use "
            "'latents', or the stage 'expander'"
        )
    if model.latent_channels != channels:
        raise config_lib.ConfigError(
            f"config.model.latent_channels {model.latent_channels}: the "
            f"autoencoder has {channels}; use {channels}"
        )
    check_vocabulary(model, vocabulary)


def check_vocabulary(
    model: captioner.CaptionerConfig, vocabulary: tokenizer.Tokenizer
) -> None:
    """Refuse a network that writes another number of words.

    Raises:
      ConfigError: naming both sizes.
    """
    pieces = vocabulary.vocab_size
    if model.vocabulary != pieces:
        raise config_lib.ConfigError(
            f"config.model.vocabulary {model.vocabulary}: the vocabulary has {pieces} "
            f"pieces; use {pieces}"
        )
