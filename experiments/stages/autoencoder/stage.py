"""Stage one: the spacetime autoencoder, from crops of clips.

`WORKDIR/model` is the result: averaged parameters, their configuration, and mean and
deviation of every latent channel over the training clips. `WORKDIR/result.json` holds
PSNR and SSIM of held-out clips. With `config.base` the decoder of a trained autoencoder
is trained on, and its encoder, statistics and latents stay as they are.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from experiments.stages import runtime
from experiments.stages.autoencoder import config as config_lib
from experiments.stages.autoencoder import data, evaluation, export, job
from soraflax.nn import autoencoder
from soraflax.pretrained import models
from soraflax.train import loop


def run(values: Any, workdir: str | pathlib.Path) -> dict[str, float]:
    """Train, measure, export; returns what `result.json` holds.

    Raises:
      ValueError, OSError: bad input, in one line.
      Interrupted: asked to stop before the end.
    """
    config, mesh = runtime.start(values, config_lib.AutoencoderRunConfig)
    base = models.load_autoencoder(config.base) if config.base else None
    module = autoencoder.Autoencoder(config.model)
    clips = data.EvaluationClips(
        config.data.path, config.model, config.evaluation, mesh
    )
    train_job = job.make_job(config, module, base=base, mesh=mesh)
    frozen = train_job.loss.constants.get("frozen", {})
    kept = config.compilation_cache
    with (
        runtime.run_directory(workdir, programs=kept) as path,
        jax.set_mesh(mesh),
    ):
        runtime.tell_account((config.data.path, *config.data.also))
        batches = clips.held_out()

        def evaluate(
            params: Any, *, check: Callable[[], None] = lambda: None
        ) -> dict[str, float]:
            merged = {**frozen, **params}
            return evaluation.quality(module, merged, batches=batches, check=check)

        train_job = dataclasses.replace(train_job, evaluate=evaluate)
        state = loop.fit(
            train_job,
            workdir=path,
            config=config.train,
            optimizer_config=config.optimizer,
        )
        runtime.require_end(int(state.step), config.train.steps)
        result = runtime.evaluate(train_job, state.ema)
        statistics = base.statistics if base else None
        if statistics is None:
            statistics = evaluation.latent_statistics(
                module, {**frozen, **state.ema}, clips=clips, check=runtime.heed
            )
        export.export(
            path,
            {**(base.params if base else {}), **state.ema},
            sizes=config.model,
            statistics=statistics,
            result=result,
        )
    return result
