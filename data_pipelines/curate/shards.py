"""The step of a shard: its clips as records, in an ArrayRecord file.

A file that is one shot keeps its bytes. A shot of a longer file is encoded again, H.264
as `media.write_frames` writes it, or without loss where a side is odd.
"""

import dataclasses
import itertools
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from array_record.python import (
    array_record_module,  # pyright: ignore[reportAttributeAccessIssue]
)

from data_pipelines import records
from data_pipelines.builders import base
from data_pipelines.curate import settings, storage
from soraflax import media
from soraflax.media import guard

VERSION = 2  # of what is written


class CuratedClips(base.RecordBuilder):
    """Curated clips; written shard by shard, not by TFDS."""

    def features(self) -> dict[str, Any]:
        return base.clip_features()


def plan_shards(
    clips: Sequence[Mapping[str, Any]], rules: settings.ShardSettings
) -> Iterator[list[Mapping[str, Any]]]:
    """Clips in their order, each shard of about `rules.size` bytes."""
    shard, size = [], 0
    for clip in clips:
        if shard and size + clip["bytes"] > rules.size:
            yield shard
            shard, size = [], 0
        shard.append(clip)
        size += clip["bytes"]
    if shard:
        yield shard


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
        """Row of a shard of clips: `key`, `records`, `bytes`, `sha256`, `ran`.

        Raises:
          DatasetError: a clip that was decoded before cannot be read any more.
        """
        made_of = [{k: v for k, v in clip.items() if k != "path"} for clip in shard]
        key = storage.key("shard", VERSION, dataclasses.asdict(self.rules), made_of)
        known = self.store.read("shards", f"{key}.json")
        if known is not None:
            return json.loads(known) | {"ran": []}
        ran: list[str] = ["shard"]
        with tempfile.TemporaryDirectory(prefix="soraflax-") as folder:
            path = Path(folder) / "shard"
            builder = CuratedClips(data_dir=folder)
            writer = array_record_module.ArrayRecordWriter(
                str(path), base.WRITER_OPTIONS
            )
            for clip in shard:
                writer.write(builder.serialize(self._record(clip, ran).to_example()))
            writer.close()
            with storage.local_copy(os.fspath(path)) as (_, digest):
                pass
            facts = {
                "key": key,
                "records": len(shard),
                "bytes": path.stat().st_size,
                "sha256": digest,
            }
            storage.upload(path, self.store.path("shards", key))
        data = json.dumps(facts).encode()
        self.store.write("shards", f"{key}.json", data=data)
        return facts | {"ran": ran}

    def _record(self, clip: Mapping[str, Any], ran: list[str]) -> records.ClipRecord:
        return records.ClipRecord(
            id=clip["id"],
            video=self._video(clip, ran),
            fps=clip["fps"],
            frames=clip["last"] - clip["first"] + 1,
            height=clip["height"],
            width=clip["width"],
            captions=clip["captions"],
        )

    def _video(self, clip: Mapping[str, Any], ran: list[str]) -> bytes:
        whole = clip["last"] - clip["first"] + 1 == clip["frames"]
        if whole and self.rules.keep_bytes:
            data = storage.read_bytes(clip["path"])
            if data is None:
                raise records.DatasetError(f"{clip['path']}: it is gone; run it again")
            return data
        parts = (clip["sha256"], clip["first"], clip["last"])
        key = storage.key("clip", VERSION, *parts)
        found = self.store.read("clips", key)
        if found is None:
            ran.append("clip")
            with storage.local_copy(clip["path"]) as (local, _):
                found = cut_out(os.fspath(local), clip, rules=self.probe)
            self.store.write("clips", key, data=found)
        return found


def cut_out(
    path: str, clip: Mapping[str, Any], *, rules: settings.ProbeSettings
) -> bytes:
    """The bytes of a video of the frames `first`..`last` of a file.

    Raises:
      DatasetError: it does not decode as it did.
    """
    odd = clip["height"] % 2 or clip["width"] % 2
    limits = {"max_pixels": rules.max_pixels, "limits": rules.limits}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="soraflax-") as folder,
            guard.open_frames(path, **limits) as stream,
        ):
            target = Path(folder) / ("clip.mkv" if odd else "clip.mp4")
            chosen = itertools.islice(stream.pixels, clip["first"], clip["last"] + 1)
            media.write_frames(target, chosen, fps=clip["fps"])
            return target.read_bytes()
    except ValueError as error:
        raise records.DatasetError(f"{error}; it was whole before") from error
