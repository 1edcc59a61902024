"""Which clips stay: the limits of scores, captions, and duplicates, in this order.

In memory a clip has its name, its place among the rows of files, and what duplicates
are found by: a digest, and eight bytes twice for each hash. The rest, and why a clip
was rejected, lies on disk.
"""

import array
import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import records, storage
from data_pipelines.curate import (
    duplicates,
    lines,
    observation,
    publishing,
    scoring,
)
from data_pipelines.curate import settings as settings_lib


@dataclasses.dataclass(frozen=True, slots=True)
class Clip:
    """All that is known of a shot.

    Attributes:
      id: the file's name, with `#first-last` where it is a part of the file.
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


@dataclasses.dataclass(frozen=True, slots=True)
class KeptClip:
    """A clip that nothing rejected yet.

    Attributes:
      id, file: as in `Clip`.
      row: number of its file's row.
      shot: number of it in the row.
      number: of its fingerprint.
    """

    id: str
    file: str
    row: int
    shot: int
    number: int


@dataclasses.dataclass(frozen=True)
class Rejection:
    """Why a clip or a file is not in the dataset."""

    step: str
    reason: str
    threshold: float | None = None
    value: float | None = None


Rejections = Iterable[tuple[str, Rejection]]  # id of a clip, and why


class Fingerprints:
    """What duplicates are found by, of many clips, end to end."""

    def __init__(self) -> None:
        self._digests = bytearray()
        self._pixels = array.array("q")
        self._counts = array.array("q")
        self._hashes = array.array("Q")
        self._samples = array.array("q")

    def add(self, clip: Clip) -> int:
        """Number of the clip's fingerprint."""
        self._digests += bytes.fromhex(clip.sha256)
        self._pixels.append(clip.length * clip.height * clip.width)
        self._counts.append(len(clip.hashes))
        self._hashes.extend(clip.hashes)
        self._samples.extend(clip.samples)
        return len(self._counts) - 1

    def digest(self, clip: KeptClip) -> bytes:
        """SHA-256 of the clip's file."""
        return bytes(self._digests[32 * clip.number : 32 * clip.number + 32])

    def rank(self, clip: KeptClip) -> tuple:
        """Of two that show the same, the lesser is kept: more to see, then the name."""
        return (-self._pixels[clip.number], clip.id)

    def hashed(self, clips: Sequence[KeptClip]) -> duplicates.ClipHashes:
        """Hashes of some clips, which are numbered anew."""
        counts = np.array(self._counts, np.int64)
        places = np.full(len(counts), -1, np.int64)
        places[[clip.number for clip in clips]] = np.arange(len(clips))
        owner = np.repeat(places, counts)
        chosen = owner >= 0
        return duplicates.ClipHashes(
            np.array(self._hashes, np.uint64)[chosen],
            owner[chosen],
            np.array(self._samples, np.int64)[chosen],
            [self.rank(clip) for clip in clips],
        )


class Account:
    """What became of every clip.

    Attributes:
      rows: of the files.
      kept: clips of the dataset.
      rejected: id of a clip, or name of a file that failed, to why, as a list.
    """

    def __init__(self, rows: lines.LineFile, folder: Path) -> None:
        self.rows = rows
        self.kept: list[KeptClip] = []
        self.rejected = lines.LineMap(folder / "rejected.jsonl")

    def clip(self, kept: KeptClip) -> Clip:
        """All that is known of a clip."""
        row = self.rows[kept.row]
        return clip_of(row, row["shots"][kept.shot])

    def add_rejected(self, name: str, why: Rejection) -> None:
        self.rejected[name] = dataclasses.astuple(why)

    def rejection(self, name: str) -> Rejection | None:
        """Why a clip or a file was rejected; None of one that was not."""
        facts = self.rejected.get(name)
        return None if facts is None else Rejection(*facts)

    def reject(self, clips: Rejections) -> None:
        """Move clips from kept to rejected."""
        names = set()
        for name, why in clips:
            self.add_rejected(name, why)
            names.add(name)
        self.kept = [clip for clip in self.kept if clip.id not in names]

    def quarantine(self) -> Iterator[dict[str, Any]]:
        """A line for every rejected clip, by name."""
        for name in sorted(self.rejected):
            why = Rejection(*self.rejected[name])
            yield {"clip": name} | dataclasses.asdict(why)

    def steps(self) -> dict[str, int]:
        """How many each step rejected."""
        return dict(collections.Counter(step for step, *_ in self.rejected.values()))

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
        publishing.put_lines(self.quarantine(), path)
        steps = collections.Counter(self.steps()).most_common()
        counts = ", ".join(f"{count} by {step}" for step, count in steps)
        allowed = f"at most {limit:.0%} may be" if self.kept else "none is left"
        raise records.DatasetError(
            f"{len(self.rejected)} of {total} clips were rejected ({counts}), "
            f"{allowed}; why is in {path}"
        )


