"""Where the time of a run goes, over all its lives, and how much of it counts.

A run that was stopped, or killed, lives again. Every life spends its time in phases,
one at a time; the ledger writes their sums into `goodput.jsonl`. Over all lives

    goodput = (seconds in steps - seconds in steps done again) / seconds in all     (1)

where steps done again are those after the step at which the next life resumed (lost),
and the seconds between two lives (down) count as others do.
"""

import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

FILE = "goodput.jsonl"
PHASES = ("restore", "compile", "input", "step", "evaluate", "save", "other")


class Ledger:
    """Seconds of this life by phase; phases nest, and time counts for the inner one.

    Attributes:
      seconds: finished seconds of each phase.
      phase_name: the phase that runs now.
      since: when it began, in seconds of the clock.
      step: number of the step that is under way.
    """

    def __init__(
        self,
        path: pathlib.Path | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Begin in the phase `other`.

        Args:
          path: where lines are appended, by the first process; None for nowhere.
          clock: seconds since any epoch, the same in all lives.
        """
        self._path = path if jax.process_index() == 0 else None
        self._clock = clock
        self._window: dict[str, float] = {}
        self.seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self.phase_name, self.since, self.step = "other", clock(), 0

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What runs inside is spent on `name`, one of `PHASES`."""
        outer = self._enter(name)
        try:
            yield
        finally:
            self._enter(outer)

    def _enter(self, name: str) -> str:
        now = self._clock()
        self.seconds[self.phase_name] += now - self.since
        outer, self.phase_name, self.since = self.phase_name, name, now
        return outer

    def write(self, event: str) -> None:
        """Append the sums so far; `start` once restored, then `steps` or `end`."""
        self._enter(self.phase_name)
        if self._path is None:
            return
        line = {"event": event, "step": self.step, "time": self.since}
        line["seconds"] = {name: round(s, 3) for name, s in self.seconds.items()}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def window(self, steps: int) -> dict[str, float]:
        """Seconds for each of `steps`, of input and of saves since the last call."""
        before, self._window = self._window, dict(self.seconds)
        return {
            f"{name}_seconds": (self.seconds[name] - before.get(name, 0.0)) / steps
            for name in ("input", "save")
        }


@dataclasses.dataclass(frozen=True)
class Goodput:
    """The sums over all lives of a run.

    Attributes:
      lives: number of times it was started.
      seconds: of each phase, `down` between lives, and `lost`, which is no phase but
        the part of `step` that was done again.
    """

    lives: int
    seconds: Mapping[str, float]

    @property
    def total(self) -> float:
        """Seconds from the first start to the last line."""
        return sum(s for name, s in self.seconds.items() if name != "lost")

    @property
    def fraction(self) -> float:
        """Equation (1)."""
        useful = self.seconds["step"] - self.seconds["lost"]
        return useful / self.total if self.total else 0.0

    def __str__(self) -> str:
        times = sorted(self.seconds.items(), key=lambda item: -item[1])
        parts = ", ".join(f"{name} {s:.3g} s" for name, s in times if s >= 0.05)
        lives = f"{self.lives} lives" if self.lives > 1 else "1 life"
        return f"goodput {self.fraction:.1%} of {self.total:.3g} s in {lives}: {parts}"


def read(workdir: str | pathlib.Path) -> Goodput:
    """The sums of a run, from its `goodput.jsonl`; a half line at the end is none.

    Raises:
      FileNotFoundError: there is no such file.
    """
    lives: list[list[dict[str, Any]]] = []
    for text in (pathlib.Path(workdir) / FILE).read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            line = json.loads(text)
            if line["event"] == "start" or not lives:
                lives.append([])
            lives[-1].append(line)
    return _summed(lives)


def _summed(lives: Sequence[Sequence[Mapping[str, Any]]]) -> Goodput:
    seconds: dict[str, float] = dict.fromkeys((*PHASES, "down", "lost"), 0.0)
    for number, lines in enumerate(lives):
        last = lines[-1]
        for name, spent in last["seconds"].items():
            seconds[name] += spent
        if number + 1 == len(lives):
            continue
        after = lives[number + 1][0]
        began = after["time"] - sum(after["seconds"].values())
        seconds["down"] += max(0.0, began - last["time"])
        kept = [line for line in lines if line["step"] <= after["step"]]
        done = last["seconds"]["step"]
        seconds["lost"] += done - (kept[-1]["seconds"]["step"] if kept else 0.0)
    return Goodput(len(lives), seconds)
