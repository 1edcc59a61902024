"""Stage one: the spacetime autoencoder, from crops of clips.

`WORKDIR/model` is the result: averaged parameters, their configuration, and mean and
deviation of every latent channel over the training clips. `WORKDIR/result.json` holds
PSNR and SSIM of held-out clips.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from data_pipelines import latents, pipeline, records, transforms
from experiments.stages import common
from soraflax import config as config_lib
from soraflax import flops, sharding
from soraflax.evaluation import metrics as video_metrics
from soraflax.generation import pretrained
from soraflax.nn import autoencoder
from soraflax.train import loop, metrics, optimizer, reconstruction


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Which clips are measured.

    Attributes:
      clips: held-out clips for PSNR and SSIM, at most.
      statistics: training clips for the latent statistics, at most.
      fit: how a clip is fitted; tokens are counted in patches of 1 x 2 x 2 latents.
      batch: clips of one size that are measured together.
    """

    clips: int = 32
    statistics: int = 128
    fit: transforms.FitConfig = dataclasses.field(
        default_factory=lambda: transforms.FitConfig(max_tokens=256, max_frames=17)
    )
    batch: int = 4

    def __post_init__(self) -> None:
        for name in ("clips", "statistics", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: use 1 or more")


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
    evaluation: EvaluationConfig
    mesh: common.MeshConfig
    batch: int
    seed: int = 0
    distributed: bool = False
    compilation_cache: str = ""

    def __post_init__(self) -> None:
        if not self.data.path:
            raise ValueError("data.path is empty: give --config.data.path=DATASET")
        if self.batch < 1:
            raise ValueError(f"batch {self.batch}: use 1 or more")
        for frames, height, width in self.data.crops.shapes:
            self.model.latent_grid(frames, height, width)


def run(values: Any, workdir: str | pathlib.Path) -> dict[str, float]:
    """Train, measure, export; returns what `result.json` holds.

    Raises:
      ValueError, OSError: bad input, in one line.
      Interrupted: asked to stop before the end.
    """
    config = config_lib.to_dataclass(values, Config)
    common.start(
        distributed=config.distributed, compilation_cache=config.compilation_cache
    )
    mesh = config.mesh.make()
    module = autoencoder.Autoencoder(config.model)
    validation = open_split(config, "validation") or open_split(config, "train")
    job = make_job(config, module, mesh)
    with common.folder(workdir) as path, jax.set_mesh(mesh):
        measure = functools.partial(
            reconstruction_quality, module, load(config, validation, mesh)
        )
        state = loop.fit(
            dataclasses.replace(job, evaluate=measure),
            workdir=path,
            config=config.train,
            optimizer_config=config.optimizer,
        )
        common.require_end(int(state.step), config.train.steps)
        result = measure(state.ema)
        statistics = latent_statistics(module, state.ema, config, mesh)
        params = common.to_host(state.ema, mesh)
        if jax.process_index() == 0:
            facts = {"latents": dataclasses.asdict(statistics), "validation": result}
            pretrained.save_autoencoder(
                path / "model", params, config.model, facts=facts
            )
        common.write_json(path / "result.json", result)
        common.barrier("exported")
    return result


def make_job(config: Config, module: autoencoder.Autoencoder, mesh: Mesh) -> loop.Job:
    """Data, parameters and loss of the stage, on `mesh`."""
    common.check_rows(config.batch, mesh, key="config.batch")
    host = common.host()
    if config.batch % host.count:
        raise config_lib.ConfigError(
            f"config.batch {config.batch} does not divide over {host.count} processes"
        )
    dataset = pipeline.make_video_dataset(
        config.data, batch=config.batch // host.count, host=host
    )
    key = jax.random.key(config.seed)
    example = jnp.zeros((config.batch, *config.data.crops.shapes[0], 3), jnp.float32)
    with jax.set_mesh(mesh):
        params, shardings = sharding.init(
            module, jax.random.fold_in(key, 0), example, mesh=mesh
        )
    return loop.Job(
        name="autoencoder",
        loss=functools.partial(reconstruction.loss, module=module, config=config.loss),
        params=params,
        shardings=shardings,
        mesh=mesh,
        key=jax.random.fold_in(key, 1),
        iterator=iter(dataset),
        measure=functools.partial(work, config.model),
        identity=config_lib.to_dict(config),
        may_differ=common.MAY_DIFFER,
    )


def work(config: autoencoder.AutoencoderConfig, batch: Any) -> metrics.Work:
    """The work in a batch of crops; a token is one latent cell, none is padding."""
    rows, *shape = batch["video"].shape[:4]
    cells = rows * math.prod(config.latent_grid(*shape))
    one = flops.autoencoder_flops(config, video=tuple(shape))
    return metrics.Work(cells, cells, flops.training(rows * one))


def open_split(config: Config, split: str) -> Any:
    """One split of the dataset; None if it has none of that name."""
    if not records.read_info(config.data.path)["splits"].get(split):
        return None
    return records.open_dataset(config.data.path, split)


def fitted(
    clips: Any, config: Config, mesh: Mesh, *, count: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Clips as `[B, T, H, W, 3]` uint8 and how many of B are real, B the same always.

    The first `count` of the split are taken; B divides over the mesh.
    """
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    batch = -(-config.evaluation.batch // shards) * shards
    grid = transforms.Grid.of(
        config.model.temporal_ratio, config.model.spatial_ratio, patch=(1, 2, 2)
    )
    cache = latents.CacheConfig(fit=config.evaluation.fit)
    windows = latents.plan(clips[:count], grid, config=cache)
    for _, loaded in latents.fitted_batches(clips, windows, batch=batch):
        videos = [video for _, video in loaded]
        filled = videos + [videos[-1]] * (batch - len(videos))
        yield np.stack(filled), len(videos)


def load(config: Config, clips: Any, mesh: Mesh) -> list[tuple[np.ndarray, int]]:
    """The held-out clips, read once and kept."""
    return list(fitted(clips, config, mesh, count=config.evaluation.clips))


def reconstruction_quality(
    module: autoencoder.Autoencoder,
    batches: list[tuple[np.ndarray, int]],
    params: Any,
) -> dict[str, float]:
    """Mean PSNR and SSIM over clips, from the posterior's mean."""
    found: dict[str, list[float]] = {"psnr_db": [], "ssim": []}
    for videos, real in batches:
        values = jax.device_get(_quality(module, params, videos))
        for name in found:
            found[name] += [float(v) for v in values[name][:real]]
    return {f"validation/{name}": float(np.mean(v)) for name, v in found.items()}


@functools.partial(jax.jit, static_argnums=0)
def _quality(
    module: autoencoder.Autoencoder, params: Any, videos: jax.Array
) -> dict[str, jax.Array]:
    x = reconstruction.as_float(videos)
    y: Any = module.apply({"params": params}, x)
    y = jnp.clip(y.video, -1.0, 1.0)
    return _everywhere(
        {"psnr_db": video_metrics.psnr(y, x), "ssim": video_metrics.ssim(y, x)}
    )


@functools.partial(jax.jit, static_argnums=0)
def _encode(
    module: autoencoder.Autoencoder, params: Any, videos: jax.Array
) -> jax.Array:
    x = reconstruction.as_float(videos)
    mean, _ = module.apply({"params": params}, x, method="encode")
    return _everywhere(mean)


def _everywhere(tree: Any) -> Any:
    """Whole on every device, so that every process can read it."""
    whole = jax.sharding.PartitionSpec()
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, whole), tree)


def latent_statistics(
    module: autoencoder.Autoencoder, params: Any, config: Config, mesh: Mesh
) -> autoencoder.LatentStatistics:
    """Mean and deviation of each latent channel over training clips."""
    clips = open_split(config, "train")
    return autoencoder.latent_statistics(
        jax.device_get(_encode(module, params, videos))[:real]
        for videos, real in fitted(
            clips, config, mesh, count=config.evaluation.statistics
        )
    )
