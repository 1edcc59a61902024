"""Which clips stay: the limits of scores, captions, and duplicates, in this order."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines import records, storage
from data_pipelines.curate import (
    duplicates,
    observation,
    publishing,
    scoring,
)
from data_pipelines.curate import settings as settings_lib


@dataclasses.dataclass(frozen=True, slots=True)
class Clip:
    """A shot that nothing rejected yet.

    Attributes:
      id: the file's name, with `#first-last` where it is a part of the file.
      row: of its file.
      shot: of the row.
    """

    id: str
    file: str
    path: str
    sha256: str
    probe: str
    first: int
    last: int
    frames: int
    height: int
    width: int
    fps: float
    bytes: int
    hashes: tuple[int, ...]
    samples: tuple[int, ...]

    @property
    def length(self) -> int:
        return self.last - self.first + 1

    def rank(self) -> tuple:
        """Of two that show the same, the lesser is kept: more to see, then the name."""
        return (-self.length * self.height * self.width, self.id)


@dataclasses.dataclass(frozen=True)
class Rejection:
    """Why a clip or a file is not in the dataset."""

    step: str
    reason: str
    threshold: float | None = None
    value: float | None = None


@dataclasses.dataclass
class Account:
    """What became of every clip.

    Attributes:
      kept: clips of the dataset.
      rejected: id of a clip, or name of a file that failed, to why.
    """

    kept: list[Clip] = dataclasses.field(default_factory=list)
    rejected: dict[str, Rejection] = dataclasses.field(default_factory=dict)

    def reject(self, clips: Mapping[str, Rejection]) -> None:
        """Move clips from kept to rejected."""
        self.rejected |= clips
        self.kept = [clip for clip in self.kept if clip.id not in clips]

    def quarantine(self) -> Iterator[dict[str, Any]]:
        """A line for every rejected clip, by name."""
        for name in sorted(self.rejected):
            yield {"clip": name} | dataclasses.asdict(self.rejected[name])

    def check_rate(self, limit: float, *, store: storage.Store) -> None:
        """Stop where nothing is left, or more than a part was rejected.

        Raises:
          DatasetError: with the counts; the log lies in the store.
        """
        total = len(self.kept) + len(self.rejected)
        rate = len(self.rejected) / total
        if self.kept and rate <= limit:
            return
        path = storage.join(store.root, publishing.QUARANTINE)
        storage.write_bytes(path, publishing.json_lines(self.quarantine()))
        steps = collections.Counter(r.step for r in self.rejected.values())
        counts = ", ".join(f"{count} by {step}" for step, count in steps.most_common())
        allowed = f"at most {limit:.0%} may be" if self.kept else "none is left"
        raise records.DatasetError(
            f"{len(self.rejected)} of {total} clips were rejected ({counts}), "
            f"{allowed}; why is in {path}"
        )


def decide(
    rows: Iterable[Mapping[str, Any]],
    settings: settings_lib.CurationSettings,
    *,
    captioned: Callable[[str], bool],
    store: storage.Store,
) -> Account:
    """Every decision about the clips of the rows of files, step by step.

    Args:
      rows: of every file (`probing.FileStep`).
      settings: limits, and what counts as the same.
      captioned: whether the clips of a file may stay for their captions.
      store: that the rows' observations are in.
    """
    account = Account()
    for row in rows:
        if "error" in row:
            account.rejected[row["name"]] = Rejection(row["step"], row["error"])
            continue
        for shot in row["shots"]:
            clip = clip_of(row, shot)
            broken = scoring.rejection(shot["scores"], settings.bounds)
            if broken is not None:
                facts = (broken["reason"], broken["threshold"], broken["value"])
                account.rejected[clip.id] = Rejection("score", *facts)
            else:
                account.kept.append(clip)
    bare = [clip for clip in account.kept if not captioned(clip.file)]
    account.reject({clip.id: Rejection("caption", "no caption") for clip in bare})
    if settings.duplicates.exact:
        account.reject(exact_duplicates(account.kept))
    if settings.duplicates.near:
        near = near_duplicates(account.kept, settings.duplicates, store=store)
        account.reject(near)
    return account


def clip_of(row: Mapping[str, Any], shot: Mapping[str, Any]) -> Clip:
    """A shot of a file's row."""
    info, name = row["info"], row["name"]
    whole = shot["last"] - shot["first"] + 1 == info["frames"]
    share = (shot["last"] - shot["first"] + 1) / info["frames"]
    return Clip(
        id=name if whole else f"{name}#{shot['first']}-{shot['last']}",
        file=name,
        path=row["path"],
        sha256=row["sha256"],
        probe=row["probe"],
        first=shot["first"],
        last=shot["last"],
        frames=info["frames"],
        height=info["height"],
        width=info["width"],
        fps=info["fps"],
        bytes=max(1, round(share * row["bytes"])),
        hashes=tuple(shot["hashes"]),
        samples=tuple(shot["samples"]),
    )


def exact_duplicates(clips: Sequence[Clip]) -> dict[str, Rejection]:
    """Clips of a file whose bytes are those of another, the first by name."""
    first: dict[str, str] = {}
    for clip in sorted(clips, key=lambda clip: clip.file):
        first.setdefault(clip.sha256, clip.file)
    return {
        clip.id: Rejection("deduplicate", f"its file is {first[clip.sha256]} again")
        for clip in clips
        if clip.file != first[clip.sha256]
    }


def near_duplicates(
    clips: Sequence[Clip],
    settings: settings_lib.DuplicateSettings,
    *,
    store: storage.Store,
) -> dict[str, Rejection]:
    """Clips that show what a kept one shows."""
    counts = [len(clip.hashes) for clip in clips]
    if not sum(counts):
        return {}

    @functools.lru_cache(maxsize=256)
    def samples(probe: str) -> Any:
        data = store.read("probe", probe)
        if data is None:
            raise records.DatasetError(
                f"{store.root}: lacks what it held; run it again"
            )
        return observation.Observation.from_bytes(data).samples

    hashed = duplicates.ClipHashes(
        np.array([h for clip in clips for h in clip.hashes], np.uint64),
        np.repeat(np.arange(len(clips)), counts),
        np.array([s for clip in clips for s in clip.samples], np.int64),
        [clip.rank() for clip in clips],
    )
    found = duplicates.near_duplicates(
        hashed, settings, picture=lambda clip, s: samples(clips[clip].probe)[s]
    )
    return {
        clips[clip].id: Rejection(
            "deduplicate",
            f"shows what {clips[other].id} shows",
            settings.share,
            float(f"{share:.6g}"),
        )
        for clip, (other, share) in found.items()
    }
