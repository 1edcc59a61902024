"""Datasets at rest: one record per clip, and proof that none is missing.

    DATASET/dataset.json     name, version, splits and their counts, what is in it
    DATASET/manifest.json    records, bytes and SHA-256 of every shard
    DATASET/report.jsonl     outcome of every input: kept, failed or ignored, and why
    DATASET/NAME/VERSION/    the TFDS directory with the ArrayRecord shards

A truncated ArrayRecord file opens as one without records, so opening a dataset holds
sizes and counts against the manifest, of some shards where there are very many; of each
when it is first read; `python -m data_pipelines.verify` those and all digests. A read
that fails is tried again from a newly opened file, after `storage.RETRY_SECONDS`. A
DATASET may be in a bucket (`mirrors`).
"""

import contextlib
import dataclasses
import functools
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from array_record.python import (
    array_record_module,  # pyright: ignore[reportAttributeAccessIssue]
)

from data_pipelines import manifests, mirrors, shards, storage

FORMAT = 1
INFO, MANIFEST, REPORT = "dataset.json", "manifest.json", "report.jsonl"
MAX_CHECKED = 64  # shards of a split that opening it looks at
Record = TypeVar("Record")
DatasetError = manifests.DatasetError


class DamagedRecordError(DatasetError):
    """One record that cannot be read, however often it is tried."""


@dataclasses.dataclass(frozen=True)
class ClipRecord:
    """One clip.

    Attributes:
      id: unique in its dataset: the file's path, or the world, seed and index.
      video: bytes that `soraflax.media.decode` reads.
      fps: frames per second; 1.0 for a still image.
      frames: number of frames; 1 for a still image.
      height: pixels.
      width: pixels.
      captions: source name to text.
      truth: ground truth of a procedural clip; empty for others.
    """

    id: str
    video: bytes
    fps: float
    frames: int
    height: int
    width: int
    captions: Mapping[str, str]
    truth: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_example(self) -> dict[str, Any]:
        """The TFDS example; `captions` and `truth` travel as JSON."""
        example = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name in ("captions", "truth"):
            example[name] = json.dumps(example[name], sort_keys=True)
        return example

    @classmethod
    def from_example(cls, example: Mapping[str, Any]) -> "ClipRecord":
        """Inverse of `to_example`, from what a TFDS data source returns.

        Raises:
          ValueError: an impossible frame rate.
        """
        check_rate(float(example["fps"]))
        return cls(
            id=_text(example["id"]),
            video=bytes(example["video"]),
            fps=float(example["fps"]),
            frames=int(example["frames"]),
            height=int(example["height"]),
            width=int(example["width"]),
            captions=json.loads(_text(example["captions"])),
            truth=json.loads(_text(example["truth"])),
        )


def check_rate(fps: float) -> None:
    """Refuse a number that is no frame rate.

    Raises:
      ValueError: it is not finite, or not above 0.
    """
    if not 0 < fps < math.inf:
        raise ValueError(f"{fps} frames per second")


class RecordDataset(Sequence[Record]):
    """Random access to the records of one split.

    Attributes:
      info: contents of dataset.json.
    """

    def __init__(
        self,
        source: Any,
        info: Mapping[str, Any],
        *,
        parse: Callable[[Any], Record],
        reopen: Callable[[], Any] | None = None,
        added: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Give the records of an open source.

        Args:
          source: random access to examples (`open_source`).
          info: contents of dataset.json.
          parse: example to record.
          reopen: opens the source anew, where a read failed; None keeps it.
          added: captions beside the records' own (`added_captions.read`).
        """
        self._source, self._parse, self._reopen = source, parse, reopen
        self.info, self._added = info, added or {}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: Any) -> Any:
        """A record, or those of a slice.

        Raises:
          IndexError: there is no such record.
          DamagedRecordError: it cannot be read.
          StorageError: a bucket does not answer.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"record {index} of {size}")
        for seconds in (*storage.RETRY_SECONDS, None):
            try:
                record = self._parse(self._source[int(index) % size])
                return self._with_added(record) if self._added else record
            except storage.StorageError:
                raise  # which was patient itself, and says nothing of the record
            except (RuntimeError, ValueError, OSError, LookupError, TypeError) as error:
                # The last two are of a record of other fields, which none reads.
                if seconds is None or isinstance(error, (LookupError, TypeError)):
                    name = self.info.get("name")
                    raise DamagedRecordError(
                        f"{name}: record {index} is damaged"
                    ) from error
                time.sleep(seconds)
                self._open_again(int(index) % size)

    def _open_again(self, index: int) -> None:
        """Open the source anew, where that is known, after `index` was not read."""
        if self._reopen is None:
            return
        try:
            self._source = self._reopen()
        except storage.StorageError:
            raise
        except (RuntimeError, ValueError, OSError):
            return  # the one that is open is tried again
        if isinstance(self._source, shards.ShardedExamples):
            self._source.doubt(index)

    def _with_added(self, record: Any) -> Any:
        """A record with the captions that were added for its clip."""
        # The windows of a clip, `id#0`, `id#1` ..., may have one caption for all.
        names = (record.id, record.id.rpartition("#")[0])
        added = {
            source: next(texts[name] for name in names if name in texts)
            for source, texts in self._added.items()
            if any(name in texts for name in names)
        }
        return dataclasses.replace(record, captions={**record.captions, **added})


