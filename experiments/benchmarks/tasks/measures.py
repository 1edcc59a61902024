"""Measures of a task's result against its clip; videos are uint8 `[T, H, W, 3]`.

With d(a, b) the root mean square difference of two frames in levels, over all their
pixels and channels, a clip x has the pace m(x) and a join of frames a, b the ratio

    m(x) = median over k of d(x_k, x_{k+1})                                       (1)
    ratio = d(a, b) / m(x)                                                        (2)

A body's position is the centre of the largest region that stands out from the plain
background. With c_k and c'_k its positions in two videos and D its diameter in the
first,

    position error = mean over k of |c_k - c'_k| / D                              (3)

where a body that is not seen in the second counts as a frame's diagonal away.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import ndimage, stats

from soraflax.evaluation import metrics

CONTRAST = 36.0  # levels from the background, of anything that stands out
MIN_AREA = 12  # pixels of a body
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """d of two frames, in levels."""
    error = first.astype(np.float32) - second.astype(np.float32)
    return float(np.sqrt(np.mean(np.square(error))))


def pace(video: np.ndarray) -> float:
    """Equation (1), in levels.

    Raises:
      ValueError: a video of one frame.
    """
    if len(video) < 2:
        raise ValueError("1 frame has no pace: use 2 or more")
    pairs = itertools.pairwise(video)
    return float(np.median([difference(a, b) for a, b in pairs]))


def largest_step(video: np.ndarray) -> float:
    """The largest RMS difference of two frames that follow each other, in levels."""
    steps = np.diff(video.astype(np.float32), axis=0)
    return float(np.sqrt(np.square(steps).mean(axis=(1, 2, 3))).max())


def join_ratio(before: np.ndarray, after: np.ndarray, *, own: float) -> float:
    """Equation (2) of two frames and a pace above 0."""
    return difference(before, after) / own


@dataclasses.dataclass(frozen=True)
class BodyPosition:
    """A body in a frame.

    Attributes:
      centre: (x, y) of its centre in pixels.
      diameter: diameter of a disc of its area, in pixels.
    """

    centre: tuple[float, float]
    diameter: float


def find_body(frame: np.ndarray) -> BodyPosition | None:
    """The body in a frame `[H, W, 3]`; None where nothing stands out."""
    pixels = frame.astype(np.float32)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    contrast = np.sqrt(np.square(pixels - np.median(edge, axis=0)).sum(-1))
    threshold = max(CONTRAST, float(np.percentile(contrast, 98)) / 2)
    labels = np.zeros(contrast.shape, np.int32)
    ndimage.label(contrast > threshold, output=labels)
    areas = np.bincount(labels.reshape(-1))[1:]
    if not areas.size or areas.max() < MIN_AREA:
        return None
    y, x = np.nonzero(labels == 1 + areas.argmax())
    return BodyPosition(
        (float(x.mean()), float(y.mean())), float(2 * np.sqrt(areas.max() / np.pi))
    )


def position_error(given: np.ndarray, result: np.ndarray) -> float:
    """Equation (3), over the frames in which the body of `given` is seen.

    Raises:
      ValueError: it is seen in none.
    """
    diagonal = float(np.hypot(*given.shape[1:3]))
    errors, sizes = [], []
    for frame, other in zip(given, result, strict=True):
        body, moved = find_body(frame), find_body(other)
        if body is None:
            continue
        sizes.append(body.diameter)
        errors.append(
            diagonal
            if moved is None
            else float(np.hypot(*np.subtract(body.centre, moved.centre)))
        )
    if not errors:
        raise ValueError("the given clip shows no body to compare with")
    return float(np.mean(errors) / np.median(sizes))


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    """SSIM of the brightness of two videos; 1 where they are equal."""
    luma = [(v.astype(np.float32) / 127.5 - 1.0) @ LUMA for v in (first, second)]
    return float(metrics.ssim(*(jnp.asarray(x[None, ..., None]) for x in luma))[0])


def trend(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation: 1 if y only rises with x, -1 if it only falls.

    0 where y stands still.
    """
    if len(set(y)) < 2:
        return 0.0
    result: Any = stats.spearmanr(x, y)
    return float(result.statistic)
