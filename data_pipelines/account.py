"""One account of every clip, from its file to the rows of training.

A report has a line for every input: that of a dataset says what became of the file, and
that of its latents holds the same lines and, for every clip, the windows it became.

    input                         the file, or the id of a rendered clip
    outcome, reason, notes        kept, failed or ignored; why; what reading changed
    split, frames, height, width, fps         the clip as stored
    windows, lost_seconds         of latents: each one's size, rate and tokens; time of
                                  the clip that is in none of them
"""

import array
import dataclasses
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines import transforms
from data_pipelines.builders import files

Line = Mapping[str, Any]
MOST_TOLD = 10  # inputs of a kind that a summary names


def with_windows(
    report: Iterable[Line],
    fits: Iterable[tuple[str, str, int, transforms.FitPlan]],
    *,
    splits: Mapping[str, str],
    failed: Mapping[str, str],
) -> Iterator[dict[str, Any]]:
    """The lines of a dataset's report, with what its clips became as latents.

    Args:
      report: lines of the dataset's report.
      fits: id of the clip, id of the window, first native frame and fitted size of
        every window.
      splits: id of a clip to its split.
      failed: id of a clip that became none, to why.
    """
    windows: dict[str, list[tuple[str, int, transforms.FitPlan]]] = {}
    for clip, window, start, fit in fits:
        windows.setdefault(clip, []).append((window, start, fit))
    left_out = dict(failed)
    for line in report:
        name = str(line.get("input"))
        own, reason = windows.pop(name, None), left_out.pop(name, None)
        if reason is not None:
            yield {**line, "outcome": "failed", "reason": reason}
        else:
            yield dict(line) if own is None else {**line, **_fitted(own)}
    for clip, reason in left_out.items():
        yield {"input": clip, "outcome": "failed", "reason": reason}
    for clip, own in windows.items():
        line = {"input": clip, "outcome": "kept", "split": splits[clip]}
        yield line | _fitted(own)


def _fitted(windows: Sequence[tuple[str, int, transforms.FitPlan]]) -> dict[str, Any]:
    """Entries of a clip's line: its size as stored, and its windows."""
    fit = windows[0][2]
    frames, height, width = fit.native
    covered = {
        frame
        for _, start, plan in windows
        for frame in range(start, min(frames, start + plan.frames * plan.stride))
    }
    lines = transforms.fit_report((name, plan) for name, _, plan in windows)
    return {
        "frames": frames,
        "height": height,
        "width": width,
        "fps": round(fit.native_fps, 4),
        "lost_seconds": round((frames - len(covered)) / fit.native_fps, 4),
        "windows": [
            {"start": start, **line}
            for (_, start, _), line in zip(windows, lines, strict=True)
        ],
    }


@dataclasses.dataclass
class Range:
    """The least and the greatest of what was added; None before."""

    least: Any = None
    greatest: Any = None

    def add(self, value: Any) -> None:
        if self.least is None or value < self.least:
            self.least = value
        if self.greatest is None or value > self.greatest:
            self.greatest = value


def summary(report: Collection[Line]) -> list[str]:
    """The account in a few lines: what was refused, changed, resized and cut.

    Args:
      report: lines, which may lie on disk: they are gone through more than once.
    """
    kept = sum(line.get("outcome") == "kept" for line in report)
    told = (
        f"{line['outcome']}: {line['input']}: {line['reason']}"
        for line in report
        if line.get("outcome") not in (None, "kept")
    )
    changed = (
        f"changed: {line['input']}: {'; '.join(line['notes'])}"
        for line in report
        if line.get("notes")
    )
    lines = [f"inputs: {len(report):,}; clips of them: {kept:,}"]
    lines += [*_first(told), *_first(changed), *_stored(report)]
    windows = [line for line in _measured(report) if line.get("windows")]
    if windows:
        lines += _fitting(windows)
    return [files.printable(line) for line in lines]


def _measured(report: Iterable[Line]) -> Iterator[Line]:
    """Lines of clips whose size is known."""
    kept = (line for line in report if line.get("outcome") == "kept")
    return (line for line in kept if "frames" in line)


