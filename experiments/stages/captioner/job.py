"""The stage `captioner` as a training job."""

import dataclasses
import functools
import itertools

import jax
from jax.sharding import Mesh

from data_pipelines import pipeline, records
from experiments.stages import run_config, runtime
from experiments.stages.captioner import config as stage_config
from soraflax import config as config_lib
from soraflax import flops, sharding
from soraflax.nn import captioner
from soraflax.ops import packing
from soraflax.pretrained import captioners, slices
from soraflax.train import captioning, loop, metrics, prefetch


def make_job(
    config: stage_config.CaptionerRunConfig,
    data: pipeline.PackedDataConfig,
    *,
    base: captioners.CaptionerModel | None = None,
    encoder_digest: str,
    mesh: Mesh,
) -> loop.TrainJob:
    """Data, parameters and loss of the stage, on `mesh`; latents at `data.path`.

    Raises:
      ConfigError: a base of other sizes.
    """
    if base is not None and base.config.captioner != config.model:
        raise config_lib.ConfigError(
            f"config.model: {config.base} has other sizes: {base.config.captioner}"
        )
    module = captioner.Captioner(config.model)
    batches = pipeline.make_batches(
        data, digest=encoder_digest, host=runtime.host(mesh)
    )
    key = jax.random.key(config.seed)
    rows = data.rows * len(sharding.batch_shard_processes(mesh))
    sizes = {"patch_size": config.model.patch_size, "text_width": None}
    with jax.set_mesh(mesh):
        example = packing.Packed.shapes(data.row, rows=rows, **sizes)
        initial = sharding.initializer(
            module, jax.random.fold_in(key, 0), example, mesh=mesh
        )
    make = initial.make
    if base is not None:
        placed = (slices.place, base.params, initial.shardings)
        make = functools.partial(jax.tree.map, *placed)
    return loop.TrainJob(
        name="captioner",
        loss=functools.partial(captioning.loss, module=module),
        init=make,
        shapes=initial.shapes,
        shardings=initial.shardings,
        mesh=mesh,
        key=jax.random.fold_in(key, 1),
        iterator=runtime.to_one_end(batches, data, **sizes),
        step_cost=functools.partial(step_cost, config.model),
        settings=config_lib.to_dict(config),
        clips=batches.clips,
        epochs=batches.epochs,
        identity=config_lib.to_dict(config)
        | {"encoder": encoder_digest}
        | ({"start": base.digest} if base else {}),
        mutable_keys=run_config.MUTABLE_KEYS,
        evaluate=make_validation(config, data, module=module, mesh=mesh),
    )


def make_validation(
    config: stage_config.CaptionerRunConfig,
    data: pipeline.PackedDataConfig,
    *,
    module: captioner.Captioner,
    mesh: Mesh,
) -> captioning.Validation | None:
    """Loss on held-out captions; None where the dataset has no held-out clips."""
    if not records.read_info(data.path)["splits"].get("validation"):
        return None
    held_out = dataclasses.replace(
        data, split="validation", passes=1, also=(), weights=(), lanes=0
    )
    dataset = pipeline.make_dataset(held_out, host=runtime.host(mesh))
    empty = packing.Packed.zeros(
        data.row, rows=data.rows, patch_size=config.model.patch_size, text_width=None
    )
    return captioning.Validation(
        module,
        runtime.evened(
            itertools.islice(dataset, config.evaluation.batches), empty=empty
        ),
        put=functools.partial(prefetch.put_batch, mesh=mesh),
    )


def step_cost(
    config: captioner.CaptionerConfig, packed: packing.Packed
) -> metrics.StepCost:
    """The cost of a batch of packed rows."""
    lengths = flops.lengths(packed.segments, packed.text_segments)
    training_flops = flops.training(flops.captioner_flops(config, lengths))
    return metrics.StepCost(sum(lengths.tokens), packed.segments.size, training_flops)
