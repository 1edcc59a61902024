"""Latents of an autoencoder, one record per clip."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.builders import base


class Latents(base.RecordBuilder):
    """Latents of clips, with their captions; float16, row-major `(t, h, w, z)`."""

    def __init__(
        self,
        *,
        data_dir: str | Path,
        examples: Mapping[str, Iterable[Mapping[str, Any]]],
    ) -> None:
        self._examples = examples
        super().__init__(data_dir=data_dir)

    def features(self) -> dict[str, Any]:
        """The features of `data_pipelines.latents.LatentRecord`."""
        return {
            "id": tfds.features.Text(),
            "latent": base.blob(),
            "shape": tfds.features.Tensor(shape=(4,), dtype=np.int32),
            "fps": tfds.features.Scalar(np.float32),
            "captions": tfds.features.Text(),
            "truth": tfds.features.Text(),
        }

    def splits(self) -> dict[str, Iterator[Mapping[str, Any]]]:
        return {name: iter(examples) for name, examples in self._examples.items()}
