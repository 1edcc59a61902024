"""Damaged files through a whole curation: each is in the account, none is silent.

    python -m tests.data_pipelines.curate.fuzz --mutations 1000 --seed 0

The files are those of `tests.media.fuzz`, and one of AV1. All lie in one folder, which
is curated into a dataset. A file fails where

    it is not in the report, or in the quarantine log without being kept,
    its reason is empty, of more than one line, or that the decoder crashed or hung,
    its shots have fewer frames than it had, without a note, and it is not whole,
    the record that was kept of it does not decode to what it says.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_pipelines import records, storage
from data_pipelines.curate import curation, publishing, runners, settings
from soraflax import media
from tests.media import fuzz

AV1 = pathlib.Path(__file__).parents[2] / "data" / "clips" / "av1_video.mkv"
RULES = settings.CurationSettings(
    probe=settings.ProbeSettings(
        seconds=fuzz.LIMITS.seconds, memory=fuzz.LIMITS.memory, max_pixels=2**22
    ),
    max_rejected=1.0,
)


@dataclasses.dataclass(frozen=True)
class Damaged:
    """A damaged file: its bytes, those that it was made from, and its frames then."""

    data: bytes
    original: bytes
    frames: int


def damaged_files(mutations: int, *, seed: int, first: int) -> dict[str, Damaged]:
    """By name; whole files are among them, so that some are kept."""
    seeds = fuzz.seeds() | {AV1.name: AV1.read_bytes()}
    names, data = list(seeds), list(seeds.values())
    frames = [media.probe(one).frames for one in data]
    whole = zip(names, data, frames, strict=True)
    made = {f"whole-{n}": Damaged(d, d, f) for n, d, f in whole}
    for index in range(first, first + mutations):
        which, bad = fuzz.mutate(data, seed=seed, index=index)
        damaged = Damaged(bad, data[which], frames[which])
        made[f"{index:06d}-{names[which]}"] = damaged
    return made


def faults(files: Mapping[str, Damaged], dataset: pathlib.Path) -> Iterator[str]:
    """A line for every file that was not accounted for as it should be."""
    report: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for line in records.read_report(dataset):
        report[line["input"].partition("#")[0]].append(line)
    log = (dataset / publishing.QUARANTINE).read_text().splitlines()
    quarantined = {json.loads(line)["clip"] for line in log}
    for name, damaged in files.items():
        lines = report.pop(name, [])
        if not lines:
            yield f"{name}: not in the report"
        for line in lines:
            yield from _line_faults(line, quarantined)
        shown = sum(line.get("frames", 0) for line in lines)
        read = any("frames" in line for line in lines)
        noted = any(line.get("notes") for line in lines)
        silent = read and shown < damaged.frames and not noted
        if silent and not fuzz.is_whole(damaged.original, damaged.data):
            yield f"{name}: read as {shown} of {damaged.frames} frames"
    yield from (f"{name}: not among the files" for name in report)


def _line_faults(line: Mapping[str, Any], quarantined: set[str]) -> Iterator[str]:
    name, kept = line["input"], line["outcome"] == "kept"
    if kept == (name in quarantined):
        yield f"{name}: {line['outcome']}, quarantined: {name in quarantined}"
    reason = line.get("reason", "")
    if not kept and (not reason.strip() or "\n" in reason):
        yield f"{name}: reason {reason!r}"
    for sign in ("decoder crashed", "no frame within"):
        if sign in reason:
            yield f"{name}: {reason}"


def record_faults(dataset: pathlib.Path) -> Iterator[str]:
    """A line for every record that does not decode to what it says."""
    info = records.read_info(dataset)
    for split in info["splits"]:
        for clip in records.open_dataset(dataset, split, verify=True):
            shape = media.decode(clip.video, name=clip.id).frames.shape
            said = (clip.frames, clip.height, clip.width, 3)
            if shape != said:
                yield f"{clip.id}: decodes to {shape}, says {said}"


def run(
    mutations: int, *, seed: int = 0, first: int = 0, workers: int = 1
) -> tuple[dict[str, int], list[str]]:
    """Clips by outcome and step of a curation of so many files, and its faults."""
    files = damaged_files(mutations, seed=seed, first=first)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "raw").mkdir()
        for file, damaged in files.items():
            (folder / "raw" / file).write_bytes(damaged.data)
        job = curation.CurationJob(
            pattern=f"{folder}/raw/*",
            output=str(folder / "data"),
            store=storage.Store(str(folder / "store")),
            keep_uncaptioned=True,
        )
        info = curation.curate(job, RULES, runner=runners.Local(workers))
        found = [*faults(files, folder / "data"), *record_faults(folder / "data")]
    return info["outcomes"] | info["rejected"], found


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 1 where a file was not accounted for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--mutations", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args(argv)
    counts, found = run(
        args.mutations, seed=args.seed, first=args.first, workers=args.workers
    )
    print("\n".join(found))
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
