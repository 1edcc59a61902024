"""Text features of an encoder, one record per caption."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from data_pipelines.builders import base


class TextFeatures(base.RecordBuilder):
    """Features of captions, row-major `(m, D)`, in the dtype of the dataset."""

    def __init__(
        self, *, data_dir: str | Path, examples: Iterable[Mapping[str, Any]]
    ) -> None:
        self._examples = examples
        super().__init__(data_dir=data_dir)

    def features(self) -> dict[str, Any]:
        """The features of `data_pipelines.text_features`."""
        return {"text": tfds.features.Text(), "features": base.blob()}

    def splits(self) -> dict[str, Iterator[Mapping[str, Any]]]:
        return {"train": iter(self._examples)}
