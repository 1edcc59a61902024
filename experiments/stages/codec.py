"""What both stages of the autoencoder share: crops in, measurements and a model out."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from data_pipelines import latents, pipeline, records, transforms
from experiments.stages import common
from soraflax import config as config_lib
from soraflax import flops, sharding
from soraflax.evaluation import metrics as video_metrics
from soraflax.nn import autoencoder
from soraflax.pretrained import models
from soraflax.train import checkpoint, metrics, reconstruction
from soraflax.weights import lpips


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
class Clips:
    """The clips that an autoencoder is measured on.

    Attributes:
      path: of the dataset.
      sizes: of the autoencoder, whose grid clips are fitted to.
      evaluation: which of them, and how.
      mesh: where they are measured.
    """

    path: str
    sizes: autoencoder.AutoencoderConfig
    evaluation: EvaluationConfig
    mesh: Mesh

    def held_out(self) -> list[tuple[np.ndarray, int]]:
        """Batches of validation clips, or of training clips if there are none."""
        clips = self._open("validation") or self._open("train")
        return list(self._fitted(clips, self.evaluation.clips))

    def training(self) -> Iterator[tuple[np.ndarray, int]]:
        """Batches of training clips, for the statistics of latents."""
        return self._fitted(self._open("train"), self.evaluation.statistics)

    def _open(self, split: str) -> Any:
        """One split of the dataset; None if it has none of that name."""
        if not records.read_info(self.path)["splits"].get(split):
            return None
        return records.open_dataset(self.path, split)

    def _fitted(self, clips: Any, count: int) -> Iterator[tuple[np.ndarray, int]]:
        """Clips as `[B, T, H, W, 3]` uint8 and how many of B are real.

        The first `count` of the split are taken; B is always the same and divides over
        the mesh.
        """
        shards = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        batch = -(-self.evaluation.batch // shards) * shards
        grid = transforms.Grid.of(
            self.sizes.temporal_ratio, self.sizes.spatial_ratio, patch=(1, 2, 2)
        )
        cache = latents.LatentCacheConfig(fit=self.evaluation.fit)
        windows = latents.plan(clips[:count], grid, config=cache)
        for _, loaded in latents.fitted_batches(clips, windows, batch=batch):
            videos = [video for _, video in loaded]
            filled = videos + [videos[-1]] * (batch - len(videos))
            yield np.stack(filled), len(videos)


def crops(
    data: pipeline.VideoDataConfig, *, batch: int, mesh: Mesh
) -> checkpoint.DataIterator:
    """Endless batches of crops, `batch` over all processes.

    Raises:
      ConfigError: the batch does not divide over the mesh or the processes.
      DatasetError: no dataset, or a damaged one.
    """
    common.check_rows(batch, mesh, key="config.batch")
    host = common.host(mesh)
    if batch % host.count:
        raise config_lib.ConfigError(
            f"config.batch {batch} does not divide over {host.count} processes"
        )
    return iter(pipeline.make_video_dataset(data, batch=batch // host.count, host=host))


def check_data(data: pipeline.VideoDataConfig, batch: int) -> None:
    """Raises ValueError where there is no dataset, or nothing in a batch."""
    if not data.path:
        raise ValueError("data.path is empty: give --config.data.path=DATASET")
    if batch < 1:
        raise ValueError(f"batch {batch}: use 1 or more")


def perceptual(
    config: reconstruction.ReconstructionConfig, mesh: Mesh
) -> dict[str, Any]:
    """The constants of the loss: LPIPS parameters, where it has such a term.

    Raises:
      FileNotFoundError, ModelError: see `weights.lpips`.
    """
    if not config.lpips:
        return {}
    params = lpips.load_lpips(config.lpips_path)
    return {"lpips": jax.device_put(params, sharding.replicated(mesh))}


def work(config: autoencoder.AutoencoderConfig, batch: Any) -> metrics.Work:
    """The work in a batch of crops; a token is one latent cell, none is padding."""
    rows, *shape = batch["video"].shape[:4]
    cells = rows * math.prod(config.latent_grid(*shape))
    one = flops.autoencoder_flops(config, video=tuple(shape))
    return metrics.Work(cells, cells, flops.training(rows * one))


def finish(
    workdir: pathlib.Path,
    params: Any,
    *,
    sizes: autoencoder.AutoencoderConfig,
    statistics: autoencoder.LatentStatistics,
    result: dict[str, float],
) -> None:
    """Write `workdir/model`, of parameters on the host, and `workdir/result.json`."""
    if jax.process_index() == 0:
        facts = {"latents": dataclasses.asdict(statistics), "validation": result}
        models.save_autoencoder(workdir / "model", params, config=sizes, facts=facts)
    common.write_json(workdir / "result.json", result)
    common.barrier("exported")


def quality(
    module: autoencoder.Autoencoder,
    batches: list[tuple[np.ndarray, int]],
    params: Any,
) -> dict[str, float]:
    """Mean PSNR and SSIM over clips, from the posterior's mean."""
    found: dict[str, list[float]] = {"psnr_db": [], "ssim": []}
    for videos, real in batches:
        values = jax.device_get(_measure(module, params, videos=videos))
        for name in found:
            found[name] += [float(v) for v in values[name][:real]]
    return {f"validation/{name}": float(np.mean(v)) for name, v in found.items()}


@functools.partial(jax.jit, static_argnums=0)
def _measure(
    module: autoencoder.Autoencoder, params: Any, *, videos: jax.Array
) -> dict[str, jax.Array]:
    x = reconstruction.as_float(videos)
    y: Any = module.apply({"params": params}, x)
    y = jnp.clip(y.video, -1.0, 1.0)
    return _everywhere(
        {"psnr_db": video_metrics.psnr(y, x), "ssim": video_metrics.ssim(y, x)}
    )


@functools.partial(jax.jit, static_argnums=0)
def _encode(
    module: autoencoder.Autoencoder, params: Any, *, videos: jax.Array
) -> jax.Array:
    x = reconstruction.as_float(videos)
    mean, _ = module.apply({"params": params}, x, method="encode")
    return _everywhere(mean)


def _everywhere(tree: Any) -> Any:
    """Whole on every device, so that every process can read it."""
    whole = jax.sharding.PartitionSpec()
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, whole), tree)


def latent_statistics(
    module: autoencoder.Autoencoder, params: Any, *, clips: Clips
) -> autoencoder.LatentStatistics:
    """Mean and deviation of each latent channel over training clips."""
    return autoencoder.latent_statistics(
        jax.device_get(_encode(module, params, videos=videos))[:real]
        for videos, real in clips.training()
    )