def block(path: str | Path, info: Line) -> list[str]:
    """The account of a dataset or its latents, as commands print it.

    Args:
      path: its directory.
      info: contents of its dataset.json; one of an older version has no account.
    """
    splits = ", ".join(f"{count:,} {name}" for name, count in info["splits"].items())
    what = "clips" if info.get("kind") == "clips" else "latents"
    head = f"{path}: {sum(info['splits'].values()):,} {what} ({splits})"
    return [files.printable(head), *(f"  {line}" for line in info.get("account", ()))]


def _first(lines: Iterable[str]) -> list[str]:
    rest = iter(lines)
    first = list(itertools.islice(rest, MOST_TOLD))
    more = sum(1 for _ in rest)
    return [*first, *([f"and {more:,} more in report.jsonl"] if more else [])]


def _stored(report: Iterable[Line]) -> list[str]:
    """Ranges of length, size and rate of clips, and their time in all."""
    frames, sizes, rates, seconds = Range(), Range(), Range(), array.array("d")
    for line in _measured(report):
        frames.add(line["frames"])
        sizes.add((_area(line), _size(line)))
        if line["frames"] > 1:
            rates.add(line["fps"])
        seconds.append(_seconds(line))
    if not seconds:
        return []
    ranges = [
        f"{_range([frames.least, frames.greatest])} frames",
        _between(sizes.least[1], sizes.greatest[1]),
    ]
    if rates.least is not None:
        ranges.append(f"{_range([rates.least, rates.greatest])} frames per second")
    return [f"as stored: {', '.join([*ranges, f'{sum(seconds):,.1f} seconds in all'])}"]


def _fitting(kept: Sequence[Line]) -> list[str]:
    """What fitting to a model's grid changed in clips, and the extremes."""
    of_all = f"of {len(kept):,}"
    fitted = [(line, window) for line in kept for window in line["windows"]]
    lines = []
    scales = {
        line["input"]: (_area(window["fitted"]) / _area(line), line, window)
        for line, window in fitted
        if _size(window["fitted"]) != _size(line)
    }
    if scales:
        _, line, window = max(scales.values(), key=lambda s: abs(math.log(s[0])))
        most = f"{line['input']}, {_size(line)} to {_size(window['fitted'])}"
        lines.append(f"resized: {len(scales):,} {of_all}; the most: {most}")
    if cut := [line for line in kept if line["lost_seconds"] > 0]:
        most = max(cut, key=lambda line: line["lost_seconds"])
        frames = sum(window["fitted"]["frames"] for window in most["windows"])
        lost = sum(line["lost_seconds"] for line in cut)
        lines.append(
            f"cut in time: {len(cut):,} {of_all}, {lost:,.2f} of "
            f"{sum(map(_seconds, kept)):,.2f} seconds; the most: {most['input']}, "
            f"{most['frames']} frames to {frames}, {most['lost_seconds']:.2f} seconds"
        )
    for what, some in (
        ("at a lower rate", [k for k, w in fitted if w["fps"] < k["fps"]]),
        ("with their last frame repeated", [k for k, w in fitted if w["held_frames"]]),
        (
            "of several frames, now one image",
            [k for k, w in fitted if w["fitted"]["frames"] == 1 < k["frames"]],
        ),
    ):
        if some:
            names = {line["input"]: line["frames"] for line in some}
            (first, frames), *_ = names.items()
            lines.append(
                f"{what}: {len(names):,} {of_all}; the first: {first}, {frames} frames"
            )
    tokens = [window["tokens"] for _, window in fitted]
    lines.append(f"tokens: {_range(tokens)} a window, {sum(tokens):,} in all")
    return lines


def _seconds(line: Line) -> float:
    return line["frames"] / line["fps"] if line["frames"] > 1 else 0.0


def _area(size: Line) -> int:
    return size["width"] * size["height"]


def _size(size: Line) -> str:
    return f"{size['width']}x{size['height']}"


def _range(values: Sequence[float]) -> str:
    return _between(f"{min(values):,g}", f"{max(values):,g}")


def _between(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"
