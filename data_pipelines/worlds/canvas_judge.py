"""Reads action, colour, direction, background and width of `canvas` from pixels.

1. Pixels far from the sheet's colour and not as brown as the tool are paint.
2. A stroke's paint grows over the clip, a bitten disc's shrinks.
3. The direction of a stroke is that from the paint of an early frame to the paint that
   came last; of a bite, that from the middle of the disc to what is gone.
4. The width of a stroke is that of the thickest disc inside of it.

`trace` says how much of a trace is still there at the end, without any prompt.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage

from data_pipelines.worlds import canvas, palette

_CONTRAST = 60.0
_THICK = 0.12  # short sides, between the widths of thin and thick strokes


def read(video: UInt8[np.ndarray, "T H W 3"]) -> dict[str, Any]:
    """Read a video in the form of `canvas.attributes`; what is not seen is missing."""
    name, masks = paint(video)
    reading: dict[str, Any] = {"background": name}
    area = masks.sum((1, 2)).astype(float)
    short = min(video.shape[1:3])
    if area.max() < 0.004 * short**2:
        return reading
    action = "stroke" if area[-1] >= area[: max(1, len(area) // 6)].mean() else "bite"
    last, first = masks[-1], masks[0]
    changed = last & ~first if action == "stroke" else first & ~last
    reading["action"] = action
    seen = masks.any(0) if action == "bite" else last
    colour = np.median(video[-1][last] if last.any() else video[0][first], axis=0)
    reading["colour"] = _nearest(colour, canvas.COLOURS, table=palette.COLOURS)
    if changed.sum() < 0.002 * short**2:
        return reading
    if action == "stroke":
        early = masks[max(1, len(masks) // 4)]
        late = last & ~masks[int(0.55 * len(masks))]
        early = early if early.any() else changed
        way = _middle(late if late.any() else changed) - _middle(early)
        thickest = ndimage.distance_transform_edt(last)
        width = 2 * float(np.max(np.asarray(thickest))) / short
        reading["width"] = "thick" if width > _THICK else "thin"
    else:
        way = _middle(changed) - _middle(seen)
    axis = int(abs(way[1]) > abs(way[0]))
    names = (("left", "right"), ("up", "down"))[axis]
    reading["direction"] = names[int(way[axis] > 0)]
    return reading


def agreement(
    reading: Mapping[str, Any], expected: Mapping[str, Any]
) -> dict[str, bool]:
    """Whether the reading agrees with each attribute that `expected` names."""
    return {key: reading.get(key) == value for key, value in expected.items()}


def trace(video: UInt8[np.ndarray, "T H W 3"]) -> float:
    """The part of a trace that stays: of the change when it was greatest, at the end.

    NaN where nothing ever changed.
    """
    _, masks = paint(video)
    stroke = masks[-1].sum() >= masks[0].sum()
    change = masks & ~masks[0] if stroke else masks[0] & ~masks
    settled = change[int(0.7 * len(change)) :]  # the tool has left
    most = np.logical_or.reduce(settled).sum()
    return float(settled[-1].sum() / most) if most else float("nan")


def paint(
    video: UInt8[np.ndarray, "T H W 3"],
) -> tuple[str, Bool[np.ndarray, "T H W"]]:
    """The sheet's name, and which pixels of each frame are paint."""
    pixels = video.astype(np.float32)
    border = np.concatenate(
        [pixels[:, :2].reshape(-1, 3), pixels[:, -2:].reshape(-1, 3)]
    )
    sheet = np.median(border, axis=0)
    name = _nearest(sheet, canvas.SHEETS, table=palette.BACKGROUNDS)
    far = np.sqrt(np.square(pixels - sheet).sum(-1)) > _CONTRAST
    levels = np.array([palette.COLOURS[c] for c in canvas.COLOURS], np.float32)
    to_paint = np.sqrt(np.square(pixels[..., None, :] - levels).sum(-1)).min(-1)
    tool = np.asarray(canvas.TOOL, np.float32)
    to_tool = np.sqrt(np.square(pixels - tool).sum(-1))
    return name, ndimage.binary_opening(
        far & (to_paint < to_tool), np.ones((1, 2, 2), bool)
    )


def _middle(mask: Any) -> np.ndarray:
    y, x = np.nonzero(mask)
    return np.array([x.mean(), y.mean()])


def _nearest(
    colour: np.ndarray, names: tuple[str, ...], *, table: Mapping[str, Any]
) -> str:
    levels = np.array([table[name] for name in names], float)
    return names[int(np.square(levels - colour).sum(-1).argmin())]
