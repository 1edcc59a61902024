"""A profile of a few steps, asked for by the configuration or by a signal.

`kill -USR2 PID` profiles the next steps of a process that runs; `profile_at` those of
all processes. Traces lie in `WORKDIR/profile`, for xprof or Perfetto. Each step is
annotated with its number.
"""

import contextlib
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax


class Profiler:
    """Traces `steps` steps from one that is due; a context manager.

    Attributes:
      folder: where traces are written.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        shown: object = None,
        at: int = 0,
        steps: int = 5,
        say: Callable[[str], Any] = print,
    ) -> None:
        """Trace nothing yet.

        Args:
          folder: where traces are written.
          shown: what a line about them names in its place; None is the folder.
          at: number of the first step of a window; 0 for none.
          steps: length of a window.
          say: takes a line about every trace.
        """
        self.folder = folder
        self._shown = folder if shown is None else shown
        self._at, self._steps, self._say = at, steps, say
        self._asked = threading.Event()
        self._until: int | None = None
        self._before: Any = None

    def request(self, *_: object) -> None:
        """Begin a window at the next step."""
        self._asked.set()

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Annotates what runs inside as step `number`, and traces it if it is due."""
        if self._until is None and (self._asked.is_set() or number == self._at > 0):
            self._asked.clear()
            self._until = number + self._steps
            jax.profiler.start_trace(str(self.folder))
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def finish(self, number: int, *, wait: Callable[[], Any]) -> None:
        """End the window before step `number`, once `wait` has waited for its steps."""
        if self._until is not None and number >= self._until:
            wait()
            self._stop()

    def _stop(self) -> None:
        self._until = None
        jax.profiler.stop_trace()
        self._say(f"profile of {self._steps} steps: {self._shown}")

    def __enter__(self) -> "Profiler":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGUSR2, self.request)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._until is not None:
            self._stop()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR2, self._before or signal.SIG_DFL)
