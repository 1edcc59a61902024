"""The whole of a curation: steps in order, the account of every clip, the dataset.

What maps over files and shards is the runner's; what needs all clips at once (captions,
duplicates, split, plan of the shards) happens here, on about four kilobytes a clip.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import account as account_lib
from data_pipelines import progress, records, storage
from data_pipelines.builders import captions as caption_files
from data_pipelines.builders import files
from data_pipelines.curate import (
    decisions,
    inputs,
    observation,
    probing,
    publishing,
    runners,
    shards,
)
from data_pipelines.curate import settings as settings_lib


@dataclasses.dataclass(frozen=True)
class CurationJob:
    """What is to become what.

    Attributes:
      pattern: of the files, here or in a bucket.
      output: the DATASET directory, here or in a bucket.
      store: of what steps made.
      captions: captions file or folder; None for those beside the clips.
      seed: of the choice of validation clips.
      held_out: number of clips to its validation clips.
      keep_uncaptioned: keep clips without a caption.
      overwrite: replace the dataset at `output`.
    """

    pattern: str
    output: str
    store: storage.Store
    captions: str | None = None
    seed: int = 0
    held_out: Callable[[int], int] = lambda clips: clips // 10
    keep_uncaptioned: bool = False
    overwrite: bool = False


def curate(
    job: CurationJob,
    settings: settings_lib.CurationSettings,
    *,
    runner: runners.Runner,
) -> dict[str, Any]:
    """A dataset from raw files; returns its dataset.json with `ran`, steps that ran.

    Raises:
      DatasetError: no files, no captions, no clip is left, too many are rejected, a
        bucket does not answer, or `output` is in the way.
    """
    publishing.check_output(job.output, overwrite=job.overwrite)
    found = inputs.find(job.pattern, captions=job.captions)
    texts = join_captions(job, found)

    def captioned(name: str) -> bool:
        return job.keep_uncaptioned or bool(texts.texts.get(name))

    clips = [{**clip, "captioned": captioned(clip["name"])} for clip in found.clips]
    ran: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory(prefix="soraflax-") as folder:
        rows = Path(folder) / "rows.jsonl"
        rules = {"shards": settings.shards, "bounds": settings.bounds}
        step = probing.FileStep(job.store, settings.probe, settings.cut, **rules)
        probed = itertools.chain(found.failed, runner.map("probe", step, items=clips))
        total = len(found.failed) + len(clips)
        _write_rows(rows, _counted(probed, ran, name="probing", total=total))
        read = {"captioned": captioned, "store": job.store}
        account = decisions.decide(_read_rows(rows), settings, **read)
        account.check_rate(settings.max_rejected, store=job.store)
        splits = split_clips(account.kept, job)
        made = _write_shards(splits, texts, job=job, settings=settings, runner=runner)
        made = {
            n: list(_counted(part, ran, name="writing")) for n, part in made.items()
        }
        split_of = {clip.id: name for name, part in splits.items() for clip in part}
        lines = list(_report(rows, account, split_of=split_of, texts=texts))
        lines += _ignored(found.others, texts, clips={f["name"] for f in clips})
        info = publishing.publish(
            publishing.Dataset(
                splits=made,
                info={
                    "seed": job.seed,
                    "settings": settings.to_json(),
                    **contents(lines, account),
                },
                report=lines,
                quarantine=list(account.quarantine()),
                thumbnails=_thumbnails(rows, account, store=job.store),
            ),
            job.output,
            store=job.store,
            overwrite=job.overwrite,
        )
    return info | {"ran": dict(ran)}


def _write_shards(
    splits: Mapping[str, Sequence[decisions.Clip]],
    texts: caption_files.Captions,
    *,
    job: CurationJob,
    settings: settings_lib.CurationSettings,
    runner: runners.Runner,
) -> dict[str, Iterator[Mapping[str, Any]]]:
    """Rows of the shards of each split that has clips, as they are written."""
    step = shards.ShardStep(job.store, settings.probe, settings.shards)
    made = {}
    for name, clips in splits.items():
        entries = [_entry(clip, texts) for clip in clips]
        if parts := list(shards.plan_shards(entries, settings.shards)):
            made[name] = runner.map(f"write {name}", step, items=parts)
    return made


def _counted(
    rows: Iterable[Mapping[str, Any]],
    ran: collections.Counter[str],
    *,
    name: str,
    total: int | None = None,
) -> Iterator[Mapping[str, Any]]:
    for row in progress.bar(rows, what=name, total=total):
        ran.update(row["ran"])
        yield row


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w") as file:
        for row in rows:
            kept = {key: value for key, value in row.items() if key != "ran"}
            file.write(json.dumps(kept) + "\n")


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as file:
        yield from map(json.loads, file)


def join_captions(job: CurationJob, found: inputs.Inputs) -> caption_files.Captions:
    """The captions of the clips, by name; those of a captions file come first.

    Raises:
      DatasetError: there are none, though they are needed.
    """
    if job.captions is None and all(c["name"] in found.texts for c in found.clips):
        root = Path(storage.fixed_part(job.pattern) or ".")
        return found.joined(caption_files.Captions(root, {}, {}))
    paths = {clip["name"]: clip["path"] for clip in found.clips}
    return found.joined(_of_files(job, paths, needed=not any(found.texts.values())))


def _of_files(
    job: CurationJob, paths: Mapping[str, str], *, needed: bool
) -> caption_files.Captions:
    root = storage.fixed_part(job.pattern)
    needed = needed and not job.keep_uncaptioned
    read = functools.partial(caption_files.read_captions, needed=needed)
    if not storage.is_bucket(job.pattern):
        beside = dict(storage.find(f"{root}**/*.txt")) if job.captions is None else {}
        known = {n: Path(p) for n, p in [*paths.items(), *beside.items()]}
        found = files.FolderFiles(Path(root or "."), known, ())
        return read(found, Path(job.captions) if job.captions else None)
    with tempfile.TemporaryDirectory(prefix="soraflax-") as folder:
        known = {name: Path(name) for name in paths}
        found = files.FolderFiles(Path(folder) / "clips", known, ())
        return read(found, _fetched_captions(job.captions, root, folder=Path(folder)))


def _fetched_captions(captions: str | None, root: str, *, folder: Path) -> Path:
    """A local copy of the captions file of a bucket, or of its .txt files.

    Raises:
      DatasetError: there is no such file.
    """
    options = [captions] if captions else [root + n for n in caption_files.NAMES]
    for path in options:
        data = storage.read_bytes(path)
        if data is not None:
            target = folder / Path(path).name
            target.write_bytes(data)
            return target
    if captions and Path(captions).suffix.lower() in caption_files.SUFFIXES:
        raise records.DatasetError(f"{captions}: no such captions file")
    texts = folder / "texts"
    texts.mkdir()
    beside = storage.join(captions, "") if captions else root
    for name, path in storage.find(f"{beside}**/*.txt"):
        target = texts / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(storage.read_bytes(path) or b"")
    return texts


def split_clips(
    clips: Sequence[decisions.Clip], job: CurationJob
) -> dict[str, list[decisions.Clip]]:
    """Hold out whole files, chosen by a hash of seed and name; clips sorted by id."""
    of_file = collections.Counter(clip.file for clip in clips)

    def rank(name: str) -> str:
        return hashlib.sha256(f"{job.seed}:{name}".encode()).hexdigest()

    most, held_out = job.held_out(len(clips)), set()
    for name in sorted(of_file, key=rank):
        if of_file[name] <= most:
            held_out.add(name)
            most -= of_file[name]
    ordered = sorted(clips, key=lambda clip: clip.id)
    return {
        "train": [clip for clip in ordered if clip.file not in held_out],
        "validation": [clip for clip in ordered if clip.file in held_out],
    }


def _entry(clip: decisions.Clip, texts: caption_files.Captions) -> dict[str, Any]:
    """A clip as the step of its shard takes it."""
    entry = {f.name: getattr(clip, f.name) for f in dataclasses.fields(clip)}
    for name in ("hashes", "samples", "probe", "file"):
        del entry[name]
    return entry | {"captions": dict(texts.texts.get(clip.file, {}))}


def _report(
    rows: Path,
    account: decisions.Account,
    *,
    split_of: Mapping[str, str],
    texts: caption_files.Captions,
) -> Iterator[dict[str, Any]]:
    """A line for every clip, and for every file that failed."""
    for row in _read_rows(rows):
        if "error" in row:
            yield {"input": row["name"], "outcome": "failed", "reason": row["error"]}
            continue
        for shot in row["shots"]:
            clip = decisions.clip_of(row, shot)
            notes = [*row["info"]["notes"], *texts.notes.get(clip.file, ())]
            line: dict[str, Any] = {"input": clip.id, "outcome": "kept"}
            line |= {"notes": notes} if notes else {}
            facts = {
                "frames": clip.length,
                "height": clip.height,
                "width": clip.width,
                "fps": clip.fps,
                "scores": shot["scores"],
            }
            why = account.rejected.get(clip.id)
            if why is None:
                captions = texts.texts.get(clip.file, {})
                line["split"] = split_of[clip.id]
                facts["words"] = {n: len(text.split()) for n, text in captions.items()}
            else:
                line |= {"outcome": "rejected", **dataclasses.asdict(why)}
            yield line | facts


def _ignored(
    found: Sequence[Mapping[str, str]],
    texts: caption_files.Captions,
    *,
    clips: set[str],
) -> Iterator[dict[str, Any]]:
    """Lines of captions that are of no use, and of files that are none of clips."""
    yield from map(dict, texts.unused)
    for name in sorted(set(texts.texts) - clips):
        reason = "captioned, but not among the files of --input"
        yield {"input": name, "outcome": "ignored", "reason": reason}
    source = texts.source.name
    for file in found:
        name = file["name"]
        if name not in clips and name != source and not name.lower().endswith(".txt"):
            reason = (
                f"not a video or image suffix: {os.path.splitext(name)[1] or 'none'}"
            )
            yield {"input": name, "outcome": "ignored", "reason": reason}


def contents(
    report: Sequence[Mapping[str, Any]], account: decisions.Account
) -> dict[str, Any]:
    """Entries of dataset.json: outcomes, sizes, lengths, statistics of the scores."""
    kept = [line for line in report if line["outcome"] == "kept"]
    sizes = collections.Counter(f"{k['width']}x{k['height']}" for k in kept)
    scores: dict[str, list[float]] = collections.defaultdict(list)
    for line in kept:
        for name, value in line["scores"].items():
            if value is not None:
                scores[name].append(value)
    parts = (0, 0.1, 0.5, 0.9, 1)
    return {
        "account": account_lib.summary(report),
        "outcomes": dict(collections.Counter(line["outcome"] for line in report)),
        "rejected": dict(
            collections.Counter(r.step for r in account.rejected.values())
        ),
        "sizes": dict(sizes.most_common()),
        "frames": [min(k["frames"] for k in kept), max(k["frames"] for k in kept)],
        "fps": [min(k["fps"] for k in kept), max(k["fps"] for k in kept)],
        "captions": dict(collections.Counter(n for k in kept for n in k["words"])),
        "statistics": {
            name: [float(f"{q:.6g}") for q in np.quantile(values, parts)]
            for name, values in sorted(scores.items())
        },
    }


def _thumbnails(
    rows: Path, account: decisions.Account, *, store: storage.Store
) -> list[dict[str, Any]]:
    """A picture of the first rejected clips of each reason."""
    shown: collections.Counter[tuple[str, str]] = collections.Counter()
    lines = []
    for row in _read_rows(rows):
        for shot in row.get("shots", ()):
            clip = decisions.clip_of(row, shot)
            why = account.rejected.get(clip.id)
            if why is None:
                continue
            kind = (why.step, why.reason.split()[0])
            shown[kind] += 1
            data = None
            if shown[kind] <= publishing.PICTURES:
                data = store.read("probe", clip.probe)
            if data is not None:
                seen = observation.Observation.from_bytes(data)
                with contextlib.suppress(IndexError):
                    jpeg = seen.thumbnails[shot["thumbnail"]]
                    lines.append(
                        {"clip": clip.id, "jpeg": publishing.base64_text(jpeg)}
                    )
    return lines
