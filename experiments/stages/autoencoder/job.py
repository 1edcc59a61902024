"""The stage `autoencoder` as a training job."""

import functools
import math
from collections.abc import Mapping
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
from soraflax.pretrained import models, slices
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
        initial = sharding.initializer(
            module, jax.random.fold_in(key, 0), example, mesh=mesh
        )
    constants = lpips_constants(config.loss, mesh)
    if base is not None:
        params, frozen = split_encoder(base.params)
        constants["frozen"] = placed(frozen, initial.shardings)
        initial = sharding.Initializer(
            functools.partial(placed, params, initial.shardings),
            {name: initial.shapes[name] for name in params},
            {name: initial.shardings[name] for name in params},
        )
    return loop.TrainJob(
        name="autoencoder",
        loss=step.LossWithContext(
            functools.partial(reconstruction.loss, module=module, config=config.loss),
            constants,
        ),
        init=initial.make,
        shapes=initial.shapes,
        shardings=initial.shardings,
        mesh=mesh,
        key=jax.random.fold_in(key, 1),
        iterator=iterator,
        step_cost=functools.partial(
            step_cost, config.model, train_encoder=base is None
        ),
        settings=config_lib.to_dict(config),
        clips=iterator.clips,
        epochs=iterator.epochs,
        identity=config_lib.to_dict(config) | ({"start": base.digest} if base else {}),
        mutable_keys=run_config.MUTABLE_KEYS,
    )


def split_encoder(params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The decoder's parameters, and those that latents depend on."""
    encoder = {name: params[name] for name in models.ENCODER if name in params}
    return {name: params[name] for name in params if name not in encoder}, encoder


def placed(params: Mapping[str, Any], shardings: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of the host on the mesh; there may be shardings of others too."""
    places = {name: shardings[name] for name in params}
    return jax.tree.map(slices.place, dict(params), places)


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


def step_cost(
    config: autoencoder.AutoencoderConfig, batch: Any, *, train_encoder: bool = True
) -> metrics.StepCost:
    """The cost of a batch of crops; a token is one latent cell, none is padding.

    A frozen encoder runs forward alone.
    """
    rows, *shape = batch["video"].shape[:4]
    video = tuple(shape)
    cells = rows * math.prod(config.latent_grid(*video))
    cost = flops.training(flops.autoencoder_flops(config, video=video))
    if not train_encoder:
        cost -= 2 * sum(layer.flops for layer in flops.encoder_layers(config, video))
    return metrics.StepCost(cells, cells, rows * cost)
