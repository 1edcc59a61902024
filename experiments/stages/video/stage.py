"""Stage two: the packed diffusion transformer, from latents and captions.

`data.path` names latents, or clips that are first encoded into `WORKDIR/latents`; with
`cache.enabled=False`, clips that are encoded each time that they are drawn.
`WORKDIR/model` is the result and needs nothing beside it: averaged parameters, their
configuration, the autoencoder, the vocabulary, and the text encoder where captions come
as its features (`data.features`).
"""

import dataclasses
import functools
import pathlib
from typing import Any

import jax

from data_pipelines import caption_notes, pipeline, records
from experiments.stages import runtime
from experiments.stages.video import config as config_lib
from experiments.stages.video import data as data_lib
from experiments.stages.video import drawn, export, job
from soraflax import buckets
from soraflax.ops import attention
from soraflax.train import loop


def run(values: Any, workdir: str | pathlib.Path) -> dict[str, float]:
    """Cache latents, train, export; returns what `result.json` holds.

    Raises:
      ValueError, OSError: bad input, in one line.
      Interrupted: asked to stop before the end.
    """
    config, mesh = runtime.start(values, config_lib.VideoRunConfig)
    config_lib.check_mesh(config, mesh)
    encoder = data_lib.TrainedEncoder.load(config.autoencoder)
    text = data_lib.TextSource.find(config)
    pieces = text.vocabulary.vocab_size
    config_lib.check_model(config.model, encoder.model.config, pieces=pieces)
    records.read_info(config.data.path)
    kept = config.compilation_cache
    with (
        runtime.run_directory(workdir, programs=kept) as path,
        jax.set_mesh(mesh),
    ):
        data, open_latents = find_data(config, encoder, workdir=path)
        runtime.tell_account((data.path, *data.also))
        captioned = drawn.with_captions(open_latents(data))
        if text.encoder is None:
            runtime.tell(caption_notes.caption_notes(captioned, data.captions))
        else:
            caption_notes.check_embedded(
                captioned, data.captions, features=data.features
            )
        train_job = job.make_job(
            config,
            data,
            open_latents=open_latents,
            encoder_digest=encoder.model.encoder_digest,
            text=text.identity,
            mesh=mesh,
        )
        state = loop.fit(
            train_job,
            workdir=path,
            config=config.train,
            optimizer_config=config.optimizer,
        )
        runtime.require_end(int(state.step), config.train.steps)
        result = runtime.evaluate(train_job, state.ema)
        export.export(
            config,
            data,
            latents=open_latents(data),
            encoder=encoder,
            text=text,
            params=state.ema,
            workdir=path,
        )
        runtime.write_json(path / "result.json", result)
        runtime.barrier("exported")
    return result


def find_data(
    config: config_lib.VideoRunConfig,
    encoder: data_lib.TrainedEncoder,
    *,
    workdir: buckets.Folder,
) -> tuple[pipeline.PackedDataConfig, data_lib.OpenLatents]:
    """The data of a run, and what opens a split: cached latents, or clips to encode.

    Raises:
      DatasetError: no dataset, or latents of another encoder.
      ConfigError: `workdir` holds latents or statistics of other settings or clips.
    """
    shards = attention.ring_shards(config.model.heads)
    if not config.cache.enabled:
        drawing = encoder.for_drawing()
        statistics = drawn.measured(config, drawing, workdir=workdir)
        opened = drawn.sources(config, drawing, statistics=statistics)
        return dataclasses.replace(config.data, shards=shards), opened
    path = str(data_lib.find_latents(config, encoder, workdir=workdir))
    return (
        dataclasses.replace(config.data, path=path, shards=shards),
        functools.partial(data_lib.open_cached, digest=encoder.model.encoder_digest),
    )
