"""The configuration of the stage `finetune`, and its agreement with the base model."""

import dataclasses
from typing import Literal

from data_pipelines import latents, pipeline
from experiments.stages import run_config
from experiments.stages.video import config as video_config
from soraflax import config as config_lib
from soraflax.nn import lora as lora_lib
from soraflax.pretrained import abstract, models
from soraflax.pretrained import io as model_io
from soraflax.train import denoising, optimizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneRunConfig(run_config.RunConfig):
    """A run of the stage `finetune`; sizes are those of the base model.

    Attributes:
      stage: `"finetune"`.
      base: directory of the video model that training starts from.
      data: latents (or clips), captions and rows.
      cache: encoding of clips, where `data.path` holds clips.
      loss: the denoising objective.
      optimizer: update rule and learning rate schedule.
      evaluation: batches of the validation loss.
      lora: sizes of the adapters; None trains all parameters.
    """

    stage: Literal["finetune"]
    base: str
    data: pipeline.PackedDataConfig
    cache: latents.LatentCacheConfig
    loss: denoising.DenoisingConfig
    optimizer: optimizer.OptimizerConfig
    evaluation: video_config.VideoEvaluationConfig
    lora: lora_lib.LoraConfig | None = None

    def __post_init__(self) -> None:
        if not self.base:
            raise ValueError("base is empty: give --config.base=VIDEO")


def check_base(
    config: FinetuneRunConfig, base: models.VideoModel
) -> video_config.VideoRunConfig:
    """The configuration of a run from scratch of the base's sizes, on these data.

    Raises:
      ConfigError: objective, data or adapters do not agree with what the base was
        trained with.
    """
    trained = base.config
    if trained.boundary is not None:
        raise config_lib.ConfigError(
            f"config.base {config.base} has two experts; give one of one transformer"
        )
    for key, ours, theirs in (
        ("loss.process", config.loss.process, trained.process),
        ("loss.prediction", config.loss.prediction, trained.prediction),
        ("loss.shift", config.loss.shift, trained.shift),
        ("data.reference_fps", config.data.reference_fps, trained.reference_fps),
    ):
        if ours != theirs:
            raise config_lib.ConfigError(
                f"config.{key} is {ours}, but the base was trained with {theirs}"
            )
    if config.lora is not None:
        shapes = abstract.transformer_shapes(trained.transformer)
        try:
            lora_lib.targets(shapes, config.lora)
        except ValueError as error:
            raise config_lib.ConfigError(f"config.lora.{error}") from error
    shared = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(video_config.VideoRunConfig)
        if field.name not in ("stage", "autoencoder", "model")
    }
    directory = model_io.find_model(config.base) / models.AUTOENCODER
    values = {
        "stage": "video",
        "autoencoder": str(directory),
        "model": trained.transformer,
    }
    return config_lib.to_dataclass(values | shared, video_config.VideoRunConfig)
