"""Facts of a dataset of clips, from its report and some of its records."""

import collections
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from data_pipelines import mirrors, packing, records, transforms
from soraflax import media
from soraflax.ops import grid as grids
from soraflax.ops import packing as rows

_READ = 2000  # records whose captions are read
_OPEN_ROWS = 128
_WORDS, _TOLD = 40, 200


@dataclasses.dataclass(frozen=True)
class PackingPlan:
    """What the dataset is packed for.

    Attributes:
      grid: legal sizes of the autoencoder and the patch.
      fit: limits of a clip.
      row: capacity of a row.
    """

    grid: grids.Grid
    fit: transforms.FitConfig
    row: rows.RowShape


@dataclasses.dataclass(frozen=True)
class Picture:
    """A frame of a clip.

    Attributes:
      name: of the clip.
      said: a line about it.
      frame: `[h, w, 3]`; None where it cannot be shown.
    """

    name: str
    said: str
    frame: UInt8[np.ndarray, "h w 3"] | None


def read_facts(path: str | Path, plan: PackingPlan) -> dict[str, Any]:
    """Facts as JSON values.

    Raises:
      DatasetError: there is no dataset of clips.
    """
    info = records.read_info(path)
    if info.get("kind") != "clips":
        raise records.DatasetError(
            f"{path}: holds {info.get('kind')}, not clips; inspect the clips that they "
            "were made from"
        )
    report = records.read_report(path)
    kept = [line for line in report if line["outcome"] == "kept"]
    others = [line for line in report if line["outcome"] != "kept"]
    if not kept:
        raise records.DatasetError(f"{path}: no kept clip in its report")
    texts = _captions(path, info["splits"])
    facts = {
        "dataset": mirrors.named(path),
        "splits": info["splits"],
        "outcomes": info.get("outcomes", {}),
        "bytes": sum(s["bytes"] for s in records.read_manifest(path)["shards"]),
        "hours": _rounded(sum(k["frames"] / k["fps"] for k in kept) / 3600),
        "values": _values(kept),
        "sizes": collections.Counter(f"{k['width']}x{k['height']}" for k in kept),
        "captions": {name: _caption_facts(own) for name, own in texts.items()},
        "packing": pack(kept, texts, plan=plan),
        "rejected": _reasons(others),
        "rejections": others[:_TOLD],
    }
    return facts | {"sizes": dict(facts["sizes"].most_common(20))}


