"""Caching latents in parts: by any number of workers, resumable, damage of one clip.

A dataset of clips is divided into parts of `PART` clips, each of which becomes one
shard. A worker encodes every `count`-th part and seals it; whoever is last puts the
sealed parts together. Each clip is read once.

    .OUTPUT.parts/SPLIT-00003.shard    the latents of a part
    .OUTPUT.parts/SPLIT-00003.json     its seal, written last: what it was made from,
                                       its count, size, SHA-256, moments, windows

A part whose seal was made from other clips, by another encoder or under other settings
is none. The latents are the same for any number of workers. A clip that cannot be
decoded is left out, with its reason in the report; more than one in 100 are too many.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from array_record.python import (
    array_record_module,  # pyright: ignore[reportAttributeAccessIssue]
)

from data_pipelines import (
    account,
    clip_encoding,
    latents,
    progress,
    records,
    sources,
    storage,
    transforms,
)
from data_pipelines.builders import base

PART = 1024  # clips of a shard
CHUNK_BYTES = 2**28  # of clips that are held at a time, about
FORMAT = 1  # of what a seal says


@dataclasses.dataclass(frozen=True)
class Part:
    """Clips `first`..`last - 1` of a split.

    Attributes:
      split: name of the split.
      number: number of the part in its split.
      first, last: indices of its clips.
    """

    split: str
    number: int
    first: int
    last: int

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:05d}"


class CacheJob:
    """The caching of one dataset; see the module.

    Attributes:
      parts: all of them, in order.
      folder: where they are sealed.
    """

    def __init__(
        self,
        dataset: str | Path,
        output: str | Path,
        *,
        encoder: latents.LatentEncoder,
        config: latents.LatentCacheConfig,
    ) -> None:
        """Encode nothing yet.

        Raises:
          DatasetError: `dataset` cannot be read.
        """
        self._dataset, self._output = dataset, Path(output).absolute()
        self._encoder, self._config = encoder, config
        self._info = records.read_info(dataset)
        self._digest = records.dataset_digest(dataset)
        self._grid = encoder.grid(config.patch)
        self._clips = {
            split: records.open_dataset(dataset, split)
            for split, count in self._info["splits"].items()
            if count
        }
        self.parts = [
            Part(split, number, first, min(first + PART, len(clips)))
            for split, clips in self._clips.items()
            for number, first in enumerate(range(0, len(clips), PART))
        ]
        self.folder = self._output.with_name(f".{self._output.name}.parts")

    def encode(self, index: int = 0, *, count: int = 1) -> None:
        """Encode and seal the parts of one of `count` workers that are not sealed yet.

        Raises:
          ValueError: no such worker, or the encoder's latents are not finite.
          DatasetError: a shard of the clips is missing.
        """
        if not 0 <= index < count:
            raise ValueError(f"worker {index} of {count}: use 0..{max(0, count - 1)}")
        own = [part for part in self.parts[index::count] if self._seal(part) is None]
        if not own:
            return
        total = sum(part.last - part.first for part in own)
        with (
            _held(self.folder),
            progress.bar(total=total, what="latents", unit="clip") as bar,
        ):
            for part in own:
                self._encode(part, tick=bar.update)

    def missing(self) -> list[Part]:
        """Parts that are not sealed yet."""
        return [part for part in self.parts if self._seal(part) is None]

    def finish(
        self, *, overwrite: bool = False, max_failed: int | None = None
    ) -> dict[str, Any]:
        """Put the parts together at the output; their folder goes.

        Args:
          overwrite: replace the dataset at the output.
          max_failed: most clips that may have failed; None is one in 100, or one.

        Returns:
          The contents of dataset.json.

        Raises:
          DatasetError: parts are missing, too many clips failed, or the output is in
            the way.
        """
        if missing := self.missing():
            raise records.DatasetError(
                f"{self._output}: {len(missing)} of {len(self.parts)} parts are not "
                f"encoded yet, the first {missing[0].name}; run their workers"
            )
        sealed = [(part, self._seal(part) or {}) for part in self.parts]
        failed = {clip: why for _, s in sealed for clip, why in s["failed"].items()}
        clips = sum(len(own) for own in self._clips.values())
        _check_failed(self._dataset, failed, clips=clips, most=max_failed)
        report = _report(self._dataset, sealed)
        with records.publish(self._output, overwrite=overwrite) as root:
            builder = self._builder(root)
            rows = {
                split: [
                    seal | {"shard": self.folder / f"{part.name}.shard"}
                    for part, seal in sealed
                    if part.split == split and seal["records"]
                ]
                for split in self._clips
            }
            directory = builder.write_info(rows)
            entries = list(builder.shard_entries(rows))
            for entry, row in zip(entries, _in_order(rows), strict=True):
                _link(row["shard"], root / entry["file"])
            info = records.write_metadata(
                root,
                directory,
                info=self._origin() | _contents(sealed, report),
                report=report,
                shards=entries,
            )
        shutil.rmtree(self.folder, ignore_errors=True)
        return info

    def _key(self, part: Part) -> str:
        """Digest of all that a part is made from."""
        made_of = {
            "format": FORMAT,
            "clips": self._digest,
            "encoder": self._encoder.digest,
            "config": dataclasses.asdict(self._config) | {"threads": None},
            "part": dataclasses.asdict(part),
        }
        text = json.dumps(made_of, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _seal(self, part: Part) -> dict[str, Any] | None:
        """What a sealed part says of itself; None where it is none."""
        try:
            seal = json.loads((self.folder / f"{part.name}.json").read_text())
            shard = os.stat(self.folder / f"{part.name}.shard")
        except (OSError, ValueError):
            return None
        if not isinstance(seal, dict) or seal.get("key") != self._key(part):
            return None
        return seal if seal["bytes"] == shard.st_size else None

    def _encode(self, part: Part, *, tick: Callable[[int], Any]) -> None:
        """Encode a part into its shard, and seal it."""
        shard = self.folder / f"{part.name}.shard"
        draft = shard.with_suffix(f".draft.{os.getpid()}")
        seal = self.folder / f"{part.name}.json"
        seal.unlink(missing_ok=True)
        builder = self._builder(self.folder)
        found, count = clip_encoding.Encoded(), 0
        try:
            writer = array_record_module.ArrayRecordWriter(
                str(draft), base.WRITER_OPTIONS
            )
            for chunk in _chunks(
                self._clips[part.split], part, most=self._config.chunk
            ):
                done = clip_encoding.encode_clips(
                    chunk, encoder=self._encoder, config=self._config, grid=self._grid
                )
                for example in done.examples:
                    writer.write(builder.serialize(example))
                count += len(done.examples)
                found.windows += done.windows
                found.failed |= done.failed
                found.shapes |= done.shapes
                found.moments += done.moments
                tick(len(chunk))
            writer.close()
            os.replace(draft, shard)
        finally:
            draft.unlink(missing_ok=True)
        values = {
            "key": self._key(part),
            "records": count,
            "bytes": shard.stat().st_size,
            "sha256": storage.file_digest(shard),
            "windows": found.windows,
            "failed": found.failed,
            "shapes": sorted(found.shapes),
            "moments": dataclasses.asdict(found.moments),
        }
        part_of_seal = seal.with_suffix(f".draft.{os.getpid()}")
        part_of_seal.write_text(json.dumps(values))
        os.replace(part_of_seal, seal)

    def _origin(self) -> dict[str, Any]:
        """Entries of dataset.json about what the latents were made from."""
        encoder = self._encoder
        return {
            "kind": "latents",
            "name": self._info.get("name", ""),
            "source": {"path": str(self._dataset), "digest": self._digest},
            "encoder": {"digest": encoder.digest, "config": dict(encoder.config)},
            "grid": dataclasses.asdict(self._grid),
            "config": dataclasses.asdict(self._config),
        }

    def _builder(self, root: Path) -> base.RecordBuilder:
        from data_pipelines.builders import latent_records

        return latent_records.Latents(data_dir=root, examples={})


def _chunks(
    clips: records.RecordDataset[records.ClipRecord], part: Part, *, most: int
) -> Iterator[dict[int, records.ClipRecord | str]]:
    """Clips of a part by their index, read once, as many as are held at a time.

    In the place of one that cannot be read is the reason.
    """
    held: dict[int, records.ClipRecord | str] = {}
    size = 0
    for index in range(part.first, part.last):
        try:
            held[index] = clip = clips[index]
            size += len(clip.video)
        except records.DamagedRecordError as error:
            held[index] = str(error)
        if len(held) >= most or size >= CHUNK_BYTES:
            yield held
            held, size = {}, 0
    if held:
        yield held


def _check_failed(
    dataset: str | Path, failed: Mapping[str, str], *, clips: int, most: int | None
) -> None:
    most = sources.max_damaged(clips) if most is None else most
    if failed and (len(failed) > most or len(failed) == clips):
        (first, why), *_ = failed.items()
        raise records.DatasetError(
            f"{dataset}: {len(failed):,} of {clips:,} clips cannot be encoded, and "
            f"{most:,} may fail; the first: {first}: {why}"
        )


def _report(
    dataset: str | Path, sealed: Sequence[tuple[Part, Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """The lines of the clips' own report, with the windows of each."""
    fits, splits, failed = [], {}, {}
    for part, seal in sealed:
        for clip, window, start, fit in seal["windows"]:
            fits.append((clip, window, start, _fit(fit)))
            splits[clip] = part.split
        failed |= seal["failed"]
    report = records.read_report(dataset)
    return list(account.with_windows(report, fits, splits=splits, failed=failed))


