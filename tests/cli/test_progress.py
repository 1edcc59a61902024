"""The line that says how far a command is: rewritten on a terminal, rare in a pipe."""

import io
import time

import pytest

from soraflax.cli import progress


class Stream(io.StringIO):
    def __init__(self, *, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def line(clock, *, terminal):
    stream = Stream(terminal=terminal)
    made = progress.Progress("sora", stream=stream, clock=clock, ticks=False)
    return made, stream


def test_in_a_pipe_short_work_says_nothing(clock):
    made, stream = line(clock, terminal=False)
    with made:
        made.begin("compiling")
        for done in range(1, 26):
            clock.now += 0.19
            made.update(done, 25, what="step {} of {}")
    assert stream.getvalue() == ""


def test_in_a_pipe_long_work_is_said_line_by_line(clock):
    made, stream = line(clock, terminal=False)
    with made:
        made.begin("compiling, and step 1")
        for _ in range(12):  # as its thread does
            clock.now += 1
            made.show()
        for done in range(1, 26):
            clock.now += 4
            made.update(done, 25, what="step {} of {}")
        made.begin("decoding")
        clock.now += 11
        made.show()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "sora: compiling, and step 1 (5 s so far)"
    assert lines[1] == "sora: step 1 of 25"  # how long a step takes is not known yet
    assert lines[2] == "sora: step 4 of 25, 84 s left"
    assert lines[-1] == "sora: decoding (11 s so far)"
    assert len(lines) == 11
    assert not any("\x1b" in text or "\r" in text for text in lines)


def test_on_a_terminal_one_line_is_rewritten_and_goes(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "24")
    made, stream = line(clock, terminal=True)
    with made:
        for done in range(1, 4):
            clock.now += 2
            made.update(done, 1000, what="frame {} of {} written")
        with made.hidden():
            stream.write("out.mp4\n")
        made.show()
    text = stream.getvalue()
    shown = text.split("\r\x1b[K")
    assert text.count("\n") == 1 and shown[-1] == ""
    assert shown[3] == "sora: frame 3 of 1,000 "  # as wide as the terminal, less one
    assert shown[4] == "out.mp4\n"  # nothing before it on its line


def test_how_long_still_is_of_the_steps_since_the_first(clock):
    """The first one compiles, which the others do not."""
    made, _ = line(clock, terminal=False)
    clock.now += 60
    made.update(1, 11, what="step {} of {}")
    clock.now += 3
    made.update(3, 11, what="step {} of {}")
    assert made.text == "step 3 of 11, 12 s left"


def test_a_thread_looks_at_the_clock(monkeypatch):
    monkeypatch.setattr(progress, "FIRST", 0.05)
    monkeypatch.setattr(progress, "_TICK", 0.01)
    stream = Stream(terminal=False)
    with progress.Progress("sora", stream=stream) as made:
        made.begin("compiling")
        limit = time.monotonic() + 10
        while not stream.getvalue() and time.monotonic() < limit:
            time.sleep(0.01)
    assert stream.getvalue() == "sora: compiling (0 s so far)\n"


def test_a_stream_that_is_gone_stops_nothing(clock):
    made, stream = line(clock, terminal=True)
    with made:
        stream.close()
        made.update(1, 2, what="step {} of {}")
