"""Stage one, continued: the autoencoder against a discriminator.

Starts from the trained autoencoder of `config.autoencoder`. Its encoder is left alone
unless `train_encoder` says otherwise, and with it all that hangs on the latents: their
statistics, cached latents, transformers trained on them. `WORKDIR/model` and
`WORKDIR/result.json` are as in `stages.autoencoder`.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from data_pipelines import pipeline
from experiments.stages import codec, common
from soraflax import config as config_lib
from soraflax import flops, sharding
from soraflax.nn import autoencoder, discriminator
from soraflax.pretrained import models
from soraflax.train import adversarial, loop, metrics, reconstruction, step
from soraflax.train import optimizer as optimizer_lib


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run of this stage is made of.

    Attributes:
      stage: says that it is this one.
      autoencoder: folder of the trained autoencoder.
      data: crops of clips.
      loss: of the reconstruction.
      adversarial: what the discriminator adds to it, and when.
      optimizer: of the autoencoder.
      discriminator_optimizer: of the discriminator.
      batch: crops per step, over all processes.
      train_encoder: whether the encoder is trained as well; latents then change.
      dtype: what the autoencoder computes in; empty for what its checkpoint says.
      remat: the same of what it recomputes.
      seed: of the discriminator's parameters and of sampling.
      distributed: several processes form one run (`jax.distributed`).
      compilation_cache: folder in which compiled programs are kept; none by default.
    """

    stage: Literal["adversarial"]
    autoencoder: str
    data: pipeline.VideoDataConfig
    discriminator: discriminator.DiscriminatorConfig
    loss: reconstruction.ReconstructionConfig
    adversarial: adversarial.AdversarialConfig
    optimizer: optimizer_lib.OptimizerConfig
    discriminator_optimizer: optimizer_lib.OptimizerConfig
    train: loop.TrainConfig
    evaluation: codec.EvaluationConfig
    mesh: common.MeshConfig
    batch: int
    train_encoder: bool = False
    dtype: str = ""
    remat: str = ""
    seed: int = 0
    distributed: bool = False
    compilation_cache: str = ""

    def __post_init__(self) -> None:
        codec.check_data(self.data, self.batch)
        if not self.autoencoder:
            raise ValueError("autoencoder is empty: give --config.autoencoder=AE")

    @property
    def optimizers(self) -> dict[str, optimizer_lib.OptimizerConfig]:
        """Of every group of parameters."""
        found = {
            adversarial.AUTOENCODER: self.optimizer,
            adversarial.DISCRIMINATOR: self.discriminator_optimizer,
        }
        if self.adversarial.lecam:
            found[adversarial.ANCHORS] = adversarial.anchor_optimizer(self.adversarial)
        return found


def run(values: Any, workdir: str | pathlib.Path) -> dict[str, float]:
    """Train, measure, export; returns what `result.json` holds.

    Raises:
      ValueError, OSError: bad input, in one line.
      Interrupted: asked to stop before the end.
    """
    config, mesh = common.begin(values, Config)
    saved = models.load_autoencoder(config.autoencoder)
    asked = {"dtype": config.dtype, "remat": config.remat}
    given = {name: value for name, value in asked.items() if value}
    trained_as = dataclasses.replace(saved.config, **given)
    source = dataclasses.replace(saved, config=trained_as)
    module = autoencoder.Autoencoder(source.config)
    clips = codec.Clips(config.data.path, source.config, config.evaluation, mesh)
    job, frozen = make_job(config, source, mesh=mesh)
    with common.folder(workdir) as path, jax.set_mesh(mesh):
        measure = functools.partial(_quality, module, clips.held_out(), frozen)
        state = loop.fit(
            dataclasses.replace(job, evaluate=measure),
            workdir=path,
            config=config.train,
            optimizer_config=config.optimizers,
        )
        common.require_end(int(state.step), config.train.steps)
        result = measure(state.ema)
        trained = state.ema[adversarial.AUTOENCODER]
        statistics = source.statistics if frozen else None
        codec.finish(
            path,
            {**source.params, **common.to_host(trained, mesh)},
            sizes=saved.config,
            statistics=statistics
            or codec.latent_statistics(module, {**frozen, **trained}, clips=clips),
            result=result,
        )
    return result


