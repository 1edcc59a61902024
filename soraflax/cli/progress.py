"""What a command is doing, and for how long still: one line, on standard error.

On a terminal the line is written over and over, and is gone at the end. In a pipe or a
file it is written again from time to time, so that short work leaves nothing there:

    soraflax generate: compiling, and step 1 (21 s so far)
    soraflax generate: step 7 of 25, 120 s left
    soraflax generate: frame 120 of 481 written, 9 s left
"""

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

FIRST = 5.0  # seconds until the first line in a pipe
EVERY = 10.0  # seconds between two lines in a pipe
_TICK = 0.5  # seconds between two looks at the clock, while nothing else happens
_CLEAR = "\r\x1b[K"  # to the beginning of the line, and all of it away


class Progress:
    """A line about work under way; a context manager, and safe to call from threads.

    with Progress("soraflax generate") as line:
        line.begin("compiling")
        for number in range(25):
            line.update(number + 1, 25, what="step {} of {}")
    """

    def __init__(
        self,
        name: str,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        ticks: bool = True,
    ) -> None:
        """Nothing is shown yet.

        Args:
          name: how each line begins.
          stream: where it goes; standard error by default.
          clock: seconds.
          ticks: whether a thread looks at the clock while nothing else happens.
        """
        self._name, self._clock = name, clock
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._lock = threading.RLock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)
        self._ticks = ticks
        self._due = clock() + FIRST
        self._shown = False
        self.begin("")

    def begin(self, text: str) -> None:
        """Work without parts to count begins."""
        with self._lock:
            self._text, self._start = text, self._clock()
            self._counted: tuple[int, int] | None = None
            self._first: tuple[int, float] | None = None
            self.show()

    def update(self, done: int, total: int, *, what: str) -> None:
        """So many parts are done.

        Args:
          done: parts done.
          total: all parts.
          what: their name, with `{}` for each of the two numbers.
        """
        with self._lock:
            if what != self._text or self._first is None:
                self._text, self._first = what, (done, self._clock())
            self._counted = done, total
            self.show()

    @property
    def text(self) -> str:
        """The line as it is now; empty where there is nothing to say."""
        now = self._clock()
        if self._counted is None or self._first is None:
            passed = now - self._start
            return f"{self._text} ({passed:.0f} s so far)" if self._text else ""
        done, total = self._counted
        line = self._text.format(f"{done:,}", f"{total:,}")
        counted, since = done - self._first[0], now - self._first[1]
        if not counted:
            return line
        left = since / counted * (total - done)
        return f"{line}, {max(left, 0):.0f} s left"

    def show(self) -> None:
        """Write the line, if it is time."""
        with self._lock:
            now = self._clock()
            if not self._text or (not self._terminal and now < self._due):
                return
            if self._terminal:
                width = shutil.get_terminal_size().columns - 1
                self._write(f"{_CLEAR}{f'{self._name}: {self.text}'[:width]}")
                self._shown = True
            else:
                self._write(f"{self._name}: {self.text}\n")
                self._due = now + EVERY

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Other lines can be written inside."""
        with self._lock:
            if self._shown:
                self._write(_CLEAR)
                self._shown = False
            yield

    def __enter__(self) -> "Progress":
        if self._ticks:
            self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._done.set()
        if self._ticks:
            self._thread.join()
        with self.hidden():
            self._text = ""

    def _tick(self) -> None:
        while not self._done.wait(_TICK):
            self.show()

    def _write(self, text: str) -> None:
        # Whoever looked on may have gone away, or closed the pipe.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()
