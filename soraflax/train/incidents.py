"""Steps that went wrong: what happened, on which clips, and how to see it again.

A step whose loss or gradient is not finite is skipped; one whose gradient is far larger
than usual is clipped. Either leaves a record in `incidents/STEP-PROCESS.json`: reason,
metrics, ids of the clips, configuration. A run is a function of its configuration, its
checkpoints and the place in the data, so that `python -m experiments.replay RECORD`
comes to the same step again, bit for bit.
"""

import collections
import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from soraflax import buckets

SPIKE = 20.0  # times the median of the gradient's norm
HISTORY = 100  # steps of that median
ENOUGH = 10  # of them before anything is a spike
LIMIT = 20  # records of one life of a run
SHOWN = 8  # ids in a line


@dataclasses.dataclass(frozen=True)
class Incident:
    """A step that went wrong.

    Attributes:
      step: number of updates before it.
      reason: what was found.
      metrics: those of the step.
      clips: ids of the clips of this process; empty where they are not known.
      process: index of this process.
      config: configuration of the run.
    """

    step: int
    reason: str
    metrics: Mapping[str, float]
    clips: Sequence[str]
    process: int
    config: Any

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Incident":
        """Raises ValueError or FileNotFoundError where there is none."""
        try:
            return cls(**json.loads(buckets.folder(path).read_text()))
        except (TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: no record of an incident ({error})") from error


class Incidents:
    """Finds the steps of a run that went wrong, and records them."""

    def __init__(
        self,
        folder: buckets.Folder,
        *,
        config: Any,
        clips: Callable[[Any], Sequence[str]] | None,
        say: Callable[[str], Any],
    ) -> None:
        """Nothing is found yet.

        Args:
          folder: where records are written.
          config: configuration of the run, of JSON types.
          clips: the position of the data before a step to the ids of its clips.
          say: takes a line about every record.
        """
        self._folder, self._config, self._clips = folder, config, clips
        self._say = say
        self._norms: collections.deque[float] = collections.deque(maxlen=HISTORY)
        self._written = 0

    def examine(
        self,
        first: int,
        values: Sequence[Mapping[str, Any]],
        *,
        places: Sequence[Any],
    ) -> int:
        """Record what went wrong in steps from `first` on.

        Args:
          first: number of the first step.
          values: metrics of every step.
          places: position of the data before every step.

        Returns:
          How many of the steps were spikes.
        """
        spikes = 0
        for number, (metrics, place) in enumerate(zip(values, places, strict=True)):
            norm = float(metrics["gradient_norm"])
            median = float(np.median(self._norms)) if self._norms else math.inf
            is_spike = len(self._norms) >= ENOUGH and norm > SPIKE * median
            if metrics["skipped"]:
                reason = "loss or gradient not finite"
            elif is_spike:
                spikes += 1
                reason = (
                    f"gradient norm {norm:.3g}, {norm / median:.0f} times the usual"
                )
            else:
                self._norms.append(norm)
                continue
            self._record(first + number, reason, metrics=metrics, place=place)
        return spikes

    def _record(
        self, step: int, reason: str, *, metrics: Mapping[str, Any], place: Any
    ) -> None:
        if self._written == LIMIT:
            return
        self._written += 1
        clips = list(self._clips(place)) if self._clips else []
        found = Incident(
            step=step,
            reason=reason,
            metrics={name: float(value) for name, value in metrics.items()},
            clips=clips,
            process=jax.process_index(),
            config=self._config,
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{step}-{found.process}.json"
        path.write_text(json.dumps(dataclasses.asdict(found), indent=1) + "\n")
        more = f" and {len(clips) - SHOWN} others" if len(clips) > SHOWN else ""
        shown = f", clips {', '.join(clips[:SHOWN])}{more}" if clips else ""
        self._say(f"step {step}: {reason}{shown}; {path}")
