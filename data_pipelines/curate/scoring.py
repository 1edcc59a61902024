"""Scores of a shot, and which of them reject it.

| score | value |
|---|---|
| `seconds`, `frames`, `short_side` | of the shot; the shorter side in pixels |
| `motion` | part of the picture in which anything changes |
| `speed` | how far the picture moves in a second, by the codec's motion vectors |
| `frozen` | longest run of frames that repeat, as a part of the shot |
| `sharpness` | variance of the Laplacian, of the median sample |
| `brightness` | mean luma, 0 to 255 |
| `borders` | part of the picture that is black borders |
| `text` | part of the picture that looks like overlaid text |

An image has no `motion` and is not `frozen`. `speed` is the mean over the picture in
longer sides; there is none where a codec writes no vectors (`soraflax.media.vectors`).

A user's model is a function of a frame,
`[h, w, 3]` uint8 of at most 256 pixels a side, to a number; a shot has the median of
its samples, under the name that the model was given (`settings.ProbeSettings`).
"""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float64, UInt8

from data_pipelines.curate import observation as observation_lib
from data_pipelines.curate import settings as settings_lib

_CHANGED = 10  # levels by which a cell of a sample has changed
_SAME = 0.12  # mean levels by which frames that repeat differ
_BLACK, _EDGE = 0.02, 0.5  # lit part of a row in a border, and of one beside it
_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601, of luma


class Scorer(Protocol):
    """A user's model."""

    def __call__(self, frame: UInt8[np.ndarray, "h w 3"]) -> float: ...


def scores(
    seen: observation_lib.Observation, first: int, *, last: int
) -> dict[str, float | None]:
    """The scores of the frames first..last; None where a score does not apply."""
    inside = seen.inside(first, last)
    frames = last - first + 1
    values: dict[str, float | None] = {
        "seconds": frames / seen.fps,
        "frames": float(frames),
        "short_side": float(min(seen.height, seen.width)),
        "motion": None,
        "speed": None,
        "frozen": None,
    }
    if frames > 1:
        still = seen.stillness[first + 1 : last + 1]
        values["frozen"] = _longest_run(still <= _SAME) / (frames - 1)
        values["motion"] = _motion(seen, first, last=last)
        moved = seen.displacement[first + 1 : last + 1]
        if not np.isnan(moved).all():
            values["speed"] = float(np.nanmean(moved)) * seen.fps
    luma = _luma(seen.samples[inside])
    values["brightness"] = _median(luma.mean((1, 2)))
    values["borders"] = borders(seen.rows[inside], seen.columns[inside])
    for name in ("sharpness", "text"):
        values[name] = _median(getattr(seen, name)[inside])
    for name, sampled in seen.scores.items():
        values[name] = _median(sampled[inside])
    return {n: None if v is None else _rounded(v) for n, v in values.items()}


def rejection(
    values: Mapping[str, float | None], bounds: Mapping[str, settings_lib.Bounds]
) -> dict[str, Any] | None:
    """The first limit that a shot breaks: reason, threshold and value; else None."""
    for name, bound in bounds.items():
        value = values.get(name)
        if value is None:
            if name in values:
                continue
            value = math.nan
        limit = bound.broken(value)
        if limit is not None:
            side = (
                "less" if bound.least is not None and limit == bound.least else "more"
            )
            reason = f"{name} is {side} than the limit"
            if math.isnan(value):
                reason = f"{name} cannot be measured: shorter than two samples"
            return {
                "reason": reason,
                "score": name,
                "threshold": limit,
                "value": None if math.isnan(value) else value,
            }
    return None


def borders(
    rows: UInt8[np.ndarray, "K 128"], columns: UInt8[np.ndarray, "K 128"]
) -> float:
    """Part of the picture that is black borders with a straight inner edge."""
    if not len(rows):
        return math.nan
    inside = 1.0
    for profile in (rows, columns):
        lit = profile.max(axis=0) / 255
        inside *= 1 - (_border(lit) + _border(lit[::-1]))
    return 1 - max(0.0, inside)


def _border(lit: Float64[np.ndarray, "128"]) -> float:
    """Part of the side that is black, from its end, if an edge follows."""
    found = np.flatnonzero(lit > _BLACK)
    if not len(found) or not found[0]:
        return 0.0
    edge = lit[found[0] : found[0] + 3].max() >= _EDGE
    return float(found[0] / len(lit)) if edge else 0.0


def _motion(seen: observation_lib.Observation, first: int, *, last: int) -> float:
    luma = _luma(seen.samples[seen.inside(first, last)])
    if len(luma) < 2:  # between two samples: what frames say of each other
        step = seen.stillness[first + 1 : last + 1]
        return float(min(1.0, step.sum() / 255))
    reach = luma.max(axis=0) - luma.min(axis=0)
    return float((reach > _CHANGED).mean())


def _luma(samples: UInt8[np.ndarray, "K h w 3"]) -> Any:
    return samples.astype(np.float64) @ np.array(_WEIGHTS)


def _longest_run(same: Any) -> int:
    edges = np.flatnonzero(np.diff(np.r_[0, same.astype(np.int8), 0]))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _median(values: Any) -> float:
    return float(np.median(values)) if len(values) else math.nan


def _rounded(value: float) -> float:
    """Six digits: logs are read, and must not depend on the last bit."""
    return float(f"{value:.6g}") if math.isfinite(value) else value
