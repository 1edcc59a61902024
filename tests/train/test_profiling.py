"""Windows of profiles, by number and by signal."""

import os
import pathlib
import signal
from typing import Any

import jax
import pytest

from soraflax.train import profiling


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls that start and stop traces, which are not made."""
    calls: list[Any] = []
    monkeypatch.setattr(jax.profiler, "start_trace", calls.append)
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    return calls


def run(profiler: profiling.Profiler, calls: list[Any], numbers: range) -> None:
    for number in numbers:
        profiler.finish(number, wait=lambda: calls.append("waited"))
        with profiler.step(number):
            calls.append(number)


def test_a_window_of_steps(tmp_path: pathlib.Path, traced: list[Any]) -> None:
    said: list[str] = []
    with profiling.Profiler(tmp_path, at=2, steps=2, say=said.append) as profiler:
        run(profiler, traced, range(6))
    expected = [0, 1, str(tmp_path), 2, 3, "waited", "stop", 4, 5]
    assert traced == expected
    assert said == [f"profile of 2 steps: {tmp_path}"]


def test_a_signal_asks_for_one(tmp_path: pathlib.Path, traced: list[Any]) -> None:
    before = signal.getsignal(signal.SIGUSR2)
    with profiling.Profiler(tmp_path, steps=1, say=lambda _: None) as profiler:
        run(profiler, traced, range(2))
        assert traced == [0, 1]
        os.kill(os.getpid(), signal.SIGUSR2)
        run(profiler, traced, range(2, 4))
        assert traced[2:] == [str(tmp_path), 2, "waited", "stop", 3]
        os.kill(os.getpid(), signal.SIGUSR2)
        run(profiler, traced, range(4, 5))
    assert traced[-1] == "stop"  # one that is open at the end
    assert signal.getsignal(signal.SIGUSR2) == before
