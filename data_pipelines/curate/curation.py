"""The whole of a curation: steps in order, the account of every clip, the dataset.

What maps over files and shards is the runner's; what needs all clips at once (captions,
duplicates, split, plan of the shards) happens here, on a few hundred bytes a clip: what
is known of it, and what became of it, lies on disk as lines (`lines`).
"""

import array
import collections
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
import tempfile
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from data_pipelines import account as account_lib
from data_pipelines import progress, records, storage
from data_pipelines.builders import captions as caption_files
from data_pipelines.builders import files
from data_pipelines.curate import (
    decisions,
    inputs,
    lines,
    observation,
    probing,
    publishing,
    runners,
    shards,
)
from data_pipelines.curate import settings as settings_lib

_Clip = TypeVar("_Clip", decisions.KeptClip, decisions.Clip)


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
    ran: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory(prefix="soraflax-") as name:
        folder = Path(name)
        found = inputs.find(job.pattern, captions=job.captions, folder=folder)
        texts = join_captions(job, found, folder=folder)

        def captioned(name: str) -> bool:
            return job.keep_uncaptioned or bool(texts.texts.get(name))

        rules = {"shards": settings.shards, "bounds": settings.bounds}
        step = probing.FileStep(job.store, settings.probe, settings.cut, **rules)
        clips = ({**c, "captioned": captioned(c["name"])} for c in found.clips)
        probed = itertools.chain(found.failed, runner.map("probe", step, items=clips))
        total = len(found.failed) + len(found.clips)
        rows = lines.LineFile(folder / "rows.jsonl")
        for row in _counted(probed, ran, name="probing", total=total):
            rows.append({key: value for key, value in row.items() if key != "ran"})
        read = {"captioned": captioned, "store": job.store, "folder": folder}
        account = decisions.decide(rows, settings, **read)
        account.check_rate(settings.max_rejected, store=job.store)
        splits = split_clips(account.kept, job)
        write = shards.ShardStep(job.store, settings.probe, settings.shards)
        made = {}
        for split, kept in splits.items():
            entries = (_entry(account.clip(clip), texts) for clip in kept)
            place = {"store": job.store, "folder": folder}
            plans = shards.plan_shards(entries, settings.shards, **place)
            if kept:
                written = runner.map(f"write {split}", write, items=plans)
                made[split] = list(_counted(written, ran, name="writing"))
        report = lines.LineFile(folder / "report.jsonl")
        held_out = {clip.id for clip in splits["validation"]}
        report.extend(_report(account, texts, held_out=held_out))
        report.extend(_ignored(found, texts))
        info = publishing.publish(
            publishing.Dataset(
                splits=made,
                info={
                    "seed": job.seed,
                    "settings": settings.to_json(),
                    **contents(report, account),
                },
                report=report,
                quarantine=account.quarantine(),
                thumbnails=_thumbnails(account, job.store),
            ),
            job.output,
            store=job.store,
            overwrite=job.overwrite,
        )
    return info | {"ran": dict(ran)}


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


def join_captions(
    job: CurationJob, found: inputs.Inputs, *, folder: Path
) -> caption_files.Captions:
    """The captions of the clips, by name; those of a captions file come first.

    Args:
      job: what is to become what.
      found: the clips, and captions of those in tars.
      folder: for lines of captions.

    Raises:
      DatasetError: there are none, though they are needed.
    """
    if job.captions is None and all(c["name"] in found.texts for c in found.clips):
        root = Path(storage.fixed_part(job.pattern) or ".")
        return found.joined(caption_files.Captions(root, {}, {}))
    return found.joined(_of_files(job, found, folder=folder))


