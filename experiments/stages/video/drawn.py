"""Clips that a transformer trains on without cached latents: encoded as they are drawn.

Each draw takes another window of a clip, at another budget where there are some. What
normalises the latents is measured once, on the first device, and kept in
`WORKDIR/statistics.json`, so that a run that is resumed goes on with the same numbers.
"""

import functools
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from data_pipelines import budgets, latents, pipeline, progress, records
from data_pipelines import sources as stream
from experiments.stages import runtime
from experiments.stages.video import data as data_lib
from soraflax import buckets
from soraflax import config as config_lib
from soraflax.nn import autoencoder

STATISTICS = "statistics.json"


def open_clips(
    data: pipeline.PackedDataConfig,
    *,
    config: data_lib.CachedData,
    encoder: latents.LatentEncoder,
    statistics: autoencoder.LatentStatistics,
) -> list[budgets.VideoLatents]:
    """The clips of a split, which give latents.

    Raises:
      DatasetError: no dataset of clips, or a damaged one.
    """
    mean, std = (np.array(a, np.float32) for a in (statistics.mean, statistics.std))
    return [
        budgets.VideoLatents(
            records.open_dataset(path, data.split),
            encoder,
            config.cache,
            mean,
            std,
            budgets=data.budgets,
            seed=data.seed,
        )
        for path in (data.path, *data.also)
    ]


def measured(
    config: data_lib.CachedData,
    encoder: latents.LatentEncoder,
    *,
    workdir: buckets.Folder,
) -> autoencoder.LatentStatistics:
    """Statistics of the latents of `cache.measured` clips, measured once for a run.

    Raises:
      DatasetError: no dataset of clips, or a clip that cannot be decoded.
      ConfigError: those in `workdir` are of another encoder, or of other clips.
    """
    path = workdir / STATISTICS
    made_of = {
        "encoder": encoder.digest,
        "clips": records.dataset_digest(config.data.path),
        "measured": config.cache.measured,
    }
    with runtime.together("statistics"):
        if jax.process_index() == 0 and not path.exists():
            values = _measure(config, encoder)
            runtime.write_json(path, made_of | {"mean": values.mean, "std": values.std})
    found = json.loads(path.read_text())
    for key, ours in made_of.items():
        if found.get(key) != ours:
            raise config_lib.ConfigError(
                f"{path}: its {key} is {found.get(key)!r}, that of this run {ours!r}; "
                "use another workdir"
            )
    return autoencoder.LatentStatistics(tuple(found["mean"]), tuple(found["std"]))


def _measure(
    config: data_lib.CachedData, encoder: latents.LatentEncoder
) -> autoencoder.LatentStatistics:
    unknown = autoencoder.LatentStatistics((0.0,), (1.0,))
    data = config.data
    (clips, *_) = open_clips(data, config=config, encoder=encoder, statistics=unknown)
    count = min(config.cache.measured, len(clips))
    chosen = np.linspace(0, len(clips) - 1, count).round().astype(int).tolist()
    bar = progress.bar(chosen, what="statistics", unit="clip")
    found = stream.readable(clips, bar)
    return autoencoder.latent_statistics(clip.latent for _, clip in found)


def sources(
    config: data_lib.CachedData,
    encoder: latents.LatentEncoder,
    *,
    statistics: autoencoder.LatentStatistics,
) -> data_lib.OpenLatents:
    """What opens the clips of a split for training, evaluation and export."""
    return functools.partial(
        open_clips, config=config, encoder=encoder, statistics=statistics
    )


def with_captions(opened: Sequence[Any]) -> list[Any]:
    """Where captions are read without encoding: the clips of sources that encode."""
    return [getattr(source, "clips", source) for source in opened]
