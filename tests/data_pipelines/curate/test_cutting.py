"""Shots from changes, drawn by hand."""

import numpy as np
import pytest

from data_pipelines.curate import cutting, observation, settings


def seen(
    change: list[float], change2: list[float] | None = None, fps: float = 10.0
) -> observation.Observation:
    """An observation of nothing but changes; two frames back changes twice as much."""
    one = np.array(change, np.float32)
    two = 2 * one if change2 is None else np.array(change2, np.float32)
    nothing = np.zeros(0, np.float32)
    return observation.Observation(
        frames=len(one),
        height=8,
        width=8,
        fps=fps,
        notes=(),
        change=one,
        change2=two,
        stillness=one,
        displacement=np.full_like(one, np.nan),
        at=np.zeros(0, np.int32),
        samples=np.zeros((0, 32, 32, 3), np.uint8),
        rows=np.zeros((0, 128), np.uint8),
        columns=np.zeros((0, 128), np.uint8),
        sharpness=nothing,
        text=nothing,
        thumbnails=(),
        scores={},
    )


QUIET = [0.5] * 12


@pytest.mark.parametrize(
    ("change", "cuts"),
    [
        (QUIET, []),
        ([*QUIET, 30.0, *QUIET], [12]),
        ([*QUIET, 30.0, *QUIET[:3], 25.0, *QUIET], [12, 16]),
        ([*QUIET, 0.9, *QUIET], []),  # below the floor
        ([8.0] * 6 + [20.0] + [8.0] * 6, []),  # fast motion
        ([0.5, 1, 2, 4, 6, 8.5, 6, 4, 2, 1, 0.5, 0.5, 0.5], []),  # a bounce
        ([30.0, *QUIET], []),  # the first frame has none before it
        ([0.0], []),
    ],
)
def test_cuts_are_peaks(change: list[float], cuts: list[int]) -> None:
    change2 = [c for c in change]
    for cut in cuts:  # two frames after a cut all is still new
        change2[cut + 1] = change[cut]
    found = seen(change, change2)
    assert cutting.find_cuts(found, settings.CutSettings()) == cuts


def test_what_is_gone_two_frames_on_was_no_cut() -> None:
    change = [*QUIET, 30.0, 2.0, *QUIET]
    change2 = [*QUIET, 30.0, 1.0, *QUIET]
    assert cutting.find_cuts(seen(change, change2), settings.CutSettings()) == []


def test_shots_are_all_frames_and_no_longer_than_asked() -> None:
    change = [*QUIET, 30.0, *QUIET]
    change2 = [*QUIET, 30.0, 30.0, *QUIET[1:]]
    found = seen(change, change2)
    whole = cutting.find_shots(found, settings.CutSettings())
    assert whole == [(0, 11), (12, 24)]
    parts = cutting.find_shots(found, settings.CutSettings(max_seconds=0.5))
    assert [b - a + 1 for a, b in parts] == [4, 4, 4, 4, 5, 4]
    assert [a for a, _ in parts[1:]] == [b + 1 for _, b in parts[:-1]]


def test_cuts_of_another_detector_are_taken() -> None:
    import dataclasses

    found = dataclasses.replace(seen(QUIET), cuts=(0, 5, 99))
    shots = cutting.find_shots(found, settings.CutSettings())
    assert shots == [(0, 4), (5, 11)]
