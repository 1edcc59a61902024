"""The stage `video` as a training job, and what it is evaluated by."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from data_pipelines import pipeline, records, word_swaps
from experiments.stages import run_config, runtime
from experiments.stages.video import config as stage_config
from experiments.stages.video import data as data_lib
from soraflax import config as config_lib
from soraflax import flops, sharding
from soraflax.evaluation import caption_gap, validation
from soraflax.nn import dit
from soraflax.ops import packing
from soraflax.train import denoising, loop, metrics, prefetch


def make_job(
    config: stage_config.VideoRunConfig,
    data: pipeline.PackedDataConfig,
    *,
    open_latents: data_lib.OpenLatents,
    encoder_digest: str,
    text: Mapping[str, str],
    mesh: Mesh,
) -> loop.TrainJob:
    """Data, parameters and loss of the stage, on `mesh`.

    Args:
      config: configuration of the run.
      data: the training data, with its latents found.
      open_latents: opens those of a split.
      encoder_digest: digest of the encoder of its latents.
      text: digests of the encoder of its text features, in which a resumed run agrees.
      mesh: mesh that the run is laid over.
    """
    module = dit.DiT(config.model)
    batches = pipeline.make_batches(
        data, latents=open_latents(data), host=runtime.host(mesh)
    )
    key = jax.random.key(config.seed)
    with jax.set_mesh(mesh):
        initial = sharding.initializer(
            module,
            jax.random.fold_in(key, 0),
            packing.Packed.shapes(
                data.row, rows=global_rows(data, mesh), **row_sizes(config.model)
            ),
            mesh=mesh,
        )
    predict = denoising.predict_with(module)
    return loop.TrainJob(
        name="video",
        loss=functools.partial(denoising.loss, predict=predict, config=config.loss),
        init=initial.make,
        shapes=initial.shapes,
        shardings=initial.shardings,
        mesh=mesh,
        key=jax.random.fold_in(key, 1),
        iterator=runtime.to_one_end(batches, data, **row_sizes(config.model)),
        step_cost=functools.partial(step_cost, config.model),
        settings=config_lib.to_dict(config),
        clips=batches.clips,
        epochs=batches.epochs,
        identity=config_lib.to_dict(config)
        | {"encoder": encoder_digest, **({"text": dict(text)} if text else {})},
        mutable_keys=run_config.MUTABLE_KEYS,
        evaluate=make_evaluation(
            config, data, predict=predict, mesh=mesh, open_latents=open_latents
        ),
    )


def row_sizes(model: dit.DiTConfig) -> dict[str, Any]:
    """The sizes of a packed row that a model takes, as of `Packed.shapes`."""
    text_width = None if model.text else model.text_width
    return {"patch_size": model.patch_size, "text_width": text_width}


def global_rows(data: pipeline.PackedDataConfig, mesh: Mesh) -> int:
    """Rows of a batch over all processes."""
    return data.rows * len(sharding.batch_shard_processes(mesh))


def make_evaluation(
    config: stage_config.VideoRunConfig,
    data: pipeline.PackedDataConfig,
    *,
    predict: denoising.Predict,
    mesh: Mesh,
    open_latents: data_lib.OpenLatents,
) -> loop.Evaluate | None:
    """Validation loss and caption gap; None where the dataset has no held-out clips.

    Args:
      config: configuration of the run.
      data: its training data.
      predict: `(params, packed) -> [B, N, P]`.
      mesh: mesh that rows are divided over.
      open_latents: opens the latents of a split.
    """
    made = {"predict": predict, "mesh": mesh, "open_latents": open_latents}
    validate = make_validation(config, data, **made)
    if validate is None or not config.evaluation.words:
        return validate
    gap = make_caption_gap(config, data, **made)

    def evaluate(
        params: Any, *, check: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        return validate(params, check=check) | gap(params, check=check)

    return evaluate


def make_caption_gap(
    config: stage_config.VideoRunConfig,
    data: pipeline.PackedDataConfig,
    *,
    predict: denoising.Predict,
    mesh: Mesh,
    open_latents: data_lib.OpenLatents,
) -> caption_gap.CaptionGap:
    """The caption gap of `config.evaluation.words` on held-out clips."""
    held_out = dataclasses.replace(
        data, split="validation", also=(), weights=(), rows=global_rows(data, mesh)
    )
    host = runtime.host(mesh)
    swapped = word_swaps.make_swapped_rows(
        held_out,
        {name: words for name, *words in config.evaluation.words},
        clips=config.evaluation.clips,
        latents=next(iter(open_latents(held_out)), None),
    )

    def denoise(
        params: Any, packed: packing.Packed, levels: jax.Array, noise: jax.Array
    ) -> jax.Array:
        return denoising.predict_x0(
            params,
            packed,
            levels=levels,
            noise=noise,
            predict=predict,
            config=config.loss,
        )

    return caption_gap.CaptionGap(
        denoise,
        rows=swapped.rows,
        replaced=swapped.replaced,
        seed=config.seed,
        part=slice(host.index * data.rows, (host.index + 1) * data.rows),
        put=functools.partial(prefetch.put_batch, mesh=mesh),
    )


def make_validation(
    config: stage_config.VideoRunConfig,
    data: pipeline.PackedDataConfig,
    *,
    predict: denoising.Predict,
    mesh: Mesh,
    open_latents: data_lib.OpenLatents,
) -> validation.ValidationLoss | None:
    """Validation loss on held-out clips; None where the dataset has none."""
    if not records.read_info(data.path)["splits"].get("validation"):
        return None
    held_out = dataclasses.replace(
        data,
        split="validation",
        passes=1,
        also=(),
        weights=(),
        lanes=0,
        windows=0.0,
    )
    dataset = pipeline.make_dataset(
        held_out, latents=open_latents(held_out), host=runtime.host(mesh)
    )

    def loss_at(
        params: Any, packed: packing.Packed, levels: jax.Array, noise: jax.Array
    ) -> jax.Array:
        return denoising.loss_at(
            params,
            packed,
            levels=levels,
            noise=noise,
            predict=predict,
            config=config.loss,
        )

    empty = packing.Packed.zeros(data.row, rows=data.rows, **row_sizes(config.model))
    return validation.ValidationLoss(
        loss_at,
        runtime.evened(
            itertools.islice(dataset, config.evaluation.batches), empty=empty
        ),
        weight=functools.partial(denoising.total_weight, config=config.loss),
        seed=config.seed,
        put=functools.partial(prefetch.put_batch, mesh=mesh),
    )


def step_cost(config: dit.DiTConfig, packed: packing.Packed) -> metrics.StepCost:
    """The cost of a batch of packed rows."""
    lengths = flops.lengths(packed.segments, packed.text_segments)
    training_flops = flops.training(flops.transformer_flops(config, lengths))
    return metrics.StepCost(sum(lengths.tokens), packed.segments.size, training_flops)
