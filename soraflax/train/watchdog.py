"""Heartbeats of all processes, and what to do when a run stands still.

Every process writes `heartbeats/N.json` every few seconds, from a thread of its own:
the step, the phase, since when, and the seconds spent by phase (`train.goodput`). So
whoever looks can tell a process that is gone (it is silent), one that the others wait
for (it is in a phase of its own) and one that is slow (it spends more on input).

Where input, a step, an evaluation or a save lasts longer than allowed, every process
writes the stacks of all its threads into `stacks/N.txt`, says whom it waits for, lets
the others do so too, and ends with `STALLED`: whatever started the run starts it again,
and it resumes.
"""

import dataclasses
import faulthandler
import json
import multiprocessing
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from soraflax import buckets
from soraflax.train import goodput

STALLED = 75  # EX_TEMPFAIL of sysexits.h: try again
SILENT_BEATS = 4  # a process that missed as many is silent
_GRACE_BEATS = 2  # between the stacks of a process and its end
_SLOW = 2.0  # times the median of input that a slow process needs
_LEAST = 1.0  # second of input, below which a process is not slow
_NOTABLE = 0.1  # of the time of steps, below which input is of no account
_UNBOUNDED = ("restore", "compile", "other")  # may take any time, and differ by far
_SHARED = ("step", "save", "restore")  # phases in which processes wait for each other


@dataclasses.dataclass(frozen=True)
class Heartbeat:
    """What a process said of itself last.

    Attributes:
      process: its index.
      host: name of its machine.
      step: number of the step under way.
      phase: one of `goodput.PHASES`.
      since: when the phase began; seconds since 1970.
      time: when it said so.
      seconds: finished seconds of each phase in this life.
    """

    process: int
    host: str
    step: int
    phase: str
    since: float
    time: float
    seconds: Mapping[str, float]

    def __str__(self) -> str:
        return f"process {self.process} ({self.host})"


def write(folder: buckets.Folder, ledger: goodput.Ledger) -> None:
    """Replace the heartbeat of this process."""
    beat = Heartbeat(
        process=jax.process_index(),
        host=socket.gethostname(),
        step=ledger.step,
        phase=ledger.phase_name,
        since=ledger.since,
        time=time.time(),
        seconds={**ledger.seconds},
    )
    text = json.dumps(dataclasses.asdict(beat))
    buckets.write_text(folder / f"{beat.process}.json", text)


