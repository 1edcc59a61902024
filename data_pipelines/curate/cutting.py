"""Shots from the changes of frames.

A hard cut replaces the picture: the change after motion (`observation`, equation 1) is
great, many times that of the frames around, a peak, and still there two frames on. A
flash changes twice in a row, a bounce gathers speed before it.
"""

import itertools

import numpy as np

from data_pipelines.curate import observation as observation_lib
from data_pipelines.curate import settings as settings_lib

_PEAK = 2.0  # times the change of the frames just before and after
_FLASH = 0.4  # of a cut's change, that the frame after still has against the one before


def find_shots(
    seen: observation_lib.Observation, settings: settings_lib.CutSettings
) -> list[tuple[int, int]]:
    """First and last frame of each shot, in order; together they are all frames."""
    cuts = list(find_cuts(seen, settings)) if seen.cuts is None else list(seen.cuts)
    inside = sorted({cut for cut in cuts if 0 < cut < seen.frames})
    shots = zip([0, *inside], [*inside, seen.frames], strict=True)
    most = seen.frames
    if settings.max_seconds:
        most = max(1, int(settings.max_seconds * seen.fps))
    parts = []
    for start, stop in shots:
        count = -(-(stop - start) // most)
        edges = np.linspace(start, stop, count + 1).round().astype(int).tolist()
        parts += [(a, b - 1) for a, b in itertools.pairwise(edges)]
    return parts


def find_cuts(
    seen: observation_lib.Observation, settings: settings_lib.CutSettings
) -> list[int]:
    """The first frame after each hard cut."""
    change = seen.change.astype(np.float64)
    cuts = []
    for at in np.flatnonzero(change >= settings.floor).tolist():
        if at == 0:
            continue
        around = np.r_[
            change[max(1, at - settings.window) : at],
            change[at + 1 : at + 1 + settings.window],
        ]
        # Other cuts nearby are no motion: over half of what is around says how much
        # moves.
        usual = float(np.quantile(around, 0.6)) if len(around) else 0.0
        beside = max(change[at - 1], change[at + 1] if at + 1 < len(change) else 0.0)
        if change[at] < max(settings.ratio * usual, _PEAK * beside):
            continue
        if at + 1 < seen.frames:
            lasting = float(seen.change2[at + 1])
            if lasting < _FLASH * change[at]:
                continue
        if at >= 2 and seen.change2[at] < _FLASH * change[at]:
            continue  # the end of a flash
        cuts.append(at)
    return cuts
