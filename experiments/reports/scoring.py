"""Agreement of videos with their prompts, read back from pixels by the judge.

    accuracy   fraction of the videos that show the attribute of their prompt     (1)
    chance     the same, every video compared to the prompts of all others        (2)
    ceiling    (1) for real renders passed through the autoencoder                (3)

(2) is what a model that ignored its prompt, but drew from the same distribution, would
score; (3) is the best that a perfect transformer could, given this decoder and judge.
"""

import collections
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from data_pipelines.worlds import judge

Pairs = Iterable[tuple[str, bool]]  # names of attributes, and whether they are right


def accuracy(
    videos: Sequence[np.ndarray], expected: Sequence[dict[str, Any]]
) -> dict[str, dict[str, float]]:
    """Equations (1) and (2) for every attribute that a prompt names.

    Args:
      videos: uint8 `[T, H, W, 3]`.
      expected: attributes in each video's prompt (`bodies.prompts`).

    Returns:
      attribute to `accuracy`, `chance` and `count`.
    """

    def agreements(reading: dict[str, Any], wanted: dict[str, Any]) -> Pairs:
        return judge.agreement(reading, wanted).items()

    return _shares(videos, expected, agreements=agreements)


def by_body(
    videos: Sequence[np.ndarray], expected: Sequence[dict[str, Any]]
) -> dict[str, dict[str, float]]:
    """Equations (1) and (2) over the bodies that prompts name, not over videos.

    Each is held against the body that was read which fits it best, one for one
    (`judge.match_objects`); one that has none is wrong in all it names. Args and
    result are those of `accuracy`; `count` is a number of bodies.
    """

    def agreements(reading: dict[str, Any], wanted: dict[str, Any]) -> Pairs:
        asked, read = wanted.get("objects", []), reading.get("objects", [])
        pairs = judge.match_objects(asked, read)
        for index, body in enumerate(asked):
            found = read[pairs[index]] if index in pairs else {}
            for name, value in body.items():
                yield name, found.get(name) == value

    return _shares(videos, expected, agreements=agreements)


def _shares(
    videos: Sequence[np.ndarray],
    expected: Sequence[dict[str, Any]],
    *,
    agreements: Callable[[dict[str, Any], dict[str, Any]], Pairs],
) -> dict[str, dict[str, float]]:
    readings = [judge.read(video) for video in videos]
    right: dict[str, list[bool]] = collections.defaultdict(list)
    lucky: dict[str, list[bool]] = collections.defaultdict(list)
    for index, reading in enumerate(readings):
        for other, wanted in enumerate(expected):
            tally = right if index == other else lucky
            for name, agrees in agreements(reading, wanted):
                tally[name].append(agrees)
    return {
        name: {
            "accuracy": round(float(np.mean(right[name])), 4),
            "chance": round(float(np.mean(lucky[name])), 4),
            "count": len(right[name]),
        }
        for name in sorted(right)
    }


def with_ceiling(
    scores: dict[str, dict[str, float]], ceiling: dict[str, dict[str, float]]
) -> dict[str, dict[str, float]]:
    """`scores` with the accuracy of `ceiling` beside each, equation (3)."""
    return {
        name: values | {"ceiling": ceiling.get(name, {}).get("accuracy", float("nan"))}
        for name, values in scores.items()
    }