def open_dataset(
    path: str | Path, split: str = "train", *, verify: bool = False
) -> RecordDataset[ClipRecord]:
    """Open one split of a dataset of clips; errors as in `open_source`."""
    info = read_info(path)
    if info.get("kind") != "clips":
        raise DatasetError(f"{path}: holds {info.get('kind')}, not clips")
    from data_pipelines import added_captions

    source = open_source(path, split, verify=verify)
    return RecordDataset(
        source,
        info,
        parse=ClipRecord.from_example,
        reopen=functools.partial(reopen_source, path, split),
        added=added_captions.read(path),
    )


def open_source(path: str | Path, split: str, *, verify: bool = False) -> Any:
    """Random access to the raw examples of one split, checked against the manifest.

    Args:
      path: a DATASET directory of any kind.
      split: 'train' or 'validation'.
      verify: check every shard, and compute its SHA-256. Otherwise `MAX_CHECKED` of
        them, spread evenly, are held against the manifest, and every other one when it
        is first read.

    Raises:
      DatasetError: no dataset there, no such split, or shards missing or damaged.
    """
    splits = read_info(path)["splits"]
    if not splits.get(split):
        available = ", ".join(f"{k} ({v})" for k, v in splits.items()) or "none"
        raise DatasetError(
            f"{path}: no records in split {split!r}; splits: {available}"
        )
    listed = read_shards(path, split)
    step = 1 if verify else max(1, -(-len(listed) // MAX_CHECKED))
    for shard in listed[::step]:
        check_shard(path, shard, verify=verify)
    source = reopen_source(path, split)
    if splits[split] != len(source):
        raise DatasetError(
            f"{path}: split {split!r} should hold {splits[split]} records; its "
            f"manifest says {len(source)}"
        )
    return source


def reopen_source(path: str | Path, split: str) -> shards.ShardedExamples:
    """As `open_source`, of a dataset that it has checked before."""
    import tensorflow_datasets as tfds

    directory = mirrors.folder(path) / read_info(path)["directory"]
    manifests.check_features(directory)
    try:
        tfds.builder_from_directory(str(directory))
    except Exception as error:  # whatever TFDS and protobuf raise of damaged files
        reason = str(error).partition("\n")[0]
        raise DatasetError(f"{directory}: cannot be read: {reason}") from error
    listed = read_shards(path, split)
    return shards.ShardedExamples(
        [shard["file"] for shard in listed],
        [int(shard["records"]) for shard in listed],
        parse=shards.parse_example,
        place=mirrors.ShardPlaces.of(path, listed),
    )


def read_shards(path: str | Path, split: str | None = None) -> list[dict[str, Any]]:
    """The lines of the manifest, of one split or of all.

    Raises:
      DatasetError: it cannot be read, or is no manifest.
    """
    origin = mirrors.named(path, MANIFEST)
    listed = read_manifest(path).get("shards")
    if not isinstance(listed, list):
        raise DatasetError(f"{origin}: damaged; make the dataset again")
    for shard in listed:
        manifests.check_shard_line(shard, origin=origin)
    return [shard for shard in listed if split in (None, shard["split"])]


def check_shard(root: str | Path, shard: Mapping[str, Any], *, verify: bool) -> None:
    """Check one shard against its line of the manifest.

    Args:
      root: the DATASET directory.
      shard: the shard's entry in the manifest.
      verify: compute its SHA-256 as well. Otherwise, of a shard in a bucket, only the
        size is looked at.

    Raises:
      DatasetError: the shard is missing, or its size, count or digest differs.
    """
    places = mirrors.ShardPlaces.of(root, [shard])
    if places.url is not None and not verify:
        places.check_size(shard["file"])
        return
    path = Path(places(shard["file"], doubted=verify))
    if not path.is_file():
        raise DatasetError(f"{path}: shard is missing; make the dataset again")
    size = path.stat().st_size
    if size != shard["bytes"]:
        raise DatasetError(
            f"{path}: {size} bytes instead of {shard['bytes']}: truncated; make the "
            "dataset again"
        )
    count = _count(path)
    if count != shard["records"]:
        raise DatasetError(
            f"{path}: {count} records instead of {shard['records']}: damaged; make the "
            "dataset again"
        )
    if verify and storage.file_digest(path) != shard.get("sha256"):
        raise DatasetError(f"{path}: SHA-256 differs; make the dataset again")


def read_info(path: str | Path) -> dict[str, Any]:
    """The contents of dataset.json.

    Raises:
      DatasetError: there is no dataset at `path`, or it is empty or of another format.
    """
    root, name = mirrors.folder(path), mirrors.named(path)
    if not (root / INFO).is_file():
        problem = (
            "not a dataset (no dataset.json)" if root.exists() else "no such dataset"
        )
        raise DatasetError(
            f"{name}: {problem}; make one with `python -m data_pipelines.prepare "
            f"--input CLIPS_DIR --captions captions.jsonl --output {name}`"
        )
    origin = mirrors.named(path, INFO)
    info = manifests.read_json(root / INFO, origin)
    if info.get("format") != FORMAT:
        raise DatasetError(
            f"{name}: dataset format {info.get('format')}, this version reads {FORMAT}"
        )
    manifests.check_info(info, origin=origin)
    if not sum(info["splits"].values()):
        raise DatasetError(f"{name}: the dataset is empty")
    return info


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The contents of manifest.json.

    Raises:
      DatasetError: it cannot be read.
    """
    file = mirrors.folder(path) / MANIFEST
    return manifests.read_json(file, mirrors.named(path, MANIFEST))


def dataset_digest(path: str | Path) -> str:
    """SHA-256 of the manifest, which names the SHA-256 of every shard.

    Raises:
      DatasetError: there is no manifest.
    """
    manifest = mirrors.folder(path) / MANIFEST
    if not manifest.is_file():
        name = mirrors.named(path, MANIFEST)
        raise DatasetError(f"{name}: missing; make the dataset again")
    return storage.file_digest(manifest)


def read_report(path: str | Path) -> list[dict[str, Any]]:
    """The lines of report.jsonl, one per input.

    Raises:
      DatasetError: there is none, or it is damaged.
    """
    file = mirrors.file(path, REPORT)
    try:
        lines = file.read_bytes().decode("utf-8").split("\n")
        return [json.loads(line) for line in lines if line]
    except (OSError, ValueError) as error:
        name = mirrors.named(path, REPORT)
        raise DatasetError(f"{name}: cannot be read: {error}") from error


def write_metadata(
    root: Path,
    directory: str,
    *,
    info: Mapping[str, Any],
    report: Iterable[Mapping[str, Any]],
    shards: Iterable[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Write dataset.json, manifest.json and report.jsonl beside finished shards.

    Args:
      root: the dataset directory, best the temporary one of `publish`.
      directory: path of the TFDS directory, relative to `root`.
      info: contents of dataset.json beside format, directory and splits; `kind`
        ('clips' or 'latents') is required.
      report: one mapping per input.
      shards: lines of the manifest, where they are known; else the shards are read.

    Returns:
      The contents of dataset.json.
    """
    listed = list(_shards(root, directory) if shards is None else shards)
    splits: dict[str, int] = {}
    for shard in listed:
        splits[shard["split"]] = splits.get(shard["split"], 0) + shard["records"]
    full_info = {"format": FORMAT, "directory": directory, "splits": splits, **info}
    _write_json(root / MANIFEST, {"shards": listed})
    # Unpaired surrogates, as of file names, become JSON's escapes of them.
    options: Any = {"encoding": "utf-8", "errors": "backslashreplace", "newline": "\n"}
    with (root / REPORT).open("w", **options) as file:
        for line in report:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    _write_json(root / INFO, full_info)
    return full_info


def _shards(root: Path, directory: str) -> Iterator[dict[str, Any]]:
    for path in sorted((root / directory).glob("*.array_record-*")):
        # TFDS names shards NAME-SPLIT.array_record-00000-of-00001.
        split = path.name.split(".array_record-")[0].rsplit("-", 1)[1]
        yield {
            "file": path.relative_to(root).as_posix(),
            "split": split,
            "records": _count(path),
            "bytes": path.stat().st_size,
            "sha256": storage.file_digest(path),
        }


@contextlib.contextmanager
def publish(output: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary directory beside `output` that replaces it when the block ends.

    Raises:
      DatasetError: `output` is in the way: a file, a directory that holds something,
        or with `overwrite` a directory that is no dataset; or it is below a file.
    """
    output = Path(output).absolute()
    check_output(output, overwrite=overwrite)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".draft-", dir=output.parent))
    try:
        staging = temporary / "new"
        staging.mkdir()
        yield staging
        if output.exists():
            output.rename(temporary / "old")
        staging.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_output(output: str | Path, *, overwrite: bool = False) -> None:
    """Refuse an output that cannot be written, before any work; errors of `publish`."""
    output = Path(output)
    if any("\ud800" <= character <= "\udfff" for character in str(output.absolute())):
        raise DatasetError(f"{output}: its name is not UTF-8; choose another")
    for parent in output.parents:
        if parent.exists() and not parent.is_dir():
            raise DatasetError(f"{output}: {parent} is a file, not a directory")
    if not output.exists():
        return
    if not output.is_dir():
        raise DatasetError(f"{output}: is a file; a dataset is a directory")
    if not any(output.iterdir()):
        return
    if not overwrite:
        raise DatasetError(f"{output}: exists; --overwrite replaces it")
    if not (output / INFO).is_file():
        raise DatasetError(f"{output}: holds no dataset, so it is not overwritten")


def _count(path: Path) -> int:
    try:
        reader = array_record_module.ArrayRecordReader(str(path))
        count = reader.num_records()
        reader.close()
    except (RuntimeError, ValueError) as error:
        raise DatasetError(f"{path}: damaged; make the dataset again") from error
    return count


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
