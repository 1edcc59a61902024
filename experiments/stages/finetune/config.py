"""The configuration of the stage `finetune`, and its agreement with the base model."""

import dataclasses
from typing import Literal

from data_pipelines import latents, pipeline
from experiments.stages import run_config
from experiments.stages.video import config as video_config
from soraflax import config as config_lib
from soraflax.nn import lora as lora_lib
from soraflax.pretrained import abstract, models, text_encoders
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
      follow_base: whether what must agree with the base (process, prediction, shift,
        patch, reference rate, length of text features) is taken from it; else a
        difference is refused.
    """

    stage: Literal["finetune"]
    base: str
    data: pipeline.PackedDataConfig
    cache: latents.LatentCacheConfig
    loss: denoising.DenoisingConfig
    optimizer: optimizer.OptimizerConfig
    evaluation: video_config.VideoEvaluationConfig
    lora: lora_lib.LoraConfig | None = None
    follow_base: bool = False

    def __post_init__(self) -> None:
        if not self.base:
            raise ValueError("base is empty: give --config.base=VIDEO")


def following(config: FinetuneRunConfig, base: models.VideoModel) -> FinetuneRunConfig:
    """The configuration of a run, with what it takes from its base."""
    if not config.follow_base:
        return config
    trained, patch = base.config, base.config.transformer.patch
    captions = config.data.captions
    if trained.transformer.text is None:
        captions = dataclasses.replace(captions, max_length=trained.text_length)
    return dataclasses.replace(
        config,
        loss=dataclasses.replace(
            config.loss,
            process=trained.process,
            prediction=trained.prediction,
            shift=trained.shift,
        ),
        data=dataclasses.replace(
            config.data,
            patch=patch,
            reference_fps=trained.reference_fps,
            captions=captions,
        ),
        cache=dataclasses.replace(config.cache, patch=patch),
    )


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
            f"config.base {config.base} has two experts, which are not trained on; "
            "give a model of one transformer, such as Wan 2.1's or TI2V-5B's"
        )
    takes_features = trained.transformer.text is None
    if takes_features and not config.data.features:
        raise config_lib.ConfigError(
            "config.data.features is empty, but the base takes features: make them "
            f"with python -m data_pipelines.embed --text-encoder {config.base}, and "
            "give --config.data.features=FEATURES"
        )
    # Features are padded to the length of captions, and the padding is attended to.
    length = config.data.captions.max_length
    lengths = (length, trained.text_length) if takes_features else (length, length)
    for key, ours, theirs in (
        ("data.captions.max_length", *lengths),
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
        if field.name not in ("stage", "autoencoder", "text_encoder", "model")
    }
    directory = model_io.find_model(config.base)
    text_encoder = directory / text_encoders.KIND
    values = {
        "stage": "video",
        "autoencoder": str(directory / models.AUTOENCODER),
        "text_encoder": str(text_encoder) if takes_features else "",
        "model": trained.transformer,
    }
    return config_lib.to_dataclass(values | shared, video_config.VideoRunConfig)
