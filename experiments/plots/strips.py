"""Strips of frames that tell what was given from what was made."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GIVEN, MADE = (150, 150, 150), (40, 90, 235)
GAP, LINE, TEXT = 3, 4, 17


@dataclasses.dataclass(frozen=True)
class Row:
    """A video as a strip.

    Attributes:
      video: uint8 `[T, H, W, 3]`.
      given: `[T]` bool, which frames are underlined as given; the others are made.
      label: what it is, above it, one or two lines.
      scale: enlargement, on top of the sheet's.
    """

    video: np.ndarray
    given: np.ndarray
    label: str = ""
    scale: float = 1.0


def sheet(
    path: pathlib.Path, rows: Sequence[Row], *, frames: int = 7, scale: int = 2
) -> None:
    """Write a PNG of rows below each other.

    Args:
      path: the PNG to write.
      rows: of any sizes and lengths.
      frames: most frames shown of each, evenly spaced, the first and the last included.
      scale: enlargement, nearest neighbour.
    """
    strips = [_strip(row, frames=frames, scale=scale) for row in rows]
    width = max(strip.width for strip in strips) + 2 * GAP
    height = sum(strip.height + GAP for strip in strips) + GAP
    found = Image.new("RGB", (width, height), "white")
    top = GAP
    for strip in strips:
        found.paste(strip, (GAP, top))
        top += strip.height + GAP
    found.save(path, optimize=True)


def chosen(count: int, frames: int) -> np.ndarray:
    """Which frames of `count` are shown: at most `frames`, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(frames, count)).round().astype(int))


def _strip(row: Row, *, frames: int, scale: int) -> Image.Image:
    shown = chosen(len(row.video), frames)
    height, width = (round(n * scale * row.scale) for n in row.video.shape[1:3])
    font = ImageFont.load_default(size=12)
    lines = row.label.split("\n") if row.label else []
    top = TEXT * len(lines)
    text = max((int(font.getlength(line)) for line in lines), default=0)
    strip = Image.new(
        "RGB",
        (max(len(shown) * (width + GAP) - GAP, text), top + height + LINE + 2),
        "white",
    )
    pen = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        pen.text((0, number * TEXT), line, fill="black", font=font)
    for column, index in enumerate(shown):
        left = column * (width + GAP)
        frame = Image.fromarray(row.video[index])
        frame = frame.resize((width, height), Image.Resampling.NEAREST)
        strip.paste(frame, (left, top))
        colour = GIVEN if row.given[index] else MADE
        bottom = top + height + 2
        pen.rectangle((left, bottom, left + width - 1, bottom + LINE - 1), fill=colour)
    return strip