def decide(
    rows: lines.LineFile,
    settings: settings_lib.CurationSettings,
    *,
    captioned: Callable[[str], bool],
    store: storage.Store,
    folder: Path,
) -> Account:
    """Every decision about the clips of the rows of files, step by step.

    Args:
      rows: of every file (`probing.FileStep`).
      settings: limits, and what counts as the same.
      captioned: whether the clips of a file may stay for their captions.
      store: that the rows' observations are in.
      folder: for what the account keeps on disk.
    """
    account, prints = Account(rows, folder), Fingerprints()
    for number, row in enumerate(rows):
        if "error" in row:
            account.add_rejected(row["name"], Rejection(row["step"], row["error"]))
            continue
        for place, shot in enumerate(row["shots"]):
            clip = clip_of(row, shot)
            broken = scoring.rejection(shot["scores"], settings.bounds)
            if broken is not None:
                facts = (broken["reason"], broken["threshold"], broken["value"])
                account.add_rejected(clip.id, Rejection("score", *facts))
            else:
                at = (number, place, prints.add(clip))
                account.kept.append(KeptClip(clip.id, clip.file, *at))
    bare = (clip.id for clip in account.kept if not captioned(clip.file))
    account.reject((name, Rejection("caption", "no caption")) for name in bare)
    if settings.duplicates.exact:
        account.reject(exact_duplicates(account.kept, prints))
    if settings.duplicates.near:
        rules = settings.duplicates
        account.reject(near_duplicates(account, prints, rules=rules, store=store))
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


def exact_duplicates(clips: Sequence[KeptClip], prints: Fingerprints) -> Rejections:
    """Clips of a file whose bytes are those of another, the first by name."""
    first: dict[bytes, str] = {}
    for clip in sorted(clips, key=lambda clip: clip.file):
        first.setdefault(prints.digest(clip), clip.file)
    for clip in clips:
        name = first[prints.digest(clip)]
        if clip.file != name:
            yield clip.id, Rejection("deduplicate", f"its file is {name} again")


def near_duplicates(
    account: Account,
    prints: Fingerprints,
    *,
    rules: settings_lib.DuplicateSettings,
    store: storage.Store,
) -> Rejections:
    """Clips that show what a kept one shows."""
    clips = account.kept
    hashed = prints.hashed(clips)
    if not len(hashed.values):
        return

    @functools.lru_cache(maxsize=256)
    def samples(row: int) -> Any:
        data = store.read("probe", account.rows[row]["probe"])
        if data is None:
            raise records.DatasetError(
                f"{store.root}: lacks what it held; run it again"
            )
        return observation.Observation.from_bytes(data).samples

    found = duplicates.near_duplicates(
        hashed, rules, picture=lambda clip, s: samples(clips[clip].row)[s]
    )
    for clip, (other, share) in found.items():
        reason = f"shows what {clips[other].id} shows"
        shown = float(f"{share:.6g}")
        yield clips[clip].id, Rejection("deduplicate", reason, rules.share, shown)
