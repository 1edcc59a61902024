"""The video model that the stage leaves, complete for generation."""

import pathlib
from typing import Any

import jax

from data_pipelines import latents, pipeline
from experiments.stages.video import config as stage_config
from experiments.stages.video import data as data_lib
from soraflax import tokenizer
from soraflax.nn import autoencoder
from soraflax.pretrained import models


def export(
    config: stage_config.VideoRunConfig,
    data: pipeline.PackedDataConfig,
    *,
    encoder: data_lib.TrainedEncoder,
    vocabulary: tokenizer.Tokenizer,
    params: Any,
    workdir: pathlib.Path,
) -> None:
    """Write `workdir/model`: transformer, autoencoder, vocabulary, statistics."""
    if jax.process_index() != 0:
        return
    source = latents.open_latents(data.path, data.split)
    std = pipeline.token_deviation(source.std, data.deviation)
    model_config = models.VideoModelConfig(
        transformer=config.model,
        statistics=autoencoder.LatentStatistics(
            tuple(source.mean.tolist()), tuple(std.tolist())
        ),
        autoencoder=encoder.model.encoder_digest,
        row=data.row,
        text_length=data.captions.max_length,
        reference_fps=data.reference_fps,
        process=config.loss.process,
        prediction=config.loss.prediction,
        shift=config.loss.shift,
        window=max(shape[0] for shape in source.shapes),
    )
    models.save_video_model(
        workdir / "model",
        params,
        config=model_config,
        autoencoder_dir=encoder.directory,
        vocabulary=vocabulary,
    )