def make_job(
    config: Config, source: models.AutoencoderModel, *, mesh: Mesh
) -> tuple[loop.TrainJob, dict[str, Any]]:
    """The stage on `mesh`, and the parameters of the autoencoder that stay as they are.

    Raises:
      ConfigError: crops off the grid of the autoencoder, or a batch off the mesh.
    """
    check_crops(config, source.config)
    iterator = codec.crops(config.data, batch=config.batch, mesh=mesh)
    game = adversarial.Game(
        autoencoder.Autoencoder(source.config),
        discriminator.Discriminator(config.discriminator),
        config.loss,
        config.adversarial,
    )
    key = jax.random.key(config.seed)
    start_key, run_key = (jax.random.fold_in(key, part) for part in range(2))
    params, shardings, frozen = networks(
        config, game, trained=source.params, key=start_key, mesh=mesh
    )
    constants = codec.perceptual(config.loss, mesh) | {"frozen": frozen}
    job = loop.TrainJob(
        name="adversarial",
        loss=step.Contextual(functools.partial(adversarial.loss, game=game), constants),
        params=params,
        shardings=shardings,
        mesh=mesh,
        key=run_key,
        iterator=iterator,
        measure=functools.partial(work, config, source.config),
        identity=config_lib.to_dict(config) | {"start": source.digest},
        may_differ=common.MAY_DIFFER,
    )
    return job, frozen


def check_crops(config: Config, sizes: autoencoder.AutoencoderConfig) -> None:
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


def networks(
    config: Config,
    game: adversarial.Game,
    *,
    trained: Mapping[str, Any],
    key: jax.Array,
    mesh: Mesh,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Groups of parameters, their shardings, and what stays frozen; all on `mesh`."""
    example = jnp.zeros((config.batch, *config.data.crops.shapes[0], 3), jnp.float32)
    with jax.set_mesh(mesh):
        boxed = jax.eval_shape(game.module.init, key, example)["params"]
        places = sharding.param_shardings(boxed, mesh)
        critic, critic_places = sharding.init(game.critic, key, example, mesh=mesh)
    codec_params = jax.device_put(dict(trained), places)
    fixed = () if config.train_encoder else models.ENCODER
    frozen = {name: codec_params[name] for name in fixed if name in codec_params}
    free = [name for name in codec_params if name not in frozen]
    params: dict[str, Any] = {
        adversarial.AUTOENCODER: {name: codec_params[name] for name in free},
        adversarial.DISCRIMINATOR: critic,
    }
    shardings: dict[str, Any] = {
        adversarial.AUTOENCODER: {name: places[name] for name in free},
        adversarial.DISCRIMINATOR: critic_places,
    }
    if config.adversarial.lecam:
        start = adversarial.anchors()
        everywhere = {name: sharding.replicated(mesh) for name in start}
        params[adversarial.ANCHORS] = jax.device_put(start, everywhere)
        shardings[adversarial.ANCHORS] = everywhere
    return params, shardings, frozen


def work(
    config: Config, sizes: autoencoder.AutoencoderConfig, batch: Any
) -> metrics.Work:
    """The work in a batch of crops; a token is one latent cell, none is padding.

    In forward passes: 3 of a network that is trained and 1 of a frozen encoder; of the
    discriminator 6, for real and decoded crops, 1 for the gradient of equation (2) of
    `train.adversarial`, and 3 for that of its penalty R1, of the crops it is taken of.
    """
    rows, *shape = batch["video"].shape[:4]
    video = tuple(shape)
    cells = rows * math.prod(sizes.latent_grid(*video))
    encoder = sum(layer.flops for layer in flops.encoder_layers(sizes, video))
    decoder = sum(layer.flops for layer in flops.decoder_layers(sizes, video))
    layers = discriminator.layers(config.discriminator, video)
    game = config.adversarial
    passes = 7 + (3 / game.r1_every if game.r1 else 0)
    one = encoder * (3 if config.train_encoder else 1) + 3 * decoder
    one += passes * sum(layer.flops for layer in layers)
    return metrics.Work(cells, cells, rows * one)


def _quality(
    module: autoencoder.Autoencoder,
    batches: list[tuple[np.ndarray, int]],
    frozen: Mapping[str, Any],
    params: Mapping[str, Any],
) -> dict[str, float]:
    """`codec.quality` of the autoencoder among the groups of parameters."""
    whole = {**frozen, **params[adversarial.AUTOENCODER]}
    return codec.quality(module, batches, whole)
