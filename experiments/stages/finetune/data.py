"""Latents normalised by the statistics of a base model."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines import budgets
from soraflax.nn import autoencoder


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


def normalised(
    sources: Sequence[Any], statistics: autoencoder.LatentStatistics
) -> list[Any]:
    """Latents, cached or encoded as they are drawn, with the statistics of a base."""
    mean, std = (np.array(a, np.float32) for a in (statistics.mean, statistics.std))
    return [
        dataclasses.replace(source, mean=mean, std=std)
        if isinstance(source, budgets.VideoLatents)
        else RenormalizedLatents(source, mean, std)
        for source in sources
    ]
