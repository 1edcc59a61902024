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
from soraflax.pretrained import models
from soraflax.train import loop, metrics, reconstruction, step
from soraflax.weights import lpips


def make_job(
    config: stage_config.AutoencoderRunConfig,
    module: autoencoder.Autoencoder,
    *,
    base: models.AutoencoderModel | None = None,
    mesh: Mesh,
) -> loop.TrainJob:
    """Data, parameters and loss of the stage, on `mesh`.

    With a `base` all its parameters but the decoder's are constants of the loss, as
    `frozen`.

    Raises:
      ConfigError: a base of other sizes.
    """
    if base is not None and base.config != config.model:
        raise config_lib.ConfigError(
            f"config.model: {config.base} has other sizes: {base.config}"
        )
    iterator = data.crops(config.data, batch=config.batch, mesh=mesh)
    key = jax.random.key(config.seed)
    example = jnp.zeros((config.batch, *config.data.crops.shapes[0], 3), jnp.float32)
    with jax.set_mesh(mesh):
        params, shardings = sharding.init(
            module, jax.random.fold_in(key, 0), example, mesh=mesh
        )
    constants = lpips_constants(config.loss, mesh)
    if base is not None:
        params = jax.device_put(dict(base.params), shardings)
        constants["frozen"] = {
            name: params.pop(name) for name in models.ENCODER if name in params
        }
        shardings = {name: shardings[name] for name in params}
    return loop.TrainJob(
        name="autoencoder",
        loss=step.LossWithContext(
            functools.partial(reconstruction.loss, module=module, config=config.loss),
            constants,
        ),
        params=params,
        shardings=shardings,
        mesh=mesh,
        key=jax.random.fold_in(key, 1),
        iterator=iterator,
        step_cost=functools.partial(step_cost, config.model),
        identity=config_lib.to_dict(config) | ({"start": base.digest} if base else {}),
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
    return {"lpips": jax.device_put(params, sharding.replicated(mesh))}


def step_cost(config: autoencoder.AutoencoderConfig, batch: Any) -> metrics.StepCost:
    """The cost of a batch of crops; a token is one latent cell, none is padding."""
    rows, *shape = batch["video"].shape[:4]
    cells = rows * math.prod(config.latent_grid(*shape))
    forward = rows * flops.autoencoder_flops(config, video=tuple(shape))
    return metrics.StepCost(cells, cells, flops.training(forward))
