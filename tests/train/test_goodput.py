"""The ledger of a run's time, over its lives."""

import json
import pathlib

import pytest

from soraflax.train import goodput


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def life(folder: pathlib.Path, clock: Clock, *, start: int, steps: int) -> None:
    """Restores for 2 s and compiles for 5, then steps of 10 s that wait 1 s for input.

    A line for each step, and one at the end unless it is killed after `steps`.
    """
    ledger = goodput.Ledger(folder / goodput.FILE, clock=clock)
    with ledger.phase("restore"):
        clock.wait(2)
    ledger.step = start
    ledger.write("start")
    with ledger.phase("compile"):
        clock.wait(5)
    for number in range(start, start + steps):
        with ledger.phase("input"):
            clock.wait(1)
        with ledger.phase("step"):
            clock.wait(10)
        ledger.step = number + 1
        ledger.write("steps")


def test_phases_nest_and_share_no_second() -> None:
    clock = Clock()
    ledger = goodput.Ledger(clock=clock)
    with ledger.phase("evaluate"):
        clock.wait(1)
        with ledger.phase("step"):
            clock.wait(3)
        clock.wait(2)
    clock.wait(4)
    ledger.write("end")
    spent = {name: s for name, s in ledger.seconds.items() if s}
    assert spent == {"evaluate": 3.0, "step": 3.0, "other": 4.0}
    assert ledger.window(2) == {"input_seconds": 0.0, "save_seconds": 0.0}


def test_steps_done_again_are_lost_and_gaps_are_down(tmp_path: pathlib.Path) -> None:
    """Killed after step 5, 30 s down, resumed at step 3 of the last checkpoint."""
    clock = Clock()
    life(tmp_path, clock, start=0, steps=5)
    clock.wait(30)
    life(tmp_path, clock, start=3, steps=4)
    found = goodput.read(tmp_path)
    assert found.lives == 2
    assert found.seconds["lost"] == 20 and found.seconds["down"] == 30
    assert found.seconds["step"] == 90 and found.seconds["compile"] == 10
    assert found.total == clock.now - 1000
    assert found.fraction == pytest.approx(70 / found.total)
    assert str(found).startswith(f"goodput {70 / 143:.1%} of 143 s in 2 lives: step 90")


def test_a_life_that_resumes_where_the_last_ended_loses_nothing(
    tmp_path: pathlib.Path,
) -> None:
    clock = Clock()
    life(tmp_path, clock, start=0, steps=2)
    life(tmp_path, clock, start=2, steps=2)
    assert goodput.read(tmp_path).seconds["lost"] == 0
    with (tmp_path / goodput.FILE).open("a") as file:
        file.write('{"event": "ste')  # killed while writing
    assert goodput.read(tmp_path).seconds["lost"] == 0


def test_lines_are_json(tmp_path: pathlib.Path) -> None:
    life(tmp_path, Clock(), start=0, steps=1)
    lines = (tmp_path / goodput.FILE).read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["start", "steps"]
    assert set(json.loads(lines[0])["seconds"]) == set(goodput.PHASES)
