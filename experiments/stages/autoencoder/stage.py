"""Stage one: the spacetime autoencoder, from crops of clips.

`WORKDIR/model` is the result: averaged parameters, their configuration, and mean and
deviation of every latent channel over the training clips. `WORKDIR/result.json` holds
PSNR and SSIM of held-out clips.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import jax

from experiments.stages import runtime
from experiments.stages.autoencoder import config as config_lib
from experiments.stages.autoencoder import data, evaluation, export, job
from soraflax.nn import autoencoder
from soraflax.train import loop


def run(values: Any, workdir: str | pathlib.Path) -> dict[str, float]:
    """Train, measure, export; returns what `result.json` holds.

    Raises:
      ValueError, OSError: bad input, in one line.
      Interrupted: asked to stop before the end.
    """
    config, mesh = runtime.start(values, config_lib.AutoencoderRunConfig)
    module = autoencoder.Autoencoder(config.model)
    clips = data.EvaluationClips(
        config.data.path, config.model, config.evaluation, mesh
    )
    train_job = job.make_job(config, module, mesh=mesh)
    with runtime.run_directory(workdir) as path, jax.set_mesh(mesh):
        evaluate = functools.partial(
            evaluation.quality, module, batches=clips.held_out()
        )
        state = loop.fit(
            dataclasses.replace(train_job, evaluate=evaluate),
            workdir=path,
            config=config.train,
            optimizer_config=config.optimizer,
        )
        runtime.require_end(int(state.step), config.train.steps)
        result = evaluate(state.ema)
        export.export(
            path,
            state.ema,
            sizes=config.model,
            statistics=evaluation.latent_statistics(module, state.ema, clips=clips),
            result=result,
        )
    return result