def read(folder: buckets.Folder) -> dict[int, Heartbeat]:
    """The last heartbeat of every process that wrote one."""
    found = {}
    for path in folder.glob("*.json"):
        try:
            beat = Heartbeat(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            continue  # being replaced, or of another version
        found[beat.process] = beat
    return found


def suspects(
    beats: Mapping[int, Heartbeat], *, count: int, now: float, silence: float
) -> list[str]:
    """Whom the processes of a run that stands still wait for, a line for each.

    Args:
      beats: last heartbeats, by process.
      count: number of processes.
      now: seconds since 1970.
      silence: seconds after which a process without a heartbeat is silent.
    """
    lines = [f"process {n} never said anything" for n in range(count) if n not in beats]
    for beat in sorted(beats.values(), key=lambda beat: beat.process):
        if beat.process < count and now - beat.time > silence:
            lines.append(
                f"{beat} has been silent for {now - beat.time:.0f} s; it was in "
                f"{beat.phase} of step {beat.step}"
            )
    if lines:
        return lines
    first = min(beat.step for beat in beats.values())
    behind = [
        beat
        for beat in sorted(beats.values(), key=lambda beat: beat.process)
        if beat.phase not in _SHARED or (beat.step == first and first < _last(beats))
    ]
    if not behind:
        return [f"all {count} processes wait in step {first}: a device, or a link"]
    return [
        f"{beat} has been in {beat.phase} of step {beat.step} for "
        f"{now - beat.since:.0f} s"
        for beat in behind
    ]


def _last(beats: Mapping[int, Heartbeat]) -> int:
    return max(beat.step for beat in beats.values())


def slow(beats: Mapping[int, Heartbeat]) -> dict[int, str]:
    """Processes that spend far more on input than most, with a line for each."""
    if len(beats) < 2:
        return {}
    spent = sorted(beat.seconds["input"] for beat in beats.values())
    median = spent[(len(spent) - 1) // 2]
    found = {}
    for beat in beats.values():
        mine, steps = beat.seconds["input"], beat.seconds["step"]
        if mine > max(_SLOW * median, _LEAST, _NOTABLE * (mine + steps)):
            found[beat.process] = (
                f"{beat} is slow: {mine:.3g} s of input up to step {beat.step}, where "
                f"the median is {median:.3g} s"
            )
    return found


class Watchdog:
    """A thread that writes heartbeats, and ends a process that stands still."""

    def __init__(
        self,
        workdir: buckets.Folder,
        ledger: goodput.Ledger,
        *,
        limit: float = 0.0,
        every: float = 10.0,
        leave: Callable[[int], Any] = os._exit,
    ) -> None:
        """Nothing is written yet.

        Args:
          workdir: parent of `heartbeats/` and `stacks/`, seen by all processes.
          ledger: what this process is doing.
          limit: seconds that input, a step, an evaluation or a save may last; 0 for no
            limit.
          every: seconds between two heartbeats.
          leave: ends the process with an exit status.
        """
        self._beats, self._stacks = workdir / "heartbeats", workdir / "stacks"
        self._ledger, self._limit, self._leave = ledger, limit, leave
        self._every = min(every, limit / 4) if limit else every
        self._done = threading.Event()
        self._slow: set[int] = set()
        self._thread = threading.Thread(target=self._run, daemon=True, name="watchdog")

    def __enter__(self) -> "Watchdog":
        self._beats.mkdir(parents=True, exist_ok=True)
        write(self._beats, self._ledger)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(self._every):
            try:
                self.look()
            except Exception as error:  # where heartbeats go is not the run's concern
                _say([f"heartbeat: {error}"])

    def look(self) -> None:
        """Write a heartbeat, name slow processes, and end one that stands still."""
        write(self._beats, self._ledger)
        lasted = time.time() - self._ledger.since
        bounded = self._ledger.phase_name not in _UNBOUNDED
        if self._limit and bounded and lasted > self._limit:
            self._stall(lasted)
        elif jax.process_index() == 0:
            found = slow(read(self._beats))
            _say([line for n, line in found.items() if n not in self._slow])
            self._slow |= found.keys()

    def _stall(self, lasted: float) -> None:
        lines = suspects(
            read(self._beats),
            count=jax.process_count(),
            now=time.time(),
            silence=SILENT_BEATS * self._every,
        )
        self._stacks.mkdir(exist_ok=True)
        path = self._stacks / f"{jax.process_index()}.txt"
        head = f"{time.strftime('%F %T')} step {self._ledger.step}\n"
        buckets.append_text(path, head + _stacks_of_all())
        where = f"{self._ledger.phase_name} of step {self._ledger.step}"
        _say([f"stalled for {lasted:.0f} s in {where}; stacks are in {path}", *lines])
        # The end of one process ends those that wait for it; they have yet to write.
        self._done.wait(_GRACE_BEATS * self._every)
        for worker in multiprocessing.active_children():
            worker.kill()  # one that hangs would outlive this process
        self._leave(STALLED)


def _stacks_of_all() -> str:
    """The stacks of all threads of this process."""
    with tempfile.TemporaryFile("w+") as file:  # it wants the number of a file
        faulthandler.dump_traceback(file)
        file.seek(0)
        return file.read()


def _say(lines: Sequence[str]) -> None:
    """Lines on standard error, from any process."""
    for line in lines:
        print(f"[process {jax.process_index()}] {line}", file=sys.stderr, flush=True)
