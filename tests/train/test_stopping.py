"""Signals: deferred to where the run asks, or raised where it does not."""

import os
import signal

import jax
import pytest
from jax.experimental import multihost_utils

from soraflax.train import stopping


def test_a_signal_is_deferred_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopping.deferred() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        with pytest.raises(stopping.Interrupted):
            stop.check()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_ctrl_c_interrupts() -> None:
    with stopping.deferred() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_elsewhere_sigterm_raises() -> None:
    with pytest.raises(stopping.Interrupted), stopping.raised():
        os.kill(os.getpid(), signal.SIGTERM)


def test_processes_ask_with_counts_that_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def reached(count: int) -> bool:
        asked.append(count)
        return count == 3

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", reached)
    with stopping.deferred() as stop:
        stop.check()
        assert not stop()
        with pytest.raises(stopping.Interrupted):
            stop.check()
    assert asked == [1, 2, 3]
