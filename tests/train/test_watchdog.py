"""Who is stuck, gone or slow, and what a process that stands still leaves."""

import pathlib
import time
from typing import Any

import pytest

from soraflax.train import goodput, watchdog

NOW = 1000.0


def beat(process: int, **changes: Any) -> watchdog.Heartbeat:
    values = {
        "host": f"n{process}",
        "step": 7,
        "phase": "step",
        "since": NOW - 50,
        "time": NOW - 1,
        "seconds": {"input": 1.0, "step": 100.0},
    }
    return watchdog.Heartbeat(process=process, **values | changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["all 4 processes wait in step 7: a device, or a link"]),
        (
            {"phase": "input", "since": NOW - 300},
            ["process 2 (n2) has been in input of step 7 for 300 s"],
        ),
        (
            {"time": NOW - 82},
            ["process 2 (n2) has been silent for 82 s; it was in step of step 7"],
        ),
        ({"step": 6}, ["process 2 (n2) has been in step of step 6 for 50 s"]),
        (None, ["process 2 never said anything"]),
    ],
)
def test_the_one_that_others_wait_for_is_named(changes, expected) -> None:
    beats = {n: beat(n) for n in range(4)}
    if changes is None:
        del beats[2]
    else:
        beats[2] = beat(2, **changes)
    assert watchdog.suspects(beats, count=4, now=NOW, silence=40) == expected


def test_slow_input_is_named_where_it_matters() -> None:
    beats = {n: beat(n) for n in range(4)}
    assert watchdog.slow(beats) == {}
    beats[3] = beat(3, seconds={"input": 30.0, "step": 70.0})
    assert watchdog.slow(beats) == {
        3: "process 3 (n3) is slow: 30 s of input up to step 7, where the median is 1 s"
    }
    beats[3] = beat(3, seconds={"input": 5.0, "step": 95.0})
    assert watchdog.slow(beats) == {}  # five times the median, and of no account
    assert watchdog.slow({3: beats[3]}) == {}


def test_a_phase_that_lasts_too_long_ends_the_process(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    left: list[int] = []
    ledger = goodput.Ledger()
    dog = watchdog.Watchdog(tmp_path, ledger, limit=30, every=0.1, leave=left.append)
    with dog, ledger.phase("input"):
        dog.look()
        assert left == []
        ledger.since -= 31
        end = time.monotonic() + 60
        while not left and time.monotonic() < end:
            time.sleep(0.05)
    assert left[0] == watchdog.STALLED
    stacks = (tmp_path / "stacks" / "0.txt").read_text()
    assert "test_a_phase_that_lasts_too_long" in stacks
    said = capfd.readouterr().err
    assert "[process 0] stalled for 31 s in input of step 0; stacks are in" in said
    assert "process 0 (" in said and "has been in input of step 0 for 31 s" in said


def test_heartbeats_say_what_a_process_does(tmp_path: pathlib.Path) -> None:
    ledger = goodput.Ledger()
    with watchdog.Watchdog(tmp_path, ledger, every=0.01), ledger.phase("save"):
        ledger.step = 3
        limit = time.monotonic() + 60
        while time.monotonic() < limit:
            beats = watchdog.read(tmp_path / "heartbeats")
            if beats and beats[0].step == 3:
                break
            time.sleep(0.01)
    assert beats[0].phase == "save" and beats[0].step == 3
    (tmp_path / "heartbeats" / "1.json").write_text('{"process": 1')
    assert list(watchdog.read(tmp_path / "heartbeats")) == [0]
