"""Bars of long work: on a terminal as tqdm draws them, elsewhere plain lines.

A collector of logs keeps every line, and shows carriage returns as one endless line: so
there a line comes after `FIRST` seconds and every `EVERY` seconds from then on.
"""

import sys
from collections.abc import Iterable
from typing import Any

import tqdm

FIRST, EVERY = 5.0, 10.0


class _Lines:
    """A stream on which everything that is written is a line."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        if text.strip():
            self._stream.write(f"{text.strip()}\n")

    def flush(self) -> None:
        self._stream.flush()


def bar(
    items: Iterable[Any] | None = None,
    *,
    what: str,
    total: int | None = None,
    unit: str = "it",
) -> Any:
    """A tqdm bar over `items`, or one to `update`; a context manager.

    Args:
      items: what is gone through, if anything.
      what: the bar's name.
      total: number of them, where they have no length.
      unit: name of one.
    """
    shown = {"desc": what, "total": total, "unit": unit}
    if sys.stderr.isatty():
        return tqdm.tqdm(items, **shown)
    times = {"mininterval": EVERY, "maxinterval": EVERY, "delay": FIRST}
    stream: Any = _Lines(sys.stderr)
    return tqdm.tqdm(items, file=stream, ncols=80, **times, **shown)