def _values(kept: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Of every clip, by name, what is drawn as a histogram."""
    values: dict[str, list[float]] = {
        "duration (s)": [k["frames"] / k["fps"] for k in kept],
        "frame rate": [k["fps"] for k in kept],
        "short side": [float(min(k["height"], k["width"])) for k in kept],
        "aspect ratio": [k["width"] / k["height"] for k in kept],
    }
    for name in ("motion", "speed", "sharpness", "brightness", "text"):
        own = [k.get("scores", {}).get(name) for k in kept]
        if any(value is not None for value in own):
            values[name] = [value for value in own if value is not None]
    return {name: list(map(_rounded, own)) for name, own in values.items()}


def _captions(path: str | Path, splits: Mapping[str, int]) -> dict[str, list[str]]:
    """Texts by source, of clips evenly spread over the dataset."""
    texts: dict[str, list[str]] = collections.defaultdict(list)
    for record in sample_records(path, splits, count=_READ):
        for name, text in record.captions.items():
            texts[name].append(text)
    return dict(sorted(texts.items()))


def sample_records(
    path: str | Path, splits: Mapping[str, int], *, count: int
) -> Iterator[records.ClipRecord]:
    """At most `count` records, evenly spread."""
    total = sum(splits.values())
    wanted = np.linspace(0, total - 1, min(count, total)).round().astype(int)
    start = 0
    for name, size in splits.items():
        inside = wanted[(wanted >= start) & (wanted < start + size)] - start
        if len(inside):
            clips = records.open_dataset(path, name)
            yield from (clips[int(index)] for index in inside)
        start += size


def _caption_facts(texts: Sequence[str]) -> dict[str, Any]:
    words = collections.Counter(
        word for text in texts for word in re.findall(r"[\w'-]+", text.lower())
    )
    return {
        "texts": len(texts),
        "lengths": [len(text.split()) for text in texts],
        "distinct texts": len(set(texts)),
        "distinct words": len(words),
        "words": dict(words.most_common(_WORDS)),
    }


def pack(
    kept: Sequence[Mapping[str, Any]],
    texts: Mapping[str, Sequence[str]],
    *,
    plan: PackingPlan,
) -> dict[str, Any]:
    """What packing makes of the clips: efficiency, clips a row, tokens a clip.

    Captions count as many tokens as a text has on average, 4 for 3 words.
    """
    words = [len(text.split()) for own in texts.values() for text in own]
    text = max(1, round(4 / 3 * float(np.mean(words)))) if words else 1
    packer, tokens, full = packing.BestFitPacker(plan.row, _OPEN_ROWS), [], []
    for index, clip in enumerate(kept):
        fit = transforms.plan_fit(
            clip["frames"],
            clip["height"],
            width=clip["width"],
            fps=clip["fps"],
            grid=plan.grid,
            config=plan.fit,
        )
        tokens.append(fit.tokens)
        full += filter(None, [packer.add(_segment(fit.tokens, text), index)])
        full += iter(packer.pop_ready, None)
    last = list(iter(packer.pop_any, None))
    used = [sum(len(s) for s in row.segments) for row in full]
    return {
        "row": dataclasses.asdict(plan.row),
        "max_tokens": plan.fit.max_tokens,
        "rows": len(full) + len(last),
        "efficiency": _rounded(sum(used) / (len(full) * plan.row.tokens))
        if full
        else None,
        "clips a row": _rounded(len(kept) / max(1, len(full) + len(last))),
        "tokens a clip": tokens,
        "caption tokens": text,
    }


def _segment(tokens: int, text: int) -> rows.Segment:
    """A segment of such lengths, whose numbers take no memory."""
    return rows.Segment(
        tokens=np.broadcast_to(np.float32(0), (tokens, 1)),
        positions=np.broadcast_to(np.float32(0), (tokens, 3)),
        cond_mask=np.broadcast_to(np.False_, tokens),
        text=np.ones(text, np.int32),
    )


def _reasons(lines: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many inputs were left out, by step and by what the reason begins with."""
    counts: collections.Counter[str] = collections.Counter()
    for line in lines:
        reason = re.split(r"[:0-9]| is | shows ", line["reason"])[0].strip()
        counts[f"{line.get('step', line['outcome'])}: {reason or 'other'}"] += 1
    return dict(counts.most_common(20))


def contact_sheet(
    path: str | Path, splits: Mapping[str, int], *, count: int
) -> list[Picture]:
    """The middle frames of clips evenly spread over the dataset."""
    pictures = []
    for record in sample_records(path, splits, count=count):
        said = f"{record.width}x{record.height}, {record.frames / record.fps:.1f} s"
        try:
            middle = record.frames // 2
            video = media.decode(record.video, start=middle, max_frames=1)
            frame = video.frames[0]
        except media.MediaError as error:
            frame, said = None, str(error)
        pictures.append(Picture(record.id, said, frame))
    return pictures


def rejected_pictures(
    path: str | Path, lines: Sequence[Mapping[str, Any]]
) -> list[Picture]:
    """The clips of the quarantine log that have a thumbnail."""
    import base64

    file = mirrors.file(path, "thumbnails.jsonl")
    if not file.is_file():
        return []
    why = {str(line["input"]): line for line in lines}
    pictures = []
    for line in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
        frame = media.decode(base64.b64decode(line["jpeg"])).frames[0]
        said = why.get(line["clip"], {})
        text = str(said.get("reason", ""))
        if said.get("value") is not None:
            text += f" ({said['value']:g}, limit {said['threshold']:g})"
        pictures.append(Picture(line["clip"], text, frame))
    return pictures


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