def _of_files(
    job: CurationJob, found: inputs.Inputs, *, folder: Path
) -> caption_files.Captions:
    root = storage.fixed_part(job.pattern)
    needed = not any(found.texts.values()) and not job.keep_uncaptioned
    kept = lines.LineMap(folder / "captions.jsonl")
    read = functools.partial(caption_files.read_captions, needed=needed, texts=kept)
    if not storage.is_bucket(job.pattern):
        known = lines.LineFile(folder / "known.jsonl")
        known.extend(found.clips)
        if job.captions is None:
            beside = storage.find(f"{root}**/*.txt")
            known.extend({"name": name, "path": path} for name, path in beside)
        paths = inputs.FilePaths(known)
        clips = files.FolderFiles(Path(root or "."), paths, ())
        return read(clips, Path(job.captions) if job.captions else None)
    with tempfile.TemporaryDirectory(prefix="soraflax-") as name:
        copies = Path(name)
        paths = inputs.FilePaths(found.clips, key="name")
        clips = files.FolderFiles(copies / "clips", paths, ())
        return read(clips, _fetched_captions(job.captions, root, folder=copies))


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


def split_clips(clips: Sequence[_Clip], job: CurationJob) -> dict[str, list[_Clip]]:
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
    account: decisions.Account,
    texts: caption_files.Captions,
    *,
    held_out: Collection[str],
) -> Iterator[dict[str, Any]]:
    """A line for every clip, and for every file that failed."""
    for row in account.rows:
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
            why = account.rejection(clip.id)
            if why is None:
                captions = texts.texts.get(clip.file, {})
                line["split"] = "validation" if clip.id in held_out else "train"
                facts["words"] = {n: len(text.split()) for n, text in captions.items()}
            else:
                line |= {"outcome": "rejected", **dataclasses.asdict(why)}
            yield line | facts


def _ignored(
    found: inputs.Inputs, texts: caption_files.Captions
) -> Iterator[dict[str, Any]]:
    """Lines of captions that are of no use, and of files that are none of clips."""
    yield from map(dict, texts.unused)
    missing = set(texts.texts)
    missing.difference_update(clip["name"] for clip in found.clips)
    for name in sorted(missing):
        reason = "captioned, but not among the files of --input"
        yield {"input": name, "outcome": "ignored", "reason": reason}
    for file in found.others:
        name = file["name"]
        if name != texts.source.name and not name.lower().endswith(".txt"):
            reason = (
                f"not a video or image suffix: {os.path.splitext(name)[1] or 'none'}"
            )
            yield {"input": name, "outcome": "ignored", "reason": reason}


def contents(
    report: Sequence[Mapping[str, Any]], account: decisions.Account
) -> dict[str, Any]:
    """Entries of dataset.json: outcomes, sizes, lengths, statistics of the scores."""
    outcomes, sizes, captions = (collections.Counter[str]() for _ in range(3))
    scores = collections.defaultdict(lambda: array.array("d"))
    ranges = {name: account_lib.Range() for name in ("frames", "fps")}
    for line in report:
        outcomes[line["outcome"]] += 1
        if line["outcome"] != "kept":
            continue
        sizes[f"{line['width']}x{line['height']}"] += 1
        captions.update(dict.fromkeys(line["words"], 1))
        for name, extremes in ranges.items():
            extremes.add(line[name])
        for name, value in line["scores"].items():
            if value is not None:
                scores[name].append(value)
    parts = (0, 0.1, 0.5, 0.9, 1)
    return {
        "account": account_lib.summary(report),
        "outcomes": dict(outcomes),
        "rejected": account.steps(),
        "sizes": dict(sizes.most_common()),
        **{name: [both.least, both.greatest] for name, both in ranges.items()},
        "captions": dict(captions),
        "statistics": {
            name: [float(f"{q:.6g}") for q in np.quantile(values, parts)]
            for name, values in sorted(scores.items())
        },
    }


def _thumbnails(
    account: decisions.Account, store: storage.Store
) -> Iterator[dict[str, Any]]:
    """A picture of the first rejected clips of each reason."""
    shown: collections.Counter[tuple[str, str]] = collections.Counter()
    for row in account.rows:
        for shot in row.get("shots", ()):
            clip = decisions.clip_of(row, shot)
            why = account.rejection(clip.id)
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
                    yield {"clip": clip.id, "jpeg": publishing.base64_text(jpeg)}
