"""Strips of frames, given and generated ones underlined in two colours."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GIVEN, GENERATED = (150, 150, 150), (40, 90, 235)
GAP, LINE, TEXT = 3, 4, 17


@dataclasses.dataclass(frozen=True)
class Row:
    """A video as a strip.

    Attributes:
      video: uint8 `[T, H, W, 3]`.
      given: `[T]` bool, the frames underlined as given; all others are generated.
      label: one or two lines above the strip.
      scale: enlargement, beside that of the sheet.
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
      rows: strips of any sizes and lengths.
      frames: greatest number of frames of each, evenly spaced, first and last included.
      scale: enlargement, nearest neighbour.
    """
    strips = [_strip(row, frames=frames, scale=scale) for row in rows]
    width = max(strip.width for strip in strips) + 2 * GAP
    height = sum(strip.height + GAP for strip in strips) + GAP
    picture = Image.new("RGB", (width, height), "white")
    top = GAP
    for strip in strips:
        picture.paste(strip, (GAP, top))
        top += strip.height + GAP
    picture.save(path, optimize=True)


def chosen(count: int, frames: int) -> np.ndarray:
    """Indices of the frames shown: at most `frames` of `count`, evenly spaced."""
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
        colour = GIVEN if row.given[index] else GENERATED
        bottom = top + height + 2
        pen.rectangle((left, bottom, left + width - 1, bottom + LINE - 1), fill=colour)
    return strip
