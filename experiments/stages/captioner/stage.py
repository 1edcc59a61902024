"""The captioner's stage: latents in, detailed captions out.

`data.path` names latents, or clips that are first encoded into `WORKDIR/latents`. With
`config.base` a trained captioner is trained on, such as on captions of real clips.
`WORKDIR/model` is the result: averaged parameters, their configuration, the
autoencoder whose latents it reads, and the vocabulary.
"""

import dataclasses
import pathlib
from typing import Any

import jax

from data_pipelines import caption_notes, latents, records
from experiments.stages import runtime
from experiments.stages.captioner import config as config_lib
from experiments.stages.captioner import export, job
from experiments.stages.video import data as data_lib
from soraflax import tokenizer
from soraflax.cli import checkpoints
from soraflax.pretrained import captioners
from soraflax.train import loop


def run(values: Any, workdir: str | pathlib.Path) -> dict[str, float]:
    """Cache latents, train, export; returns what `result.json` holds.

    Raises:
      ValueError, OSError: bad input, in one line.
      Interrupted: asked to stop before the end.
    """
    config, mesh = runtime.start(values, config_lib.CaptionerRunConfig)
    config_lib.check_mesh(config, mesh)
    directory = checkpoints.autoencoder_directory(pathlib.Path(config.autoencoder))
    encoder = data_lib.TrainedEncoder.load(str(directory))
    vocabulary = tokenizer.Tokenizer.embedded()
    config_lib.check_model(config.model, encoder.model.config, vocabulary=vocabulary)
    base = None
    if config.base:
        base = captioners.load_captioner(config.base, codec=encoder.model)
    records.read_info(config.data.path)
    kept = config.compilation_cache
    with (
        runtime.run_directory(workdir, programs=kept) as path,
        jax.set_mesh(mesh),
    ):
        source = data_lib.find_latents(config, encoder, workdir=path)
        data = dataclasses.replace(config.data, path=str(source))
        sources = [latents.open_latents(p, data.split) for p in (source, *data.also)]
        runtime.tell_account((data.path, *data.also))
        runtime.tell(caption_notes.caption_notes(sources, data.captions))
        train_job = job.make_job(
            config,
            data,
            base=base,
            encoder_digest=encoder.model.encoder_digest,
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
            encoder=encoder,
            vocabulary=vocabulary,
            params=state.ema,
            result=result,
            workdir=path,
        )
        runtime.write_json(path / "result.json", result)
        runtime.barrier("exported")
    return result