def _contents(
    sealed: Sequence[tuple[Part, Mapping[str, Any]]], report: Sequence[account.Line]
) -> dict[str, Any]:
    """Account, shapes, mean and deviation of each channel of the training split."""
    splits = [part.split for part, _ in sealed]
    measured = "train" if "train" in splits else splits[0]
    moments = clip_encoding.Moments()
    for part, seal in sealed:
        if part.split == measured:
            moments += clip_encoding.Moments(**seal["moments"])
    found = moments.statistics()
    shapes = sorted({tuple(shape) for _, seal in sealed for shape in seal["shapes"]})
    values = {"mean": list(found.mean), "std": list(found.std), "shapes": shapes}
    return values | {"account": account.summary(report)}


def _fit(values: Mapping[str, Any]) -> transforms.FitPlan:
    """A fitted size of JSON's types."""
    sizes = {name: tuple(values[name]) for name in ("native", "grid")}
    return transforms.FitPlan(**{**values, **sizes})


def _in_order(rows: Mapping[str, Sequence[Any]]) -> Iterator[Any]:
    """Rows of shards in the order of `RecordBuilder.shard_entries`."""
    for split in sorted(rows):
        yield from rows[split]


def _link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where a disk has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """A folder of several workers, which goes with the last if nothing is in it.

    A file of each keeps it there while that one works, whatever ends another.
    """
    marker = folder / f".worker.{uuid.uuid4().hex}"
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another has just removed it
            marker.touch()
            break
    try:
        yield
    finally:
        marker.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # parts are sealed in it, or others work
            folder.rmdir()
