"""The video model that the stage leaves, complete for generation."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from data_pipelines import budgets, pipeline, records, sources, transforms
from data_pipelines import latents as latent_lib
from experiments.stages import runtime
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
    latents: Sequence[Any],
    encoder: data_lib.TrainedEncoder,
    text: data_lib.TextSource,
    params: Any,
    workdir: buckets.Folder,
) -> None:
    """Write `workdir/model`, all that generation needs; `params` stay on the mesh.

    All processes call it; `latents` are those that were trained on.
    """
    source = latents[0]
    std = pipeline.token_deviation(source.std, data.deviation)
    with runtime.together("describing the data"):
        first = jax.process_index() == 0  # which writes
        seen = measure_data(latents, data.captions) if first else None
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
        trained_on=seen,
    )
    models.save_video_model(
        workdir / "model",
        runtime.heeding_signals(params),
        config=model_config,
        autoencoder_dir=encoder.directory,
        vocabulary=text.vocabulary,
        files=text.files,
    )


def measure_data(
    latents: Iterable[Any], captions: transforms.CaptionConfig
) -> training_data.TrainingData:
    """What latents were made from.

    Args:
      latents: cached ones, or clips that are encoded as they are drawn; of more than
        `MAX_CLIPS` as many are looked at, spread evenly, and no words are listed.
      captions: choice of captions.
    """
    parts = []
    for source in latents:
        drawn = isinstance(source, budgets.VideoLatents)
        held = source.clips if drawn else source
        describe = functools.partial(
            _drawn_clip if drawn else _cached_clip, source, captions=captions
        )
        step = -(-len(source) // MAX_CLIPS)
        found = sources.readable(held, range(0, len(source), step))
        clips = (describe(record) for _, record in found)
        parts.append(training_data.measure(clips, all_seen=step == 1))
    return functools.reduce(training_data.TrainingData.merged, parts)


def _cached_clip(
    source: latent_lib.LatentDataset,
    record: latent_lib.LatentRecord,
    *,
    captions: transforms.CaptionConfig,
) -> training_data.Clip:
    """The clip that a latent was made from, with the captions that training shows."""
    grid = source.info["grid"]
    time, height, width = record.latent.shape[:3]
    ratios = grids.Grid(grid["temporal_ratio"], grid["spatial_ratio"])
    frames, high, wide = ratios.video_size(time, height, width)
    return training_data.Clip(
        frames=frames,
        size=(wide, high),
        fps=record.fps,
        captions=tuple(transforms.shown_captions(record.captions, captions).values()),
    )


def _drawn_clip(
    source: budgets.VideoLatents,
    clip: records.ClipRecord,
    *,
    captions: transforms.CaptionConfig,
) -> training_data.Clip:
    """A clip as the largest budget leaves it."""
    fit = source.fit(clip, source.most_tokens)
    return training_data.Clip(
        frames=fit.frames,
        size=(fit.width, fit.height),
        fps=fit.fps,
        captions=tuple(transforms.shown_captions(clip.captions, captions).values()),
    )
