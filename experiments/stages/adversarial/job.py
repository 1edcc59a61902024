"""The stage `adversarial` as a training job of two networks."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import meta
from jax.sharding import Mesh

from experiments.stages import run_config
from experiments.stages.adversarial import config as stage_config
from experiments.stages.autoencoder import data
from experiments.stages.autoencoder import job as autoencoder_job
from soraflax import config as config_lib
from soraflax import flops, sharding
from soraflax.nn import autoencoder, discriminator
from soraflax.pretrained import models
from soraflax.train import adversarial, loop, metrics, step


def make_job(
    config: stage_config.AdversarialRunConfig,
    source: models.AutoencoderModel,
    *,
    mesh: Mesh,
) -> tuple[loop.TrainJob, dict[str, Any]]:
    """The stage on `mesh`, and the frozen parameters of the autoencoder.

    Raises:
      ConfigError: crops off the grid of the autoencoder, or a batch off the mesh.
    """
    check_crops(config, source.config)
    iterator = data.crops(config.data, batch=config.batch, mesh=mesh)
    gan = adversarial.AutoencoderGAN(
        autoencoder.Autoencoder(source.config),
        discriminator.Discriminator(config.discriminator),
        config.loss,
        config.adversarial,
    )
    key = jax.random.key(config.seed)
    init_key, run_key = (jax.random.fold_in(key, part) for part in range(2))
    initial, frozen = init_params(
        config, gan, pretrained=source.params, key=init_key, mesh=mesh
    )
    constants = autoencoder_job.lpips_constants(config.loss, mesh) | {"frozen": frozen}
    job = loop.TrainJob(
        name="adversarial",
        loss=step.LossWithContext(
            functools.partial(adversarial.loss, gan=gan), constants
        ),
        init=initial.make,
        shapes=initial.shapes,
        shardings=initial.shardings,
        mesh=mesh,
        key=run_key,
        iterator=iterator,
        step_cost=functools.partial(step_cost, config, source.config),
        settings=config_lib.to_dict(config),
        clips=iterator.clips,
        epochs=iterator.epochs,
        identity=config_lib.to_dict(config) | {"start": source.digest},
        mutable_keys=run_config.MUTABLE_KEYS,
    )
    return job, frozen


def check_crops(
    config: stage_config.AdversarialRunConfig, sizes: autoencoder.AutoencoderConfig
) -> None:
    """Refuse crops off the grid of the autoencoder.

    Raises:
      ConfigError: naming the nearest sizes on it.
    """
    for frames, height, width in config.data.crops.shapes:
        try:
            sizes.latent_grid(frames, height, width)
        except ValueError as error:
            raise config_lib.ConfigError(
                f"config.data.crops.shapes: {error}"
            ) from error


def init_params(
    config: stage_config.AdversarialRunConfig,
    gan: adversarial.AutoencoderGAN,
    *,
    pretrained: Mapping[str, Any],
    key: jax.Array,
    mesh: Mesh,
) -> tuple[sharding.Initializer, dict[str, Any]]:
    """Trained parameters by group, still to be made, and frozen ones on `mesh`."""
    example = jnp.zeros((config.batch, *config.data.crops.shapes[0], 3), jnp.float32)
    with jax.set_mesh(mesh):
        boxed = jax.eval_shape(gan.autoencoder.init, key, example)["params"]
        shardings = sharding.param_shardings(boxed, mesh)
        critic = sharding.initializer(gan.discriminator, key, example, mesh=mesh)
    trained, frozen = (
        (dict(pretrained), {})
        if config.train_encoder
        else autoencoder_job.split_encoder(pretrained)
    )
    shapes = {name: meta.unbox(boxed)[name] for name in trained}
    places = {name: shardings[name] for name in trained}
    group_shapes = {
        adversarial.AUTOENCODER: sharding.sharded_shapes(shapes, places),
        adversarial.DISCRIMINATOR: critic.shapes,
    }
    if config.adversarial.lecam:
        anchors = jax.eval_shape(adversarial.anchors)
        replicated = {name: sharding.replicated(mesh) for name in anchors}
        group_shapes[adversarial.ANCHORS] = sharding.sharded_shapes(anchors, replicated)
    group_shardings = jax.tree.map(lambda shape: shape.sharding, group_shapes)

    def make() -> dict[str, Any]:
        groups: dict[str, Any] = {
            adversarial.AUTOENCODER: autoencoder_job.placed(trained, shardings),
            adversarial.DISCRIMINATOR: critic.make(),
        }
        if config.adversarial.lecam:
            groups[adversarial.ANCHORS] = autoencoder_job.placed(
                jax.device_get(adversarial.anchors()),
                group_shardings[adversarial.ANCHORS],
            )
        return groups

    initial = sharding.Initializer(make, group_shapes, group_shardings)
    return initial, autoencoder_job.placed(frozen, shardings)


def step_cost(
    config: stage_config.AdversarialRunConfig,
    sizes: autoencoder.AutoencoderConfig,
    batch: Any,
) -> metrics.StepCost:
    """The cost of a batch of crops; a token is one latent cell, none is padding.

    In forward passes: 3 of a network that is trained and 1 of a frozen encoder; of the
    discriminator 6, for real and decoded crops, 1 for the gradient of equation (2) of
    `train.adversarial`, and 3 for the gradient of its penalty R1, of the crops that are
    penalised.
    """
    rows, *shape = batch["video"].shape[:4]
    video = tuple(shape)
    cells = rows * math.prod(sizes.latent_grid(*video))
    encoder = sum(layer.flops for layer in flops.encoder_layers(sizes, video))
    decoder = sum(layer.flops for layer in flops.decoder_layers(sizes, video))
    layers = discriminator.layers(config.discriminator, video)
    weights = config.adversarial
    passes = 7 + (3 / weights.r1_every if weights.r1 else 0)
    clip_flops = encoder * (3 if config.train_encoder else 1) + 3 * decoder
    clip_flops += passes * sum(layer.flops for layer in layers)
    return metrics.StepCost(cells, cells, rows * clip_flops)
