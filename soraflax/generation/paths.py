"""Motion by drawn paths: what lies at the start of a path is dragged along it.

No model is trained for this. What is under the start is cut out of the first frame, its
place is filled with what surrounds it, and it is pasted along the path frame by frame:

    body = pixels connected with the start, within TOLERANCE levels of its colour   (1)
    frame k has it moved to the path's point at k / (T - 1) of the path's length    (2)

That crude clip is noised to a strength and denoised (SDEdit, arXiv:2108.01073; cut and
dragged clips as its start: arXiv:2511.08633), the first frame being given. Points are
(x, y) in pixels of the video, from its upper left corner.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage

from soraflax.generation import conditioning

TOLERANCE = 60.0  # levels, of the Euclidean distance of two colours
STRENGTH = 0.6
_MOST = 0.5  # part of the frame that a body may be

Point = tuple[float, float]
Path = Sequence[Point]


def parse(text: str) -> Path:
    """A path as it is typed, `x0,y0:x1,y1[:x2,y2 ...]`.

    Raises:
      ValueError: another form.
    """
    try:
        points = [tuple(float(n) for n in part.split(",")) for part in text.split(":")]
    except ValueError:
        points = []
    return _checked(points, text)


def read(given: str | Sequence[Path]) -> tuple[Path, ...]:
    """Paths as they are typed, with spaces between them, or as points.

    Raises:
      ValueError: another form.
    """
    if isinstance(given, str):
        return tuple(parse(text) for text in given.split())
    return tuple(_checked(path, path) for path in given)


def _checked(points: Any, shown: Any) -> Path:
    """The points, as they are shown in errors, if they make a path."""
    try:
        made = tuple((float(x), float(y)) for x, y in points)
    except (TypeError, ValueError):  # no pairs, or of no numbers
        made = ()
    if len(made) < 2 or not np.isfinite(made).all():
        raise ValueError(
            f"path {shown!r}: give two points or more, x0,y0:x1,y1 in pixels, as "
            "16,32:48,32"
        )
    return made


def find_body(
    frame: UInt8[np.ndarray, "H W 3"], start: Point
) -> Bool[np.ndarray, "H W"]:
    """Equation (1).

    Raises:
      ValueError: a start outside of the frame, or on a background.
    """
    height, width = frame.shape[:2]
    column, row = (int(np.floor(value)) for value in start)
    if not (0 <= column < width and 0 <= row < height):
        near = np.clip(column, 0, width - 1), np.clip(row, 0, height - 1)
        raise ValueError(
            f"a path begins at {start[0]:g},{start[1]:g}, outside of {width}x{height}: "
            f"use {near[0]},{near[1]}"
        )
    away = frame.astype(np.float32) - frame[row, column].astype(np.float32)
    alike = np.sqrt(np.square(away).sum(-1)) < TOLERANCE
    labels: Any = np.zeros(alike.shape, np.int32)
    ndimage.label(alike, output=labels)
    body = labels == labels[row, column]
    size = body.sum()
    if size > _MOST * body.size:
        raise ValueError(
            f"a path begins at {start[0]:g},{start[1]:g}, on what fills "
            f"{size / body.size:.0%} of the image: begin it on a body"
        )
    return body


def drag(
    first: UInt8[np.ndarray, "H W 3"],
    paths: Sequence[Path],
    *,
    frames: int,
) -> UInt8[np.ndarray, "T H W 3"]:
    """The crude clip: every path's body moved by equation (2), later paths in front.

    Raises:
      ValueError: as of `find_body`.
    """
    found = [find_body(first, path[0]) for path in paths]
    # With the blurred edge around each, two pixels wide.
    edges = np.ones((5, 5), bool)
    taken: Any = ndimage.binary_dilation(np.any(found, axis=0), edges)
    ground = conditioning.fill_unknown(first[None], ~taken[None])[0]
    video = np.repeat(ground[None], frames, axis=0)
    for body, path in zip(found, paths, strict=True):
        rows, columns = np.nonzero(body)
        for frame, (x, y) in enumerate(_places(path, frames)):
            r = rows + round(y - path[0][1])
            c = columns + round(x - path[0][0])
            inside = (r >= 0) & (r < first.shape[0]) & (c >= 0) & (c < first.shape[1])
            source = first[rows[inside], columns[inside]]
            video[frame, r[inside], c[inside]] = source
    video[0] = first
    return video


def _places(path: Path, frames: int) -> np.ndarray:
    """Points of a path at even steps of its length, `[T, 2]`."""
    points = np.array(path, float)
    lengths = np.hypot(*np.diff(points, axis=0).T)
    reached = np.concatenate([[0.0], np.cumsum(lengths)])
    at = np.linspace(0.0, reached[-1], frames)
    return np.stack([np.interp(at, reached, points[:, axis]) for axis in (0, 1)], -1)


def along(
    given: conditioning.Conditioning,
    paths: Sequence[Path],
    *,
    strength: float = STRENGTH,
) -> conditioning.Conditioning:
    """An image that is animated (`tasks.animate`), with bodies that follow paths.

    Args:
      given: an image as the first frame, nothing else.
      paths: one or more.
      strength: of the noise that the dragged clip starts from; more moves more freely.

    Raises:
      ValueError: a last frame is given, or as of `find_body`.
    """
    if len(given.video) != 1 or given.frames < 2:
        raise ValueError("paths go from a first frame alone: leave the last one out")
    video = drag(given.video[0], paths, frames=given.frames)
    keep_mask = np.zeros(video.shape[:3], bool)
    keep_mask[0] = True
    return dataclasses.replace(
        given, video=video, keep_mask=keep_mask, strength=strength
    )


def follow(
    job: conditioning.Job, drawn: str | Sequence[Path], *, strength: float = STRENGTH
) -> conditioning.Job:
    """The job of an image that is animated, with bodies that follow drawn paths.

    Args:
      job: of a first frame alone.
      drawn: paths (`read`); of none the job stays as it is.
      strength: as of `along`.

    Raises:
      ValueError: another form of path, or as of `along`.
    """
    found = read(drawn)
    if not found:
        return job
    moving = along(job.conditioning, found, strength=strength)
    options = {"path": found, "strength": strength}
    return dataclasses.replace(job, conditioning=moving, options=options)
