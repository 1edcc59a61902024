"""The step of a file: decode it once, guarded; its shots, their scores and hashes.

The frames of a file are held until its shots are known, if they take `HELD_BYTES` or
less (97 of 1280 x 720, 1,553 of 320 x 180). The shots that pass their limits are then
encoded from what is held, so that no step decodes the file again. A longer file is
decoded a second time when its shots are written (`shards`), once for all that are in a
shard; so is one whose shots pass only after their limits were changed. The bytes are
the same either way. What is rejected later, as a duplicate, was encoded for nothing.
"""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from data_pipelines import storage
from data_pipelines.curate import (
    cutting,
    duplicates,
    observation,
    scoring,
    settings,
    shards,
)
from soraflax import media
from soraflax.media import guard

VERSION = 2  # of cutting, scoring and hashing
HELD_BYTES = 2**28  # of the frames of a file that are kept until its shots are known
Frame = UInt8[np.ndarray, "H W 3"]
_MOST_HASHES = 32  # of a shot, evenly spread


@dataclasses.dataclass(frozen=True)
class FileStep:
    """Measures a file, unless that was done before.

    Attributes:
      store: of what steps made.
      probe: how files are decoded.
      cut: where shots end.
      shards: how clips are stored.
      bounds: of scores; a shot outside of them is not worth encoding.
      held: most bytes of a file's frames that are kept for its shots to be encoded.
    """

    store: storage.Store
    probe: settings.ProbeSettings
    cut: settings.CutSettings
    shards: settings.ShardSettings = dataclasses.field(
        default_factory=settings.ShardSettings
    )
    bounds: Mapping[str, settings.Bounds] = dataclasses.field(default_factory=dict)
    held: int = HELD_BYTES

    def __call__(self, file: Any) -> dict[str, Any]:
        """Row of a file, given by `name` and `path`, and `captioned` unless it is so.

        Of one that cannot be read it has `error`; of others `sha256`, `bytes`,
        `probe` (the observation's key), `info`, `shots`; and `ran`, the steps that
        were not found in the store.
        """
        row: dict[str, Any] = {"name": file["name"], "path": file["path"], "ran": []}
        try:
            keeps = self.held if file.get("captioned", True) else 0
            row |= self._measured(file["path"], HeldFrames(keeps), ran=row["ran"])
        except media.MediaError as error:
            row |= {"error": str(error), "step": "probe"}
        except (OSError, storage.StorageError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            reason = reason.removeprefix(f"{file['path']}: ")
            row |= {"error": reason, "step": "read"}
        return row

    def _measured(
        self, path: str, held: "HeldFrames", *, ran: list[str]
    ) -> dict[str, Any]:
        digest, size = self._digest(path)
        probe = storage.key(
            "probe", observation.VERSION, digest, dataclasses.asdict(self.probe)
        )
        shots = storage.key("shots", VERSION, probe, dataclasses.asdict(self.cut))
        found = self.store.read("shots", shots)
        if found is None:
            seen = self._observation(path, probe, ran=ran, held=held)
            ran.append("shots")
            facts = describe(seen, self.cut)
            found = json.dumps(facts).encode()
            self.store.write("shots", shots, data=found)
            self._encode(digest, facts, held=held, ran=ran)
        return {"sha256": digest, "bytes": size, "probe": probe} | json.loads(found)

    def _digest(self, path: str) -> tuple[str, int]:
        """SHA-256 and size; remembered for a local file that did not change."""
        facts = storage.file_facts(path)
        name = storage.key("digest", facts) if facts else ""
        known = self.store.read("digests", name) if facts else None
        if known is not None:
            digest, size = json.loads(known)
            return digest, size
        with storage.local_copy(path) as (local, digest):
            size = os.path.getsize(local)
        if facts:
            data = json.dumps([digest, size]).encode()
            self.store.write("digests", name, data=data)
        return digest, size

    def _encode(
        self,
        digest: str,
        facts: Mapping[str, Any],
        *,
        held: "HeldFrames",
        ran: list[str],
    ) -> None:
        """Write the shots that may stay into the store, if the frames are at hand."""
        info = facts["info"]
        if len(held.frames) != info["frames"]:
            return
        for shot in facts["shots"]:
            key = shards.clip_key(digest, shot)
            if (
                not shards.is_cut(shot, info["frames"], rules=self.shards)
                or scoring.rejection(shot["scores"], self.bounds) is not None
                or self.store.has("clips", key)
            ):
                continue
            frames = held.frames[shot["first"] : shot["last"] + 1]
            try:
                data = shards.encode(frames, info)
            except ValueError:  # who writes the clip says it, if it stays
                continue
            self.store.write("clips", key, data=data)
            ran.append("clip")

    def _observation(
        self, path: str, key: str, *, ran: list[str], held: "HeldFrames"
    ) -> observation.Observation:
        found = self.store.read("probe", key)
        if found is not None:
            with contextlib.suppress(ValueError):  # damaged: made again
                return observation.Observation.from_bytes(found)
        failed = self.store.read("failures", key)
        if failed is not None:
            raise media.MediaError(failed.decode())
        ran.append("probe")
        with storage.local_copy(path) as (local, _):
            try:
                seen = probe_file(os.fspath(local), self.probe, held=held)
            except media.MediaError as error:
                text = str(error).encode("utf-8", "replace")
                self.store.write("failures", key, data=text)
                raise
        self.store.write("probe", key, data=seen.to_bytes())
        return seen


class HeldFrames:
    """The frames of a file, or none where they take more than `most` bytes.

    Attributes:
      frames: in order, as far as the file was decoded.
    """

    def __init__(self, most: int) -> None:
        self.frames: list[Frame] = []
        self._left = most

    def keep(self, pixels: Iterable[Frame]) -> Iterator[Frame]:
        """The same frames."""
        for frame in pixels:
            self._left -= frame.nbytes
            if self._left >= 0:
                self.frames.append(frame)
            else:
                self.frames.clear()
            yield frame


def probe_file(
    path: str, rules: settings.ProbeSettings, *, held: HeldFrames | None = None
) -> observation.Observation:
    """Decode a file in a guarded process, and measure it; `held` gets its frames.

    Raises:
      MediaError: it cannot be decoded to its end, or takes too long or too much; the
        message does not begin with its name.
    """
    limits = {"max_pixels": rules.max_pixels, "limits": rules.limits}
    try:
        with guard.open_frames(path, measure=True, **limits) as stream:
            pixels = stream.pixels if held is None else held.keep(stream.pixels)
            pixels = _within(pixels, rules.total_seconds)
            return observation.observe(
                dataclasses.replace(stream, pixels=pixels), rules
            )
    except media.MediaError as error:
        raise media.MediaError(str(error).removeprefix(f"{path}: ")) from error


def _within(pixels: Iterable[np.ndarray], seconds: float) -> Iterator[np.ndarray]:
    end = time.monotonic() + seconds
    for frame in pixels:
        yield frame
        if time.monotonic() > end:
            raise media.MediaError(f"takes more than {seconds:g} s in all: given up")


def describe(
    seen: observation.Observation, cut: settings.CutSettings
) -> dict[str, Any]:
    """Facts of a file and of its shots, as JSON values."""
    shots = []
    for first, last in cutting.find_shots(seen, cut):
        inside = seen.inside(first, last)
        chosen = (
            inside[
                np.linspace(0, len(inside) - 1, min(len(inside), _MOST_HASHES))
                .round()
                .astype(int)
            ]
            if len(inside)
            else inside
        )
        good = chosen[duplicates.worth_hashing(seen.samples[chosen])]
        hashes = duplicates.hashes(seen.samples[good])
        shots.append(
            {
                "first": first,
                "last": last,
                "scores": scoring.scores(seen, first, last=last),
                "samples": good.tolist(),
                "hashes": [int(value) for value in hashes],
                "thumbnail": int(inside[len(inside) // 2]) if len(inside) else 0,
            }
        )
    info = {
        "frames": seen.frames,
        "height": seen.height,
        "width": seen.width,
        "fps": seen.fps,
        "notes": list(seen.notes),
    }
    return {"info": info, "shots": shots}
