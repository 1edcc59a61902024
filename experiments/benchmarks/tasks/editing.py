"""What edits change and what they leave, over their strength.

A clip is edited with a prompt that differs from its caption in one word: the colour of
the body, its shape, or the background. For every strength

    accuracy      share of edits in which the judge reads the new word            (1)
    similarity    `measures.similarity` to the input, the mean              (2)
    position      equation (3) of `measures`, the median                    (3)

(1) should rise and (2) fall.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data_pipelines.worlds import bodies, judge
from experiments.benchmarks.tasks import clips as shared
from experiments.benchmarks.tasks import measures
from soraflax.generation import tasks

CLIPS = 12
STRENGTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
NAMES = ("colour", "background", "shape")
MIN_ACCURACY, MAX_POSITION, MIN_TREND = 0.8, 1.0, 0.7
PALETTES = {
    "colour": shared.WORLD.colours,
    "background": shared.WORLD.backgrounds,
    "shape": shared.WORLD.shapes,
}


@dataclasses.dataclass(frozen=True)
class Edit:
    """A clip, the attribute that its new prompt changes, and to what."""

    clip: bodies.RenderedClip
    attribute: str
    value: str
    text: str


@dataclasses.dataclass(frozen=True)
class Point:
    """Edits of one attribute at one strength, see the module docstring."""

    attribute: str
    strength: float
    accuracy: float
    similarity: float
    position: float
    clips: int


def changed(clip: bodies.RenderedClip, attribute: str, *, turn: int) -> Edit:
    """An edit to another value of the palette, `turn` places after the clip's own."""
    palette = PALETTES[attribute]
    old = clip.truth["attributes"][attribute]
    after = 1 + turn % (len(palette) - 1)
    new = palette[(palette.index(old) + after) % len(palette)]
    words = [new if w == old else w for w in shared.caption(clip).split()]
    return Edit(clip, attribute, new, " ".join(words))


def measure(
    edits: Sequence[Edit], videos: Sequence[np.ndarray], *, strength: float
) -> list[Point]:
    """A point for each attribute."""
    points = []
    for name in NAMES:
        pairs = [
            (edit, video)
            for edit, video in zip(edits, videos, strict=True)
            if edit.attribute == name
        ]
        if not pairs:
            continue
        right = [judge.read(video).get(name) == edit.value for edit, video in pairs]
        alike = [measures.similarity(e.clip.video, video) for e, video in pairs]
        away = [measures.position_error(e.clip.video, video) for e, video in pairs]
        points.append(
            Point(
                name,
                strength,
                float(np.mean(right)),
                float(np.mean(alike)),
                float(np.median(away)),
                len(pairs),
            )
        )
    return points


def curve(bench: shared.Bench) -> list[Point]:
    """All attributes at all strengths."""
    edits = [
        changed(clip, name, turn=index)
        for index, clip in enumerate(bench.clips(CLIPS))
        for name in NAMES
    ]
    points = []
    for strength in STRENGTHS:
        jobs = [
            bench.job(
                tasks.edit(
                    bench.model.grid, edit.clip.video, strength=strength, fps=bench.fps
                ),
                edit.text,
                index,
            )
            for index, edit in enumerate(edits)
        ]
        videos, _ = bench.complete(jobs, f"edit at {strength}")
        points += measure(edits, videos, strength=strength)
    return points


def edit(bench: shared.Bench) -> Iterator[dict[str, Any]]:
    """A line for every point, and for every attribute one about its curve."""
    points = curve(bench)
    for point in points:
        yield {"figure": "edit", **dataclasses.asdict(point)}
    for name in NAMES:
        yield summary([point for point in points if point.attribute == name])


def summary(points: Sequence[Point]) -> dict[str, Any]:
    """Whether the curve of one attribute goes as asked, and where it is best."""
    strengths = [point.strength for point in points]
    rises = measures.trend(strengths, [point.accuracy for point in points])
    falls = measures.trend(strengths, [point.similarity for point in points])
    good = [p for p in points if met(p)]
    return {
        "figure": "edit curve",
        "attribute": points[0].attribute,
        "rank correlation of accuracy with strength": rises,
        "rank correlation of similarity with strength": falls,
        "strengths that do both": [point.strength for point in good],
        "asked": f"accuracy rises, similarity falls (|correlation| >= {MIN_TREND}); a "
        f"strength with accuracy >= {MIN_ACCURACY} and position < {MAX_POSITION}",
        "ok": rises >= MIN_TREND and falls <= -MIN_TREND and bool(good),
    }


def met(point: Point) -> bool:
    """Whether a setting changes what it should, and leaves the body in its place."""
    return point.accuracy >= MIN_ACCURACY and point.position < MAX_POSITION
