"""Stage one, continued: the autoencoder against a discriminator.

Starts from the trained autoencoder of `config.autoencoder`. Its encoder is frozen
unless `train_encoder` says otherwise, and with it all that hangs on the latents: their
statistics, cached latents, transformers trained on them. `WORKDIR/model` and
`WORKDIR/result.json` are as in the stage `autoencoder`.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from experiments.stages import runtime
from experiments.stages.adversarial import config as config_lib
from experiments.stages.adversarial import job
from experiments.stages.autoencoder import data, evaluation, export
from soraflax.nn import autoencoder
from soraflax.pretrained import models
from soraflax.train import adversarial, loop


def run(values: Any, workdir: str | pathlib.Path) -> dict[str, float]:
    """Train, measure, export; returns what `result.json` holds.

    Raises:
      ValueError, OSError: bad input, in one line.
      Interrupted: asked to stop before the end.
    """
    config, mesh = runtime.start(values, config_lib.AdversarialRunConfig)
    saved = models.load_autoencoder(config.autoencoder)
    overrides = {"dtype": config.dtype, "remat": config.remat}
    overrides = {name: value for name, value in overrides.items() if value}
    source = dataclasses.replace(
        saved, config=dataclasses.replace(saved.config, **overrides)
    )
    module = autoencoder.Autoencoder(source.config)
    clips = data.EvaluationClips(
        config.data.path, source.config, config.evaluation, mesh
    )
    train_job, frozen = job.make_job(config, source, mesh=mesh)
    kept = config.compilation_cache
    with (
        runtime.run_directory(workdir, programs=kept) as path,
        jax.set_mesh(mesh),
    ):
        runtime.tell_account((config.data.path, *config.data.also))
        batches = clips.held_out()

        def evaluate(
            params: Mapping[str, Any], *, check: Callable[[], None] = lambda: None
        ) -> dict[str, float]:
            merged = {**frozen, **params[adversarial.AUTOENCODER]}
            return evaluation.quality(module, merged, batches=batches, check=check)

        train_job = dataclasses.replace(train_job, evaluate=evaluate)
        state = loop.fit(
            train_job,
            workdir=path,
            config=config.train,
            optimizer_config=config.optimizers,
        )
        runtime.require_end(int(state.step), config.train.steps)
        result = runtime.evaluate(train_job, state.ema)
        trained = state.ema[adversarial.AUTOENCODER]
        # A frozen encoder gives the latents that its statistics were taken of.
        statistics = source.statistics if frozen else None
        if statistics is None:
            statistics = evaluation.latent_statistics(
                module, {**frozen, **trained}, clips=clips, check=runtime.heed
            )
        export.export(
            path,
            {**source.params, **trained},
            sizes=saved.config,
            statistics=statistics,
            result=result,
        )
    return result
