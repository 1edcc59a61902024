"""The stage `autoencoder` as a training job."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experiments.stages import run_config
from experiments.stages.autoencoder import config as stage_config
from experiments.stages.autoencoder import data
from soraflax import config as config_lib
from soraflax import flops, sharding
from soraflax.nn import autoencoder
from soraflax.pretrained import slices
from soraflax.train import loop, metrics, reconstruction, step
from soraflax.weights import lpips


def make_job(
    config: stage_config.AutoencoderRunConfig,
    module: autoencoder.Autoencoder,
    *,
    mesh: Mesh,
) -> loop.TrainJob:
    """Data, parameters and loss of the stage, on `mesh`."""
    iterator = data.crops(config.data, batch=config.batch, mesh=mesh)
    key = jax.random.key(config.seed)
    example = jnp.zeros((config.batch, *config.data.crops.shapes[0], 3), jnp.float32)
    with jax.set_mesh(mesh):
        initial = sharding.initializer(
            module, jax.random.fold_in(key, 0), example, mesh=mesh
        )
    return loop.TrainJob(
        name="autoencoder",
        loss=step.LossWithContext(
            functools.partial(reconstruction.loss, module=module, config=config.loss),
            lpips_constants(config.loss, mesh),
        ),
        init=initial.make,
        shapes=initial.shapes,
        shardings=initial.shardings,
        mesh=mesh,
        key=jax.random.fold_in(key, 1),
        iterator=iterator,
        step_cost=functools.partial(step_cost, config.model),
        identity=config_lib.to_dict(config),
        mutable_keys=run_config.MUTABLE_KEYS,
    )


def lpips_constants(
    config: reconstruction.ReconstructionConfig, mesh: Mesh
) -> dict[str, Any]:
    """Constants of the loss: the parameters of LPIPS where it has a weight.

    Raises:
      FileNotFoundError, ModelError: see `weights.lpips`.
    """
    if not config.lpips:
        return {}
    params = lpips.load_lpips(config.lpips_path)
    replicated = sharding.replicated(mesh)
    return {"lpips": jax.tree.map(lambda x: slices.place(x, replicated), params)}


def step_cost(config: autoencoder.AutoencoderConfig, batch: Any) -> metrics.StepCost:
    """The cost of a batch of crops; a token is one latent cell, none is padding."""
    rows, *shape = batch["video"].shape[:4]
    cells = rows * math.prod(config.latent_grid(*shape))
    forward = rows * flops.autoencoder_flops(config, video=tuple(shape))
    return metrics.StepCost(cells, cells, flops.training(forward))
