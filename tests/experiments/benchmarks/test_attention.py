import json

import pytest

from experiments.benchmarks import attention


def test_rows_are_what_they_claim():
    row = attention.equal_segments(20, 5)
    assert row[0].tolist() == [n for n in range(1, 6) for _ in range(4)]
    assert attention.square_fraction(row) == pytest.approx(0.2)
    assert attention.visited_fraction(row, 4) == pytest.approx(0.2)
    assert attention.visited_fraction(row, 20) == 1.0
    assert 0.05 < attention.square_fraction(attention.short_segments(2, 1024)) < 0.15


def test_figures_are_ratios_of_their_own_times():
    line = attention.dense(40, (1, 4), block=8, repeats=1)
    assert line["blocks / reference"] == pytest.approx(
        line["seconds"]["blocks"] / line["seconds"]["reference"]
    )
    lines = attention.scaling(32, (1, 4), block=8, repeats=1)
    assert [x["visited_fraction"] for x in lines] == [1, 0.5, 0.25, 0.25, 0.25]
    json.dumps([line, *lines])


def test_a_ring_is_busy_where_rows_are_dealt():
    row = attention.mixed_segments(8192, seed=0)
    assert row.shape == (1, 8192)
    assert (
        attention.busy_fraction(attention.equal_segments(1024, 8), 8, block=128) == 1.0
    )
    assert (
        attention.busy_fraction(attention.equal_segments(1024, 1), 8, block=128) == 1.0
    )
    (_, line, *_) = attention.balance(8192, block=128, rows=1)
    assert line["shards"] == 4 and line["as packed"] < line["dealt"] <= 1


def test_help_needs_no_work(capsys):
    with pytest.raises(SystemExit) as stopped:
        attention.main(["--help"])
    assert stopped.value.code == 0
    assert "sum(l^2) / N^2" in capsys.readouterr().out
