"""Crops that autoencoders train on, and whole clips that they are measured on."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh

from data_pipelines import elastic, latents, pipeline, records, sources
from experiments.stages import runtime
from experiments.stages.autoencoder import config as config_lib
from soraflax.config import ConfigError
from soraflax.nn import autoencoder
from soraflax.ops import grid as grids


@dataclasses.dataclass(frozen=True)
class EvaluationClips:
    """Clips of a dataset, fitted to an autoencoder's grid.

    Attributes:
      path: directory of the dataset.
      sizes: sizes of the autoencoder.
      evaluation: number and sizes of the clips.
      mesh: mesh that batches are divided over.
    """

    path: str
    sizes: autoencoder.AutoencoderConfig
    evaluation: config_lib.AutoencoderEvaluationConfig
    mesh: Mesh

    def held_out(self) -> list[tuple[np.ndarray, int]]:
        """Batches of validation clips, or of training clips if there are none."""
        clips = self._open("validation") or self._open("train")
        return list(self._batches(clips, self.evaluation.clips))

    def training(self) -> Iterator[tuple[np.ndarray, int]]:
        """Batches of training clips, for the statistics of latents."""
        return self._batches(self._open("train"), self.evaluation.statistics)

    def _open(self, split: str) -> Any:
        """One split of the dataset; None if it has none of that name."""
        if not records.read_info(self.path)["splits"].get(split):
            return None
        return records.open_dataset(self.path, split)

    def _batches(self, clips: Any, count: int) -> Iterator[tuple[np.ndarray, int]]:
        """The first `count` clips as `[B, T, H, W, 3]` uint8, and how many are real.

        Clips that cannot be read or decoded are left out.
        The last clip is repeated until a batch has B: a multiple of the mesh's batch
        shards, the same for all.
        """
        shards = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        batch = -(-self.evaluation.batch // shards) * shards
        grid = grids.Grid(
            self.sizes.temporal_ratio, self.sizes.spatial_ratio, patch=(1, 2, 2)
        )
        cache = latents.LatentCacheConfig(fit=self.evaluation.fit)
        first = sources.readable(clips, range(min(count, len(clips))))
        planned = (
            latents.plan_clip(clip, index, grid=grid, config=cache)
            for index, clip in first
        )
        windows = [window for windows in planned for window in windows]
        for _, loaded in latents.fitted_batches(clips, windows, batch=batch):
            videos = [video for _, video in loaded]
            padded = videos + [videos[-1]] * (batch - len(videos))
            yield np.stack(padded), len(videos)


def crops(
    data: pipeline.VideoDataConfig, *, batch: int, mesh: Mesh
) -> elastic.StepBatches:
    """Endless batches of crops, `batch` over all processes.

    Raises:
      ConfigError: the batch does not divide over the mesh or the processes.
      DatasetError: no dataset, or a damaged one.
    """
    runtime.check_rows(batch, mesh, key="config.batch")
    host = runtime.host(mesh)
    if batch % host.count:
        raise ConfigError(
            f"config.batch {batch} does not divide over {host.count} processes"
        )
    return pipeline.make_video_batches(data, batch=batch // host.count, host=host)
