"""Latents normalised by the statistics of a base model."""

import dataclasses
from typing import Any

import numpy as np

from data_pipelines import latents, pipeline
from soraflax.pretrained import models


@dataclasses.dataclass(frozen=True)
class RenormalizedLatents:
    """A source of latents with other statistics than its own.

    Attributes:
      source: an opened latent dataset.
      mean: `[z]`, mean of every latent channel.
      std: `[z]`, standard deviation of every latent channel.
    """

    source: Any
    mean: np.ndarray
    std: np.ndarray

    @property
    def digest(self) -> str:
        return self.source.digest

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return self.source.shapes

    @property
    def budgets(self) -> tuple[int, ...]:
        return self.source.budgets

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        return self.source[index]


def open_latents(base: models.VideoModel, data: pipeline.PackedDataConfig) -> list[Any]:
    """The latents of a split, normalised by the base's statistics.

    Raises:
      DatasetError: no dataset, or latents of another encoder.
    """
    statistics, digest = base.config.statistics, base.config.autoencoder
    mean, std = (np.array(a, np.float32) for a in (statistics.mean, statistics.std))
    return [
        RenormalizedLatents(
            latents.open_latents(path, data.split, digest=digest), mean, std
        )
        for path in (data.path, *data.also)
    ]
