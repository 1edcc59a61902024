"""Kernels of accelerators, interpreted, where test_packed.py does not take them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soraflax.ops import attention
from soraflax.ops.attention import chunked, kernel, plan, splash
from tests.ops.attention import cases


@pytest.mark.parametrize("implementation", ["splash", "triton"])
@pytest.mark.parametrize("size", [64, 128])
def test_many_blocks(implementation, size, monkeypatch):
    """Segments over several blocks, gaps, one without an answer; two rows."""
    monkeypatch.setattr(splash, "BLOCK", 128)
    query = np.stack(
        [
            cases.ids([(1, 130), (0, 40), (2, 90), (4, 20), (5, 31)], 400),
            cases.ids([(1, 300)], 400),
        ]
    )
    key = np.stack([cases.ids([(1, 10), (2, 140), (5, 7)], 200)] * 2)
    arrays = cases.inputs(400, 200, heads=1, size=size)
    expected = cases.run(*arrays, query, key, implementation="reference")
    actual = cases.run(*arrays, query, key, implementation=implementation, block=128)
    cases.check_close(actual, expected, atol=1e-5)


def test_tables_list_what_is_visited():
    row = cases.ids([(1, 6), (2, 2), (3, 5)], 16)[None]
    planned = attention.make_plan(row, row, block=4)
    table: Any = splash._table(planned.keys_of, 4)
    visits = [
        set(np.asarray(next_)[np.asarray(mask) > 0].tolist())
        for next_, mask in zip(
            table.data_next[0, 0], table.block_mask[0, 0], strict=True
        )
    ]
    assert visits == [{0, 1}, {0, 1}, {2, 3}, {2, 3}]
    assert table.data_next.dtype == np.int16 and table.block_mask.dtype == np.int8


def test_tables_are_narrow_where_runs_are_short(monkeypatch):
    """Of eight blocks a run takes one, two to four, or more."""
    monkeypatch.setattr(splash, "BLOCK", 128)
    widths = []
    table = splash._table

    def seen(runs, width):
        widths.append(width)
        return table(runs, width)

    monkeypatch.setattr(splash, "_table", seen)
    arrays = cases.inputs(1024, 1024, rows=1, heads=1, size=64)
    for longest in (28, 300, 600):
        row = cases.ids([(1, longest), (2, 100), (3, 40)], 1024)[None]
        expected = cases.run(*arrays, row, row, implementation="reference")
        actual = cases.run(*arrays, row, row, implementation="splash", block=128)
        cases.check_close(actual, expected, atol=1e-5)
    assert sorted(set(widths)) == [1, 4, 8]


def test_a_chunk_is_less_than_splash_can_index():
    assert splash.MAX_BLOCKS * max(splash.MAX_BLOCK, splash.BLOCK) * 128 * 32 < 2**31


def test_long_rows_come_in_chunks(monkeypatch):
    """As a row of more than `MAX_BLOCKS` blocks would."""
    inner = kernel.Kernel(splash._forward, splash._backward)
    monkeypatch.setattr(splash, "_CHUNKED", chunked.chunked(inner, max_blocks=2))
    monkeypatch.setattr(splash, "BLOCK", 128)
    row = np.stack([cases.ids([(1, 200), (2, 90), (3, 100)], 400)])
    arrays = cases.inputs(400, 400, rows=1, heads=1, size=64)
    expected = cases.run(*arrays, row, row, implementation="reference")
    actual = cases.run(*arrays, row, row, implementation="splash", block=128)
    cases.check_close(actual, expected, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(
    marks=st.lists(st.integers(0, 60), min_size=4, max_size=4),
    queries=st.integers(1, 5),
    keys=st.integers(1, 5),
)
def test_coarse_blocks_cover_fine_ones(marks, queries, keys):
    a, b, c, d = sorted(marks)
    row = cases.ids([(0, a), (1, b - a), (0, c - b), (2, d - c)], 60)[None]
    fine = attention.make_plan(row, row, block=4)
    coarse = plan.coarsen(fine, queries=queries, keys=keys)
    for actual, exact, own, other in (
        (coarse.keys_of, fine.keys_of, queries, keys),
        (coarse.queries_of, fine.queries_of, keys, queries),
    ):
        start, stop = (np.asarray(x[0, 0, 0]) for x in (actual.start, actual.stop))
        assert len(start) == -(-15 // own)
        for block in range(15):
            for visited in range(
                exact.start[0, 0, 0, block], exact.stop[0, 0, 0, block]
            ):
                assert start[block // own] <= visited // other < stop[block // own]
        assert (start <= stop).all() and (stop <= -(-15 // other)).all()
