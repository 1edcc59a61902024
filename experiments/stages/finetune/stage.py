"""A trained video model trained further on other clips: adapters of it, or all of it.

`base` is a video model; its sizes, autoencoder, vocabulary and statistics stay, and
with adapters all of its parameters do. `WORKDIR/model` is the result, a video model
like its base (adapters merged), and `WORKDIR/adapters` holds the adapters alone.
"""

import dataclasses
import pathlib
from typing import Any

import jax

from data_pipelines import caption_notes, records
from experiments.stages import runtime
from experiments.stages.finetune import config as config_lib
from experiments.stages.finetune import export, job
from experiments.stages.video import config as video_config
from experiments.stages.video import data as video_data
from experiments.stages.video import drawn
from experiments.stages.video import stage as video_stage
from soraflax.pretrained import models
from soraflax.train import loop


def run(values: Any, workdir: str | pathlib.Path) -> dict[str, float]:
    """Cache latents, train, export; returns what `result.json` holds.

    Raises:
      ValueError, OSError: bad input, in one line.
      Interrupted: asked to stop before the end.
    """
    config, mesh = runtime.start(values, config_lib.FinetuneRunConfig)
    base = models.load_video_model(config.base, only_shapes=True)
    config = config_lib.following(config, base)
    scratch = config_lib.check_base(config, base)
    video_config.check_mesh(scratch, mesh)
    encoder = video_data.TrainedEncoder.load(scratch.autoencoder)
    text = video_data.TextSource.find(scratch)
    records.read_info(config.data.path)
    kept = config.compilation_cache
    with (
        runtime.run_directory(workdir, programs=kept) as path,
        jax.set_mesh(mesh),
    ):
        data, open_latents = video_stage.find_data(scratch, encoder, workdir=path)
        runtime.tell_account((data.path, *data.also))
        captioned = drawn.with_captions(open_latents(data))
        if text.encoder is None:
            runtime.tell(caption_notes.caption_notes(captioned, data.captions))
        else:
            caption_notes.check_embedded(
                captioned, data.captions, features=data.features
            )
        trainable = job.init_params(config, base, mesh=mesh)
        train_job = job.make_job(
            config,
            scratch,
            data=data,
            open_latents=open_latents,
            base=base,
            trainable=trainable,
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
            dataclasses.replace(base, params=trainable.base),
            data=data,
            latents=open_latents(data),
            text=text,
            params=state.ema,
            workdir=path,
        )
        runtime.write_json(path / "result.json", result)
        runtime.barrier("exported")
    return result
