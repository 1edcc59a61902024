"""Stage one: the spacetime autoencoder, from crops of clips.

`WORKDIR/model` is the result: averaged parameters, their configuration, and mean and
deviation of every latent channel over the training clips. `WORKDIR/result.json` holds
PSNR and SSIM of held-out clips.
"""

import dataclasses
import functools
import pathlib
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from data_pipelines import pipeline
from experiments.stages import codec, common
from soraflax import config as config_lib
from soraflax import sharding
from soraflax.nn import autoencoder
from soraflax.train import loop, optimizer, reconstruction, step


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run of this stage is made of.

    Attributes:
      stage: says that it is this one.
      data: crops of clips.
      batch: crops per step, over all processes.
      seed: of parameters and sampling.
      distributed: several processes form one run (`jax.distributed`).
      compilation_cache: folder in which compiled programs are kept; none by default.
    """

    stage: Literal["autoencoder"]
    data: pipeline.VideoDataConfig
    model: autoencoder.AutoencoderConfig
    optimizer: optimizer.OptimizerConfig
    train: loop.TrainConfig
    loss: reconstruction.ReconstructionConfig
    evaluation: codec.EvaluationConfig
    mesh: common.MeshConfig
    batch: int
    seed: int = 0
    distributed: bool = False
    compilation_cache: str = ""

    def __post_init__(self) -> None:
        codec.check_data(self.data, self.batch)
        for frames, height, width in self.data.crops.shapes:
            self.model.latent_grid(frames, height, width)


def run(values: Any, workdir: str | pathlib.Path) -> dict[str, float]:
    """Train, measure, export; returns what `result.json` holds.

    Raises:
      ValueError, OSError: bad input, in one line.
      Interrupted: asked to stop before the end.
    """
    config, mesh = common.begin(values, Config)
    module = autoencoder.Autoencoder(config.model)
    clips = codec.Clips(config.data.path, config.model, config.evaluation, mesh)
    job = make_job(config, module, mesh=mesh)
    with common.folder(workdir) as path, jax.set_mesh(mesh):
        measure = functools.partial(codec.quality, module, clips.held_out())
        state = loop.fit(
            dataclasses.replace(job, evaluate=measure),
            workdir=path,
            config=config.train,
            optimizer_config=config.optimizer,
        )
        common.require_end(int(state.step), config.train.steps)
        result = measure(state.ema)
        codec.finish(
            path,
            common.to_host(state.ema, mesh),
            sizes=config.model,
            statistics=codec.latent_statistics(module, state.ema, clips=clips),
            result=result,
        )
    return result


def make_job(
    config: Config, module: autoencoder.Autoencoder, *, mesh: Mesh
) -> loop.TrainJob:
    """Data, parameters and loss of the stage, on `mesh`."""
    iterator = codec.crops(config.data, batch=config.batch, mesh=mesh)
    key = jax.random.key(config.seed)
    example = jnp.zeros((config.batch, *config.data.crops.shapes[0], 3), jnp.float32)
    with jax.set_mesh(mesh):
        params, shardings = sharding.init(
            module, jax.random.fold_in(key, 0), example, mesh=mesh
        )
    return loop.TrainJob(
        name="autoencoder",
        loss=step.Contextual(
            functools.partial(reconstruction.loss, module=module, config=config.loss),
            codec.perceptual(config.loss, mesh),
        ),
        params=params,
        shardings=shardings,
        mesh=mesh,
        key=jax.random.fold_in(key, 1),
        iterator=iterator,
        measure=functools.partial(codec.work, config.model),
        identity=config_lib.to_dict(config),
        may_differ=common.MAY_DIFFER,
    )
