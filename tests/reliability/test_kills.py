"""A run that is killed at twenty random moments, and one that all faults befall."""

import itertools
import pathlib
import random

import numpy as np
import pytest

from tests.reliability import soak


def _faults(folder: pathlib.Path, kinds: list[str], *, seed: int) -> dict:
    rng = random.Random(seed)
    return soak.soak(folder, run="toy", kinds=iter(kinds), every=1.2, rng=rng)


def test_twenty_kills_lose_nothing_but_the_steps_since(tmp_path: pathlib.Path) -> None:
    """Each life goes on from the newest committed step; the end is the same."""
    found = _faults(tmp_path, ["kill"] * 20, seed=0)
    assert found["faults"] == {"kill": 20}
    assert found["step"] > 2
    assert found["differences"] == []


def test_every_kind_of_fault_leaves_the_same_state(tmp_path: pathlib.Path) -> None:
    found = _faults(tmp_path, list(soak.KINDS), seed=1)
    assert found["faults"] == dict.fromkeys(soak.KINDS, 1)
    assert found["differences"] == []


def test_the_comparison_sees_one_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"kernel": np.ones(4, np.float32), "step": np.int32(7)}
    other = {"kernel": state["kernel"].copy(), "step": state["step"]}
    found = {"a": (state, {"place": 1}), "b": (other, {"place": 1})}
    monkeypatch.setattr(soak, "saved", lambda path, step: found[path.name])
    paths = pathlib.Path("a"), pathlib.Path("b")
    assert soak.differences(*paths, step=7) == []
    other["kernel"].view(np.uint32)[2] ^= 1
    assert soak.differences(*paths, step=7) == ["kernel"]
    del other["kernel"]
    found["b"] = other, {"place": 2}
    assert soak.differences(*paths, step=7) == ["kernel", "the place in the data"]


def test_rounds_hold_all_kinds() -> None:
    drawn = itertools.islice(soak.for_minutes(1.0, random.Random(0)), 14)
    assert sorted(drawn) == sorted(2 * soak.KINDS)


def test_a_run_that_ends_by_itself_is_told(tmp_path: pathlib.Path) -> None:
    (tmp_path / "faulty").write_text("no folder")
    with pytest.raises(soak.SoakError, match="ended by itself, with status 2"):
        _faults(tmp_path, ["kill"] * 3, seed=3)
