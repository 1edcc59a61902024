"""The video model that the stage leaves, complete for generation."""

import functools
from collections.abc import Iterable
from typing import Any

import jax

from data_pipelines import latents, pipeline, transforms
from experiments.stages.video import config as stage_config
from experiments.stages.video import data as data_lib
from soraflax import buckets
from soraflax.nn import autoencoder
from soraflax.ops import grid as grids
from soraflax.pretrained import models, training_data

MAX_CLIPS = 50_000  # that are looked at for what a model's configuration says of them


def export(
    config: stage_config.VideoRunConfig,
    data: pipeline.PackedDataConfig,
    *,
    encoder: data_lib.TrainedEncoder,
    text: data_lib.TextSource,
    params: Any,
    workdir: buckets.Folder,
) -> None:
    """Write `workdir/model`, all that generation needs; `params` stay on the mesh.

    All processes call it.
    """
    source = latents.open_latents(data.path, data.split)
    first = jax.process_index() == 0  # which writes
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
        cleaned=text.vocabulary.cleaned,
        window=max(shape[0] for shape in source.shapes),
        trained_on=measure_data((data.path, *data.also), data) if first else None,
    )
    models.save_video_model(
        workdir / "model",
        params,
        config=model_config,
        autoencoder_dir=encoder.directory,
        vocabulary=text.vocabulary,
        files=text.files,
    )


def measure_data(
    paths: Iterable[str], data: pipeline.PackedDataConfig
) -> training_data.TrainingData:
    """What latents were made from.

    Args:
      paths: their directories; of one with more than `MAX_CLIPS` as many are looked at,
        spread evenly, and no words are listed.
      data: split, and choice of captions.
    """
    parts = []
    for path in paths:
        source = latents.open_latents(path, data.split)
        ratios = (
            source.info["grid"][name] for name in ("temporal_ratio", "spatial_ratio")
        )
        describe = functools.partial(
            _clip, grid=grids.Grid(*ratios), captions=data.captions
        )
        step = -(-len(source) // MAX_CLIPS)
        clips = (describe(source[i]) for i in range(0, len(source), step))
        parts.append(training_data.measure(clips, all_seen=step == 1))
    return functools.reduce(training_data.TrainingData.merged, parts)


def _clip(
    record: latents.LatentRecord,
    *,
    grid: grids.Grid,
    captions: transforms.CaptionConfig,
) -> training_data.Clip:
    """The clip that a latent was made from, with the captions that training shows."""
    time, height, width = record.latent.shape[:3]
    frames, high, wide = grid.video_size(time, height, width)
    return training_data.Clip(
        frames=frames,
        size=(wide, high),
        fps=record.fps,
        captions=tuple(transforms.shown_captions(record.captions, captions).values()),
    )
