"""Jobs one at a time, in the order in which they came, and at most so many waiting.

    queue = JobQueue(max_waiting=2)
    ticket = queue.submit(lambda ticket: work(callback=ticket.step))
    ticket.position          # 0: it runs; 1: it is the next
    ticket.cancel()          # stops at the next step

The work runs on one thread of the queue. What it raises is one line in
`Ticket.error`; what only a mistake in the code can raise goes to the log, too.
"""

import collections
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from soraflax.generation import progress

State = Literal["waiting", "running", "done", "failed", "cancelled"]
# What bad input, a full disk or a full memory raise; anything else is a mistake.
EXPECTED = (ValueError, OSError, ImportError, MemoryError)
_log = logging.getLogger(__name__)


class QueueFullError(ValueError):
    """No room for another job."""


class CancelledError(Exception):
    """Raised by work that was asked to stop."""


@dataclasses.dataclass
class Ticket:
    """A job on its way; all may be read from any thread.

    Attributes:
      state: what has become of it.
      position: jobs before it; 0 once it runs.
      done, total: steps done and in all; 0 until the first is done.
      preview: what the work last showed of its result, for readers to understand.
      result: what the work returned; None until it is done.
      error: one line, if it failed.
      notes: what was changed about what it is made from, a line each.
      started, sampling, ended: seconds of `time.monotonic` when it began to run, its
        first step was done, and it was over; None before.
    """

    state: State = "waiting"
    position: int = 0
    done: int = 0
    total: int = 0
    preview: Any = None
    result: Any = None
    error: str = ""
    notes: Sequence[str] = ()
    started: float | None = None
    sampling: float | None = None
    ended: float | None = None
    _cancelled: threading.Event = dataclasses.field(default_factory=threading.Event)
    _ended: threading.Event = dataclasses.field(default_factory=threading.Event)

    @property
    def is_over(self) -> bool:
        """Whether nothing about it changes any more."""
        return self._ended.is_set()

    @property
    def is_cancelled(self) -> bool:
        """Whether it was asked to stop; it may not have stopped yet."""
        return self._cancelled.is_set()

    @property
    def seconds(self) -> float:
        """How long it has run, or ran."""
        if self.started is None:
            return 0.0
        return (self.ended or time.monotonic()) - self.started

    @property
    def remaining(self) -> float | None:
        """Seconds that the steps to come may take; None before the second step."""
        if self.sampling is None or self.done < 2:
            return None
        took = time.monotonic() - self.sampling
        return took / (self.done - 1) * (self.total - self.done)

    def cancel(self) -> None:
        """Ask it to stop: at once if it waits, at the next step if it runs."""
        self._cancelled.set()

    def step(self, step: progress.Step) -> bool:
        """A callback of the model: counts, and stops sampling if it was cancelled."""
        self.done, self.total = step.done, step.total
        self.sampling = self.sampling or time.monotonic()
        return self.is_cancelled

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is over, at most so many seconds; whether it is."""
        return self._ended.wait(timeout)

    def _end(self, state: State, error: str = "") -> None:
        self.state, self.error, self.ended = state, error, time.monotonic()
        self.position = 0
        self._ended.set()


Work = Callable[[Ticket], Any]


class JobQueue:
    """One thread that does one job after the other; a context manager.

    At the end of its block waiting jobs are cancelled, and the one that runs is asked
    to stop and waited for.
    """

    def __init__(self, max_waiting: int) -> None:
        """Begin.

        Args:
          max_waiting: jobs that may wait while one runs, at least 0.
        """
        if max_waiting < 0:
            raise ValueError(f"a queue of {max_waiting}: use 0 or more")
        self.max_waiting = max_waiting
        self._jobs: collections.deque[tuple[Ticket, Work]] = collections.deque()
        self._changed = threading.Condition()
        self._running: Ticket | None = None
        self._closed = False
        self._thread = threading.Thread(
            target=self._loop, name="soraflax-jobs", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> "JobQueue":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Jobs that wait; the one that runs is not among them."""
        with self._changed:
            self._sweep()
            return len(self._jobs)

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        with self._changed:
            self._sweep()
            return self._running is None and not self._jobs

    def submit(self, work: Work, *, notes: Sequence[str] = ()) -> Ticket:
        """Put work at the end of the queue.

        Args:
          work: takes its ticket, whose `step` it hands on as a callback; what it
            returns is the ticket's result.
          notes: of the ticket.

        Raises:
          QueueFullError: as many wait as may, or the queue is closed.
        """
        with self._changed:
            self.check_room()
            ticket = Ticket(notes=notes)
            self._jobs.append((ticket, work))
            self._number()
            self._changed.notify()
        return ticket

    def check_room(self) -> None:
        """Refuse what `submit` would refuse, before its work is prepared.

        Raises:
          QueueFullError: as many wait as may, or the queue is closed.
        """
        with self._changed:
            self._sweep()
            if self._closed:
                raise QueueFullError("the server is being stopped")
            # One that the thread is about to take does not wait.
            if len(self._jobs) + (self._running is not None) > self.max_waiting:
                raise QueueFullError(self._full())

    def cancel(self, ticket: Ticket) -> None:
        """`Ticket.cancel`, and those behind it move up at once."""
        ticket.cancel()
        with self._changed:
            self._sweep()

    def close(self, timeout: float = 30.0) -> None:
        """Take no more jobs, cancel all, and wait for the one that runs.

        Args:
          timeout: seconds to wait for it; then it is left to itself.
        """
        with self._changed:
            self._closed = True
            for ticket, _ in self._jobs:
                ticket.cancel()
            if self._running is not None:
                self._running.cancel()
            self._sweep()
            self._changed.notify()
        self._thread.join(timeout)

    def _full(self) -> str:
        if not self.max_waiting:
            return "the model is busy: try again when it is done"
        waits = "1 waits" if self.max_waiting == 1 else f"{self.max_waiting} wait"
        return f"the queue is full, {waits}: try again when a job is done"

    def _sweep(self) -> None:
        """Drop cancelled jobs that wait; the lock is held."""
        kept: collections.deque[tuple[Ticket, Work]] = collections.deque()
        for ticket, work in self._jobs:
            if ticket.is_cancelled:
                ticket._end("cancelled")
            else:
                kept.append((ticket, work))
        self._jobs = kept
        self._number()

    def _number(self) -> None:
        ahead = int(self._running is not None)
        for index, (ticket, _) in enumerate(self._jobs):
            ticket.position = index + ahead

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._sweep()
                while not self._jobs and not self._closed:
                    self._changed.wait()
                    self._sweep()
                if not self._jobs:
                    return
                ticket, work = self._jobs.popleft()
                self._running = ticket
                ticket.state, ticket.started = "running", time.monotonic()
                ticket.position = 0
                self._number()
            outcome = _do(ticket, work)
            with self._changed:
                self._running = None
                self._number()
            ticket._end(*outcome)


def _do(ticket: Ticket, work: Work) -> tuple[State, str]:
    """Run the work of a ticket; its state after it, and the error there was."""
    try:
        result = work(ticket)
    except CancelledError:
        return "cancelled", ""
    except Exception as error:
        return ("cancelled", "") if ticket.is_cancelled else ("failed", explain(error))
    if ticket.is_cancelled:
        return "cancelled", ""
    ticket.result = result
    return "done", ""


def explain(error: Exception) -> str:
    """An error in one line; one that only a mistake can raise goes to the log, too."""
    message = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in message:
        return "out of memory: use a smaller size or fewer frames"
    if isinstance(error, EXPECTED):
        return message
    _log.error("not expected", exc_info=error)
    return f"{type(error).__name__}: {message} (the server's log has more)"
