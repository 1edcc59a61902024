"""Stage two: the packed diffusion transformer, from latents and captions.

`data.path` names latents, or clips that are first encoded into `WORKDIR/latents`.
`WORKDIR/model` is the result and needs nothing beside it: averaged parameters, their
configuration, the autoencoder, the vocabulary, and the text encoder where captions come
as its features (`data.features`).
"""

import dataclasses
import pathlib
from typing import Any

import jax

from data_pipelines import caption_notes, latents, records
from experiments.stages import runtime
from experiments.stages.video import config as config_lib
from experiments.stages.video import data as data_lib
from experiments.stages.video import export, job
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
        data = dataclasses.replace(
            config.data,
            path=str(data_lib.find_latents(config, encoder, workdir=path)),
            shards=attention.ring_shards(config.model.heads),
        )
        sources = [
            latents.open_latents(source, data.split)
            for source in (data.path, *data.also)
        ]
        runtime.tell_account((data.path, *data.also))
        if text.encoder is None:
            runtime.tell(caption_notes.caption_notes(sources, data.captions))
        train_job = job.make_job(
            config,
            data,
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
        result = train_job.evaluate(state.ema) if train_job.evaluate else {}
        export.export(
            config,
            data,
            encoder=encoder,
            text=text,
            params=state.ema,
            workdir=path,
        )
        runtime.write_json(path / "result.json", result)
        runtime.barrier("exported")
    return result
