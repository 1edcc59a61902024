"""Base of every builder: ArrayRecord shards, written without TensorFlow."""

import contextlib
import io
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import (
    array_record_module,  # pyright: ignore[reportAttributeAccessIssue]
)
from etils import epath
from tensorflow_datasets.core import file_adapters

# One record in each group, so that any is read alone. Encoded video and latents hardly
# compress, and are read faster as they are (docs/benchmarks.md).
WRITER_OPTIONS = "group_size:1,uncompressed"


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
        with contextlib.redirect_stdout(io.StringIO()), _uncompressed():
            self.download_and_prepare()
        # TFDS makes an empty one beside the builder's own folder, NAME/VERSION.
        shutil.rmtree(Path(self.data_dir).parents[1] / "downloads", ignore_errors=True)
        return f"{self.name}/{self.VERSION}"

    def serialize(self, example: Mapping[str, Any]) -> bytes:
        """The bytes of an example in a shard, the same in every process.

        Those of TFDS's own writers hold a record's fields in an order that changes.
        """
        from tensorflow_datasets.core import example_serializer

        features: Any = self.info.features
        serializer = example_serializer.ExampleSerializer(
            features.get_serialized_info()
        )
        encoded = serializer.get_tf_example(features.encode_example(example))
        return encoded.SerializeToString(deterministic=True)

    def write_info(self, splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
        """Write what TFDS needs beside shards that were written elsewhere.

        Args:
          splits: `records` and `bytes` of the shards of each split.

        Returns:
          Their directory, relative to `data_dir`.
        """
        directory = f"{self.name}/{self.VERSION}"
        place = Path(self.data_dir).parents[1] / directory
        template = tfds.core.ShardedFileTemplate(
            data_dir=epath.Path(place),
            dataset_name=self.name,
            filetype_suffix="array_record",
        )
        infos = [
            tfds.core.SplitInfo(
                name=name,
                shard_lengths=[row["records"] for row in rows],
                num_bytes=sum(row["bytes"] for row in rows),
                filename_template=template.replace(split=name),
            )
            for name, rows in splits.items()
            if rows
        ]
        self.info.set_splits(tfds.core.SplitDict(infos))
        place.mkdir(parents=True, exist_ok=True)
        self.info.write_to_directory(place)
        return directory

    def shard_entries(
        self, splits: Mapping[str, Sequence[Mapping[str, Any]]]
    ) -> Iterator[dict[str, Any]]:
        """Lines of the manifest: `file`, `split`, `records`, `bytes`, `sha256`, `key`.

        Args:
          splits: rows of the shards of each split, with all but the first two.
        """
        directory = f"{self.name}/{self.VERSION}"
        for split in sorted(splits):
            rows = splits[split]
            for number, row in enumerate(rows):
                name = f"{self.name}-{split}.array_record"
                name += f"-{number:05d}-of-{len(rows):05d}"
                facts = {k: row[k] for k in ("records", "bytes", "sha256", "key")}
                yield {"file": f"{directory}/{name}", "split": split, **facts}

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


class _PlainRecords(file_adapters.ArrayRecordFileAdapter):
    """As its parent, with `WRITER_OPTIONS`."""

    @classmethod
    def write_examples(cls, path: Any, iterator: Iterable[tuple[Any, bytes]]) -> None:
        writer = array_record_module.ArrayRecordWriter(os.fspath(path), WRITER_OPTIONS)
        for _, example in iterator:
            writer.write(example)
        writer.close()


@contextlib.contextmanager
def _uncompressed() -> Iterator[None]:
    """TFDS writes ArrayRecord by `_PlainRecords`; it has no option for that."""
    adapters, kind = file_adapters.ADAPTER_FOR_FORMAT, file_adapters.FileFormat
    before = adapters[kind.ARRAY_RECORD]
    adapters[kind.ARRAY_RECORD] = _PlainRecords
    try:
        yield
    finally:
        adapters[kind.ARRAY_RECORD] = before


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
