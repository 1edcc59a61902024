"""The step of a shard: its clips as records, in an ArrayRecord file.

A file that is one shot keeps its bytes. A shot of a longer file is encoded again, H.264
as `media.write_frames` writes it, or without loss where a side is odd: when its file is
measured, from the frames at hand (`probing`), or here, where a file is decoded once
more for all of its shots that are in the shard.
"""

import dataclasses
import itertools
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import (
    array_record_module,  # pyright: ignore[reportAttributeAccessIssue]
)
from jaxtyping import UInt8

from data_pipelines import records, storage
from data_pipelines.builders import base
from data_pipelines.curate import lines, settings
from soraflax import media
from soraflax.media import guard

VERSION = 2  # of what is written


class CuratedClips(base.RecordBuilder):
    """Curated clips; written shard by shard, not by TFDS."""

    def features(self) -> dict[str, Any]:
        return base.clip_features()


def plan_shards(
    clips: Iterable[Mapping[str, Any]],
    rules: settings.ShardSettings,
    *,
    store: storage.Store,
    folder: Path,
) -> Iterator[dict[str, str]]:
    """Clips in their order, each shard of about `rules.size` bytes.

    The clips of a shard are lines in the store: a shard of small clips has many.

    Args:
      clips: as `ShardStep` writes them.
      rules: how clips are stored.
      store: of what steps made.
      folder: for the lines, until they are in the store.

    Yields:
      `key` of each shard, and of its lines.
    """
    plan, size = lines.LineFile(folder / "plan.jsonl"), 0
    for clip in clips:
        if plan and size + clip["bytes"] > rules.size:
            yield _stored_plan(plan, rules, store=store)
            plan, size = lines.LineFile(plan.path), 0
        plan.append(clip)
        size += clip["bytes"]
    if plan:
        yield _stored_plan(plan, rules, store=store)


def _stored_plan(
    plan: lines.LineFile, rules: settings.ShardSettings, *, store: storage.Store
) -> dict[str, str]:
    made_of = ({k: v for k, v in clip.items() if k != "path"} for clip in plan)
    parts = ("shard", VERSION, dataclasses.asdict(rules))
    key = storage.key_of_many(*parts, items=made_of)
    storage.upload(plan.path, store.path("plans", key))
    return {"key": key}


@dataclasses.dataclass(frozen=True)
class ShardStep:
    """Writes a shard into the store, unless that was done before.

    Attributes:
      store: of what steps made.
      probe: how files are decoded.
      rules: how clips are stored.
    """

    store: storage.Store
    probe: settings.ProbeSettings
    rules: settings.ShardSettings

    def __call__(self, shard: Any) -> dict[str, Any]:
        """Row of a planned shard: `key`, `records`, `bytes`, `sha256`, `ran`.

        Raises:
          DatasetError: a clip that was decoded before cannot be read any more.
        """
        key = shard["key"]
        known = self.store.read("shards", f"{key}.json")
        if known is not None:
            return json.loads(known) | {"ran": []}
        ran: list[str] = ["shard"]
        with tempfile.TemporaryDirectory(prefix="soraflax-") as folder:
            path = Path(folder) / "shard"
            count = self._write(path, key, ran=ran)
            with storage.local_copy(os.fspath(path)) as (_, digest):
                pass
            facts = {
                "key": key,
                "records": count,
                "bytes": path.stat().st_size,
                "sha256": digest,
            }
            storage.upload(path, self.store.path("shards", key))
        data = json.dumps(facts).encode()
        self.store.write("shards", f"{key}.json", data=data)
        return facts | {"ran": ran}

    def _write(self, path: Path, key: str, *, ran: list[str]) -> int:
        """Write the records of a planned shard; returns their number."""
        count, builder = 0, CuratedClips(data_dir=path.parent)
        writer = array_record_module.ArrayRecordWriter(str(path), base.WRITER_OPTIONS)
        with storage.local_copy(self.store.path("plans", key)) as (plan, _):
            files = itertools.groupby(lines.read(plan), key=lambda clip: clip["path"])
            for source, clips in files:
                for clip in self._cut(source, list(clips), ran=ran):
                    record = self._record(clip)
                    writer.write(builder.serialize(record.to_example()))
                    count += 1
        writer.close()
        return count

    def _record(self, clip: Mapping[str, Any]) -> records.ClipRecord:
        return records.ClipRecord(
            id=clip["id"],
            video=self._video(clip),
            fps=clip["fps"],
            frames=clip["last"] - clip["first"] + 1,
            height=clip["height"],
            width=clip["width"],
            captions=clip["captions"],
        )

    def _video(self, clip: Mapping[str, Any]) -> bytes:
        if not is_cut(clip, clip["frames"], rules=self.rules):
            data = storage.read_bytes(clip["path"])
        else:
            data = self.store.read("clips", clip_key(clip["sha256"], clip))
        if data is None:
            raise records.DatasetError(f"{clip['path']}: it is gone; run it again")
        return data

    def _cut(
        self, path: str, clips: list[Mapping[str, Any]], *, ran: list[str]
    ) -> list[Mapping[str, Any]]:
        """The clips of a file, all that are cut out of it in the store."""
        missing = [
            clip
            for clip in clips
            if is_cut(clip, clip["frames"], rules=self.rules)
            and not self.store.has("clips", clip_key(clip["sha256"], clip))
        ]
        if missing:
            with storage.local_copy(path) as (local, _):
                for clip, data in cut_out(os.fspath(local), missing, rules=self.probe):
                    key = clip_key(clip["sha256"], clip)
                    self.store.write("clips", key, data=data)
                    ran.append("clip")
        return clips


def is_cut(
    shot: Mapping[str, Any], frames: int, *, rules: settings.ShardSettings
) -> bool:
    """Whether a shot, `first` to `last` of a file's frames, is encoded again."""
    return shot["last"] - shot["first"] + 1 != frames or not rules.keep_bytes


def clip_key(sha256: str, shot: Mapping[str, Any]) -> str:
    """Key of a shot's bytes in the store, by the digest of its file."""
    return storage.key("clip", VERSION, sha256, shot["first"], shot["last"])


def cut_out(
    path: str, clips: Sequence[Mapping[str, Any]], *, rules: settings.ProbeSettings
) -> Iterator[tuple[Mapping[str, Any], bytes]]:
    """Clips of a file, which do not overlap, each with its bytes, as they come in it.

    The file is decoded once, up to the end of the last.

    Raises:
      DatasetError: it does not decode as it did.
    """
    limits = {"max_pixels": rules.max_pixels, "limits": rules.limits}
    try:
        with guard.open_frames(path, **limits) as stream:
            at = 0
            for clip in sorted(clips, key=lambda clip: clip["first"]):
                first, last = clip["first"] - at, clip["last"] + 1 - at
                frames = itertools.islice(stream.pixels, first, last)
                yield clip, encode(frames, clip)
                at += last
    except ValueError as error:
        raise records.DatasetError(f"{error}; it was whole before") from error


def encode(
    frames: Iterable[UInt8[np.ndarray, "H W 3"]], clip: Mapping[str, Any]
) -> bytes:
    """The bytes of a video of a clip's `height`, `width` and `fps`.

    Raises:
      ValueError: no frames, or it cannot be written.
    """
    odd = clip["height"] % 2 or clip["width"] % 2
    with tempfile.TemporaryDirectory(prefix="soraflax-") as folder:
        target = Path(folder) / ("clip.mkv" if odd else "clip.mp4")
        media.write_frames(target, frames, fps=clip["fps"])
        return target.read_bytes()
