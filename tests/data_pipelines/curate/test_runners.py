"""Rows come in the order of their items, whoever makes them."""

import sys

import pytest

from data_pipelines.curate import runners


def double(item: int) -> dict[str, int]:
    return {"twice": 2 * item}


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_are_in_order(workers: int) -> None:
    rows = runners.Local(workers).map("double", double, items=range(20))
    assert [row["twice"] for row in rows] == list(range(0, 40, 2))


def test_no_workers_are_refused() -> None:
    with pytest.raises(ValueError, match="workers 0: use 1 or more"):
        runners.Local(0)


def test_a_missing_beam_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    rows = runners.Beam(["--runner=DirectRunner"]).map("double", double, items=[1])
    with pytest.raises(ImportError, match=r"soraflax\[beam\]"):
        next(rows)
