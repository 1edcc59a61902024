"""From shards in the store to a dataset that stands whole, here or in a bucket.

    DATASET/quarantine.jsonl    every rejected clip: step, reason, threshold, value
    DATASET/thumbnails.jsonl    pictures of some of them

beside the files of `data_pipelines.records`. A local dataset appears by one rename; in
a bucket dataset.json, without which it is none, is written last.
"""

import base64
import dataclasses
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines import mirrors, records, storage
from data_pipelines.curate import shards

QUARANTINE, THUMBNAILS = "quarantine.jsonl", "thumbnails.jsonl"
PICTURES = 24  # of the rejected clips of a kind
SCHEMA = 1  # of what curation adds


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What is published.

    Attributes:
      splits: rows of the shards of each split (`shards.ShardStep`).
      info: entries of dataset.json.
      report, quarantine, thumbnails: lines of those files.
    """

    splits: Mapping[str, Sequence[Mapping[str, Any]]]
    info: Mapping[str, Any]
    report: Iterable[Mapping[str, Any]]
    quarantine: Iterable[Mapping[str, Any]]
    thumbnails: Iterable[Mapping[str, Any]]


def check_output(output: str, *, overwrite: bool) -> None:
    """Refuse an output that is in the way, before any work.

    Raises:
      DatasetError: it stands there, or does not answer.
    """
    if not storage.is_bucket(output):
        records.check_output(output, overwrite=overwrite)
        return
    info = storage.read_bytes(storage.join(output, records.INFO))
    if info is not None and not overwrite:
        raise records.DatasetError(f"{output}: exists; --overwrite replaces it")


def publish(
    dataset: Dataset, output: str, *, store: storage.Store, overwrite: bool
) -> dict[str, Any]:
    """Write a dataset; returns its dataset.json.

    Raises:
      DatasetError: the output is in the way, or cannot be written.
    """
    if not storage.is_bucket(output):
        with records.publish(output, overwrite=overwrite) as root:
            info, entries = _write_metadata(dataset, root)
            for entry in entries:
                source = store.path("shards", entry["key"])
                storage.copy(source, os.fspath(root / entry["file"]))
            return info
    with tempfile.TemporaryDirectory(prefix="soraflax-") as folder:
        root = Path(folder)
        info, entries = _write_metadata(dataset, root)
        moved = {e["file"]: store.path("shards", e["key"]) for e in entries}
        put(root, output, elsewhere=moved)
    return info


def put(root: Path, output: str, *, elsewhere: Mapping[str, str] | None = None) -> None:
    """Copy a local dataset of any kind into a bucket, over the one that is there.

    Args:
      root: its folder.
      output: the DATASET in the bucket; dataset.json, without which it is none, goes
        first and comes last.
      elsewhere: files of it by their names in it, with the paths where they are.

    Raises:
      StorageError: the bucket does not answer.
    """
    before, moved = _old_shards(output), dict(elsewhere or {})
    storage.remove(storage.join(output, records.INFO))
    for name, source in moved.items():
        storage.copy(source, storage.join(output, name))
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    names = [path.relative_to(root).as_posix() for path in paths]
    for name in sorted(names, key=lambda name: name == records.INFO):
        storage.upload(root / name, storage.join(output, name))
    # Of what else lies there, only shards of the dataset before are ours to remove.
    for name in before - {*moved, *names}:
        storage.remove(storage.join(output, name))
    mirrors.forget(output)


def _old_shards(output: str) -> set[str]:
    """Names of the shards of a dataset that is to be replaced."""
    data = storage.read_bytes(storage.join(output, records.MANIFEST))
    names = [shard["file"] for shard in json.loads(data)["shards"]] if data else []
    return {name for name in names if ".array_record-" in name and ".." not in name}


def _write_metadata(
    dataset: Dataset, root: Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    builder = shards.CuratedClips(data_dir=root)
    directory = builder.write_info(dataset.splits)
    entries = list(builder.shard_entries(dataset.splits))
    _write_lines(root / QUARANTINE, dataset.quarantine)
    _write_lines(root / THUMBNAILS, dataset.thumbnails)
    info = {"kind": "clips", "name": "curated", "schema": SCHEMA, **dataset.info}
    written = records.write_metadata(
        root, directory, info=info, report=dataset.report, shards=entries
    )
    return written, entries


def put_lines(lines: Iterable[Mapping[str, Any]], path: str) -> None:
    """Write a .jsonl here or in a bucket, where it appears whole.

    Raises:
      StorageError: it cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="soraflax-") as folder:
        source = Path(folder) / "lines.jsonl"
        _write_lines(source, lines)
        storage.upload(source, path)


def _write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with path.open("wb") as file:
        file.writelines(json_lines([line]) for line in lines)


def json_lines(lines: Iterable[Mapping[str, Any]]) -> bytes:
    """The bytes of a .jsonl; halves of characters become JSON's escapes of them."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    return text.encode("utf-8", "backslashreplace")


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
