"""Contact sheets of videos, and curves of a training log."""

import collections
import json
import pathlib
import re
import textwrap
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")

import matplotlib.figure
import numpy as np
from PIL import Image, ImageDraw, ImageFont

LABEL_WIDTH = 200
GAP = 4


def contact_sheet(
    path: pathlib.Path,
    videos: Sequence[np.ndarray],
    *,
    labels: Sequence[str],
    frames: int = 5,
    scale: int = 2,
    columns: int = 2,
) -> None:
    """Write a PNG: one strip of evenly spaced frames per video, its prompt beside it.

    Args:
      path: the PNG to write.
      videos: uint8 `[T, H, W, 3]`, of any sizes.
      labels: one text per video.
      frames: greatest number of frames shown of each.
      scale: enlargement, nearest neighbour.
      columns: strips side by side.
    """
    strips = [
        _strip(video, label, frames=frames, scale=scale)
        for video, label in zip(videos, labels, strict=True)
    ]
    rows = [strips[i : i + columns] for i in range(0, len(strips), columns)]
    widths = [
        max(row[c].width for row in rows if c < len(row))
        for c in range(min(columns, len(strips)))
    ]
    heights = [max(strip.height for strip in row) for row in rows]
    sheet = Image.new(
        "RGB",
        (sum(widths) + GAP * (len(widths) + 1), sum(heights) + GAP * (len(rows) + 1)),
        "white",
    )
    y = GAP
    for row, height in zip(rows, heights, strict=True):
        x = GAP
        for strip, width in zip(row, widths, strict=False):
            sheet.paste(strip, (x, y))
            x += width + GAP
        y += height + GAP
    sheet.save(path)


def _strip(video: np.ndarray, label: str, *, frames: int, scale: int) -> Image.Image:
    count, height, width, _ = video.shape
    shown = np.unique(np.linspace(0, count - 1, min(frames, count)).round().astype(int))
    strip = Image.new(
        "RGB",
        (LABEL_WIDTH + len(shown) * (width * scale + 2), max(height * scale, 64)),
        "white",
    )
    text = f"{textwrap.fill(label, 30)}\n{width}x{height}, {count} frames"
    ImageDraw.Draw(strip).multiline_text(
        (4, 4), text, fill="black", font=ImageFont.load_default(size=12)
    )
    for column, index in enumerate(shown):
        frame = Image.fromarray(video[index]).resize(
            (width * scale, height * scale), Image.Resampling.NEAREST
        )
        strip.paste(frame, (LABEL_WIDTH + column * (width * scale + 2), 0))
    return strip


def read_log(path: pathlib.Path) -> list[dict]:
    """The records of a `metrics.jsonl`."""
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def loss_curves(
    path: pathlib.Path,
    runs: dict[str, pathlib.Path],
    *,
    keys: Sequence[str] = ("loss",),
) -> None:
    """Write a PNG with one panel per run.

    Args:
      path: the PNG to write.
      runs: title to the run's `metrics.jsonl`.
      keys: metrics to draw, where the run has them.
    """
    figure = matplotlib.figure.Figure((5 * len(runs), 3.5), layout="constrained")
    panels = figure.subplots(1, len(runs), squeeze=False)[0]
    for panel, (title, log) in zip(panels, runs.items(), strict=True):
        records = read_log(log)
        for key in keys:
            points = [(r["step"], r[key]) for r in records if key in r]
            if not points:
                continue
            steps, values = map(np.asarray, zip(*points, strict=True))
            panel.plot(steps, values, linewidth=0.8, alpha=0.4, color="tab:blue")
            window = max(1, len(values) // 40)
            smooth = np.convolve(values, np.ones(window) / window, mode="valid")
            panel.plot(steps[window - 1 :], smooth, color="tab:blue", label=key)
        panel.set(title=title, xlabel="step", ylabel="loss", yscale="log")
        panel.grid(visible=True, which="both", linewidth=0.3)
        panel.legend()
    figure.savefig(path, dpi=120)


def caption_gaps(path: pathlib.Path, log: pathlib.Path) -> None:
    """Write a PNG of the caption gap over training: a panel a level, a line a kind.

    Args:
      path: the PNG to write.
      log: the run's `metrics.jsonl`; without gaps in it, nothing is written.
    """
    panels: dict[str, dict[str, list]] = collections.defaultdict(dict)
    for record in read_log(log):
        for key, value in record.items():
            if match := re.fullmatch(r"validation/gap_(.+)_t([0-9.]+)", key):
                line = panels[match[2]].setdefault(match[1], [])
                line.append((record["step"], value))
    if not panels:
        return
    figure = matplotlib.figure.Figure((4 * len(panels), 3.5), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for panel, (level, lines) in zip(axes, sorted(panels.items()), strict=True):
        for kind, points in lines.items():
            panel.plot(*zip(*points, strict=True), marker=".", label=kind)
        panel.set(title=f"t = {level}", xlabel="step", ylabel="caption gap")
        panel.set_yscale("symlog", linthresh=0.01)
        panel.grid(visible=True, which="both", linewidth=0.3)
        panel.legend(fontsize="small")
    figure.savefig(path, dpi=120)
