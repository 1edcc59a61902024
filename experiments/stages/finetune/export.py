"""The fine-tuned video model, and its adapters."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from data_pipelines import pipeline
from experiments.stages.finetune import config as stage_config
from experiments.stages.video import data as video_data
from experiments.stages.video import export as video_export
from soraflax import buckets
from soraflax.nn import lora
from soraflax.pretrained import io as model_io
from soraflax.pretrained import models


def export(
    config: stage_config.FinetuneRunConfig,
    base: models.VideoModel,
    *,
    data: pipeline.PackedDataConfig,
    latents: Sequence[Any],
    text: video_data.TextSource,
    params: Any,
    workdir: buckets.Folder,
) -> None:
    """Write `workdir/model`, and `workdir/adapters` where there are some.

    All processes call it; parameters stay on the mesh.
    """
    if config.lora is not None:
        models.save_adapters(
            workdir / "adapters",
            params,
            lora_config=config.lora,
            config=base.config.transformer,
            base=base.digest,
        )
        params = lora.merge(base.params, params, config=config.lora)
    seen = base.config.trained_on
    if seen is not None and jax.process_index() == 0:  # which writes
        seen = seen.merged(video_export.measure_data(latents, data.captions))
    models.save_video_model(
        workdir / "model",
        params,
        config=dataclasses.replace(base.config, trained_on=seen),
        autoencoder_dir=model_io.find_model(config.base) / models.AUTOENCODER,
        vocabulary=base.tokenizer,
        files=text.files,
    )
