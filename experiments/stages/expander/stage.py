"""The prompt expander's stage: the captioner's network, short captions in, long out.

It needs no dataset: the pairs are drawn from a world's grammar as they are trained on.
`WORKDIR/model` is the result: averaged parameters, their configuration, the vocabulary.
"""

import functools
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh

from data_pipelines import prompt_pairs
from experiments.stages import run_config, runtime
from experiments.stages.captioner import config as captioner_config
from experiments.stages.captioner import job as captioner_job
from experiments.stages.expander import config as stage_config
from soraflax import config as config_lib
from soraflax import sharding, tokenizer
from soraflax.nn import captioner
from soraflax.ops import packing
from soraflax.pretrained import expanders
from soraflax.train import captioning, loop, prefetch


def run(values: Any, workdir: str | pathlib.Path) -> dict[str, float]:
    """Train, export; returns what `result.json` holds.

    Raises:
      ValueError, OSError: bad input, in one line.
      Interrupted: asked to stop before the end.
    """
    config, mesh = runtime.start(values, stage_config.ExpanderRunConfig)
    captioner_config.check_mesh(config, mesh)
    vocabulary = tokenizer.Tokenizer.embedded()
    captioner_config.check_vocabulary(config.model, vocabulary)
    kept = config.compilation_cache
    with (
        runtime.run_directory(workdir, programs=kept) as path,
        jax.set_mesh(mesh),
    ):
        job = make_job(config, mesh=mesh)
        state = loop.fit(
            job, workdir=path, config=config.train, optimizer_config=config.optimizer
        )
        runtime.require_end(int(state.step), config.train.steps)
        result = runtime.evaluate(job, state.ema)
        expanders.save_expander(
            path / "model",
            runtime.heeding_signals(state.ema),
            config=expanders.ExpanderModelConfig(
                network=config.model,
                prompt_length=config.data.prompt_length,
                text_length=config.data.text_length,
            ),
            vocabulary=vocabulary,
            metadata={"validation": result},
        )
        runtime.write_json(path / "result.json", result)
        runtime.barrier("exported")
    return result


def make_job(config: stage_config.ExpanderRunConfig, *, mesh: Mesh) -> loop.TrainJob:
    """Pairs, parameters and loss of the stage, on `mesh`."""
    module, data = captioner.Captioner(config.model), config.data
    host = runtime.host(mesh)
    batches = prompt_pairs.make_batches(data, host=host)
    key = jax.random.key(config.seed)
    rows = data.rows * len(sharding.batch_shard_processes(mesh))
    example = packing.Packed.shapes(
        data.row, rows=rows, patch_size=config.model.patch_size, text_width=None
    )
    initial = sharding.initializer(
        module, jax.random.fold_in(key, 0), example, mesh=mesh
    )
    held_out = prompt_pairs.PairBatches(data, holdout="only", host=host)
    settings = config_lib.to_dict(config)
    return loop.TrainJob(
        name="expander",
        loss=functools.partial(captioning.loss, module=module),
        init=initial.make,
        shapes=initial.shapes,
        shardings=initial.shardings,
        mesh=mesh,
        key=jax.random.fold_in(key, 1),
        iterator=batches,
        step_cost=functools.partial(captioner_job.step_cost, config.model),
        settings=settings,
        clips=batches.clips,
        identity=settings,
        mutable_keys=run_config.MUTABLE_KEYS,
        evaluate=captioning.Validation(
            module,
            (held_out[n] for n in range(config.evaluation.batches)),
            put=functools.partial(prefetch.put_batch, mesh=mesh),
        ),
    )
