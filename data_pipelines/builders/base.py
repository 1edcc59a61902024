"""Base of every builder: ArrayRecord shards, written without TensorFlow."""

import contextlib
import io
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds


class RecordBuilder(tfds.core.GeneratorBasedBuilder):
    """A TFDS builder of flat examples, kept in the order they are generated.

    A subclass gives the features (text, scalars and bytes need no TensorFlow) and one
    generator of examples per split.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init_subclass__(cls, **keywords: Any) -> None:
        # Builders are called, never looked up by name: two worlds may share one.
        super().__init_subclass__(skip_registration=True, **keywords)

    def __init__(self, *, data_dir: str | Path) -> None:
        super().__init__(data_dir=str(data_dir), file_format="array_record")

    def features(self) -> dict[str, Any]:
        """Feature name to TFDS feature."""
        raise NotImplementedError

    def splits(self) -> dict[str, Iterator[Mapping[str, Any]]]:
        """Split name to its examples; a split without examples must be left out."""
        raise NotImplementedError

    def write(self) -> str:
        """Generate every split; returns the TFDS directory, relative to `data_dir`."""
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):
            self.download_and_prepare()
        # TFDS makes an empty one beside the builder's own folder, NAME/VERSION.
        shutil.rmtree(Path(self.data_dir).parents[1] / "downloads", ignore_errors=True)
        return f"{self.name}/{self.VERSION}"

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=(self.__doc__ or "").partition("\n")[0],
            features=tfds.features.FeaturesDict(self.features()),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {
            name: self._generate_examples(rows) for name, rows in self.splits().items()
        }

    def _generate_examples(self, rows: Iterator[Mapping[str, Any]]) -> Iterator[Any]:
        yield from enumerate(rows)


def blob() -> Any:
    """A feature that holds bytes."""
    return tfds.features.Tensor(shape=(), dtype=np.object_)


def clip_features() -> dict[str, Any]:
    """The features of `records.ClipRecord`."""
    integer = tfds.features.Scalar(np.int32)
    return {
        "id": tfds.features.Text(),
        "video": blob(),
        "fps": tfds.features.Scalar(np.float32),
        "frames": integer,
        "height": integer,
        "width": integer,
        "captions": tfds.features.Text(),
        "truth": tfds.features.Text(),
    }
