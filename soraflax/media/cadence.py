"""Film that was made longer: 3:2 pulldown whose fields or repeats are not marked.

Four frames of film A B C D become five of 30 a second, by fields (top and bottom rows)
or whole:

    AA BB BC CD DD,        A A B C D.                                             (1)

From one frame to the next let x and y be how much the top and the bottom rows change.
In the first pattern the asymmetry

    a = (x - y) / (x + y)                                                         (2)

is -1 at one step of every five and +1 two steps later (or earlier), as one of the
fields is shown again; in the second x + y vanishes at one step of five.
"""

from typing import Any

import numpy as np
from jaxtyping import Float64

_CYCLE = 5
_FEWEST, _WINDOW, _MOST = 15, 25, 500  # steps
_ROWS, _COLUMNS = 128, 64  # that are compared, of each field
_NOISE = 6  # levels of 255
_MOVING = 0.02  # mean levels above noise, without which a step says nothing
_FIELDS = (
    "telecined (3:2): two of every five frames weave two frames of film, unmarked: "
    "-vf fieldmatch,decimate of ffmpeg undoes it"
)
_REPEATS = (
    "every fifth frame repeats the one before it, as of film shown at 30 frames a "
    "second: -vf decimate of ffmpeg undoes it"
)


class Cadence:
    """Compares each frame with the one before; bounded in time and memory."""

    def __init__(self) -> None:
        self._before: np.ndarray | None = None
        self._steps: list[tuple[float, float]] = []

    def add(self, frame: Any) -> None:
        """Take one more frame of PyAV."""
        if len(self._steps) >= _MOST:
            return
        fields = _fields(frame)
        before, self._before = self._before, fields
        if fields is None or before is None or fields.shape != before.shape:
            return
        change = np.maximum(np.abs(fields - before) - _NOISE, 0)
        top, bottom = change.mean(axis=(1, 2))
        self._steps.append((float(top), float(bottom)))

    @property
    def notes(self) -> list[str]:
        """What most of the moving part of the frames is, in a line; none mostly."""
        steps = np.array(self._steps, np.float64).reshape(-1, 2)
        length = min(_WINDOW, len(steps) // _CYCLE * _CYCLE)
        if length < _FEWEST:
            return []
        starts = range(0, len(steps) - length + 1, _CYCLE)
        windows = [steps[at : at + length] for at in starts]
        for pattern, note in ((_has_fields, _FIELDS), (_has_repeats, _REPEATS)):
            found = [kind for kind in map(pattern, windows) if kind is not None]
            if found and sum(found) > len(found) / 2:
                return [note]
        return []


def _has_fields(steps: Float64[np.ndarray, "steps 2"]) -> bool | None:
    """Whether equation (2) shows the first pattern; None where too little moves."""
    total = steps.sum(axis=1)
    moving = total > _MOVING
    if moving.sum() < _FEWEST * 0.8:
        return None
    asymmetry = np.where(moving, (steps[:, 0] - steps[:, 1]), np.nan)
    by_phase = (asymmetry / np.maximum(total, _MOVING)).reshape(-1, _CYCLE)
    if np.isnan(by_phase).all(axis=0).any():
        return None
    middle = np.nanmedian(by_phase, axis=0)
    low, high = int(middle.argmin()), int(middle.argmax())
    others = np.delete(middle, [low, high])
    apart = (high - low) % _CYCLE in (2, 3)
    strong = middle[low] < -0.6 and middle[high] > 0.6
    return bool(apart and strong and np.abs(others).max() < 0.4)


def _has_repeats(steps: Float64[np.ndarray, "steps 2"]) -> bool | None:
    """Whether one step of five changes nothing, and all others do."""
    total = np.median(steps.sum(axis=1).reshape(-1, _CYCLE), axis=0)
    if np.sort(total)[1] <= _MOVING:
        return None
    return bool(total.min() < 0.05 * np.sort(total)[1])


def _fields(frame: Any) -> np.ndarray | None:
    """Some of the luma of the top and of the bottom rows, in levels of 255."""
    layout = frame.format
    luma = layout.components[0]
    if not (luma.is_luma and layout.is_planar) or layout.is_big_endian:
        return None
    if frame.height < 4 or frame.width < 4:
        return None
    plane = frame.planes[0]
    kind = np.dtype(np.uint8 if luma.bits == 8 else "<u2")
    rows = np.frombuffer(plane, kind).reshape(-1, plane.line_size // kind.itemsize)
    rows = rows[: frame.height // 2 * 2, : frame.width : -(-frame.width // _COLUMNS)]
    pairs = rows.reshape(-1, 2, rows.shape[1])[:: -(-frame.height // (2 * _ROWS))]
    return pairs.swapaxes(0, 1).astype(np.float32) / 2 ** (luma.bits - 8)
