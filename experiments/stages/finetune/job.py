"""The stage `finetune` as a training job."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from flax.core import meta
from jax.sharding import Mesh

from data_pipelines import pipeline
from experiments.stages import run_config, runtime
from experiments.stages.finetune import config as stage_config
from experiments.stages.finetune import data as data_lib
from experiments.stages.video import config as video_config
from experiments.stages.video import data as video_data
from experiments.stages.video import job as video_job
from soraflax import config as config_lib
from soraflax import sharding
from soraflax.nn import dit
from soraflax.nn import lora as lora_lib
from soraflax.pretrained import abstract, models
from soraflax.pretrained import io as model_io
from soraflax.train import denoising, loop, step


@dataclasses.dataclass(frozen=True)
class TrainableParams:
    """The trained parameters, and the model that they are a part of.

    Attributes:
      initial: adapters, or all parameters, still to be made.
      merge: `(params, base) -> all parameters`, as the module takes them.
      base: frozen parameters, on the mesh; empty where all are trained.
    """

    initial: sharding.Initializer
    merge: Callable[[Any, Any], Any]
    base: Any


def init_params(
    config: stage_config.FinetuneRunConfig, base: models.VideoModel, *, mesh: Mesh
) -> TrainableParams:
    """Zero-initialised adapters of a frozen base, or the base to be trained.

    Each process reads from the base's files what its own devices hold.

    Args:
      config: configuration of the run.
      base: the base, of which shapes are enough.
      mesh: devices of all parameters.
    """
    boxed = abstract.boxed_transformer(base.config.transformer)
    shardings = abstract.transformer_shardings(base.config.transformer, mesh)
    shapes = sharding.sharded_shapes(meta.unbox(boxed), shardings)
    directory = model_io.find_model(config.base, kind="video")
    read = functools.partial(
        model_io.load_sharded, directory, like=shapes, shardings=shardings
    )
    if config.lora is None:
        initial = sharding.Initializer(read, shapes, shardings)
        return TrainableParams(initial, lambda params, _: params, {})
    lora = config.lora
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    return TrainableParams(
        lora_lib.initializer(key, boxed, config=lora, mesh=mesh),
        lambda adapters, base: lora_lib.attach(base, adapters, config=lora),
        read(),
    )


def make_job(
    config: stage_config.FinetuneRunConfig,
    scratch: video_config.VideoRunConfig,
    *,
    data: pipeline.PackedDataConfig,
    open_latents: video_data.OpenLatents,
    base: models.VideoModel,
    trainable: TrainableParams,
    mesh: Mesh,
) -> loop.TrainJob:
    """Data, parameters and loss of the stage, on `mesh`.

    Args:
      config: configuration of the run.
      scratch: configuration of a run from scratch of the base's sizes (`check_base`).
      data: the training data, with its latents found.
      open_latents: opens those of a split, with statistics of their own.
      base: the model that training starts from.
      trainable: the parameters that are trained (`init_params`).
      mesh: mesh that the run is laid over.
    """
    predict = denoising.predict_with(dit.DiT(scratch.model))

    def loss(params: Any, batch: Any, key: jax.Array, context: step.LossContext) -> Any:
        merged = trainable.merge(params, context.constants)
        return denoising.loss(merged, batch, key, predict=predict, config=config.loss)

    def opened(data: pipeline.PackedDataConfig) -> list[Any]:
        return data_lib.normalised(open_latents(data), base.config.statistics)

    batches = pipeline.make_batches(data, latents=opened(data), host=runtime.host(mesh))
    validate = video_job.make_evaluation(
        scratch, data, predict=predict, mesh=mesh, open_latents=opened
    )

    def evaluate(
        params: Any, *, check: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        assert validate is not None
        return validate(trainable.merge(params, trainable.base), check=check)

    return loop.TrainJob(
        name="finetune",
        loss=step.LossWithContext(loss, trainable.base),
        init=trainable.initial.make,
        shapes=trainable.initial.shapes,
        shardings=trainable.initial.shardings,
        mesh=mesh,
        key=jax.random.fold_in(jax.random.key(config.seed), 1),
        iterator=runtime.to_one_end(
            batches, data, **video_job.row_sizes(scratch.model)
        ),
        step_cost=functools.partial(video_job.step_cost, scratch.model),
        settings=config_lib.to_dict(config),
        clips=batches.clips,
        epochs=batches.epochs,
        identity=config_lib.to_dict(config) | {"base": base.digest},
        mutable_keys=run_config.MUTABLE_KEYS,
        evaluate=evaluate if validate else None,
    )
