import dataclasses

import grain
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from data_pipelines import packing, reading
from experiments.benchmarks import packers
from soraflax.ops import packing as packed_rows
from tests.data_pipelines import clip_data

IN_TURN = reading.ReadConfig(threads=0, buffer=0)
SHAPE = packed_rows.RowShape(tokens=100, text=30, segments=4, align=8)


def dataset(sizes, *, shape=SHAPE, open_rows=3, look_ahead=0):
    """Segments whose tokens bear their place in the stream."""
    segments = []
    for place, (tokens, text) in enumerate(sizes):
        segment = clip_data.segment(tokens, text=text)
        segment.tokens[:] = place
        segments.append(segment)
    return packing.PackIterDataset(
        grain.MapDataset.source(segments),
        shape=shape,
        open_rows=open_rows,
        look_ahead=look_ahead,
        read=IN_TURN,
    )


def places(rows):
    return [[int(segment.tokens[0, 0]) for segment in row] for row in rows]


sizes = st.lists(
    st.tuples(st.integers(1, 100), st.integers(1, 30)), min_size=1, max_size=60
)


shapes = st.sampled_from([SHAPE, dataclasses.replace(SHAPE, text_align=8)])


@hypothesis.settings(deadline=None)
@hypothesis.given(sizes, shapes, st.integers(1, 8), st.integers(0, 8))
def test_rows_hold_every_segment_once_within_capacity(
    sizes, shape, open_rows, look_ahead
):
    rows = list(dataset(sizes, shape=shape, open_rows=open_rows, look_ahead=look_ahead))
    placed = [place for row in places(rows) for place in row]
    assert sorted(placed) == list(range(len(sizes)))
    packed = packed_rows.assemble(rows, shape)  # raises where a row overflows
    filled = sum(tokens for tokens, _ in sizes)
    assert np.sum(packed.segments > 0) == filled
    assert np.sum(packed.text_segments > 0) == sum(text for _, text in sizes)


@hypothesis.settings(deadline=None)
@hypothesis.given(sizes, shapes, st.data(), st.sampled_from([0, 1, 6]))
def test_resuming_from_any_row_gives_the_rest(sizes, shape, data, ahead):
    it, rows, states = iter(dataset(sizes, shape=shape, look_ahead=ahead)), [], []
    states.append(clip_data.plain(it.get_state()))
    for row in it:
        rows.append(row)
        states.append(clip_data.plain(it.get_state()))
    k = data.draw(st.integers(0, len(rows)))
    again = iter(dataset(sizes, shape=shape, look_ahead=ahead))
    again.set_state(states[k])
    assert places(again) == places(rows)[k:]


def test_a_segment_goes_where_it_leaves_the_least_room():
    rows = list(dataset([(60, 1), (72, 1), (24, 1), (32, 1)], open_rows=2))
    # 24 fits both rows and fills the second exactly up to alignment; 32 the first.
    assert sorted(places(rows)) == [[0, 3], [1, 2]]


def test_text_and_segment_count_close_a_row_too():
    assert places(dataset([(8, 30), (8, 1)])) == [[0], [1]]
    assert places(dataset([(8, 1)] * 5)) == [[0, 1, 2, 3], [4]]
    # Texts that start on multiples of 8: of 30, the fourth has but 6.
    aligned = dataclasses.replace(SHAPE, text_align=8)
    for ahead in (0, 4):
        texts = [(8, 1), (8, 7), (8, 3), (8, 7)]
        rows = dataset(texts, shape=aligned, look_ahead=ahead)
        assert places(rows) == [[0, 1, 2], [3]]


def test_of_the_clips_ahead_those_that_fill_a_row_are_taken():
    sizes = [(40, 1), (56, 1), (72, 1), (16, 1), (24, 1)]
    # Rows hold 96 aligned tokens: 40 + 56, 72 + 24, and what is left.
    assert places(dataset(sizes, look_ahead=4)) == [[0, 1], [2, 4], [3]]
    # Of segments whose texts are too many, the largest that fit.
    sizes = [(40, 20), (56, 20), (48, 1), (8, 9)]
    assert places(dataset(sizes, look_ahead=4)) == [[0, 2, 3], [1]]


def test_clips_ahead_wait_for_no_more_rows_than_they_are():
    stream = [(64, 1)] + [(99, 1)] * 40
    assert places(dataset(stream, look_ahead=8))[0] == [0]
    with pytest.raises(ValueError, match="look_ahead is 0: use 1"):
        packing.LookAheadPacker(SHAPE, 0)


def test_long_aligned_rows_are_filled_to_99_percent():
    """The corpus of the benchmark, aligned to 128 in rows of 32,768."""
    shape = packed_rows.RowShape(32_768, 8_192, 512, align=128)
    segments = packers.segments_of(packers.corpus(shape.tokens, 1500))
    stream = grain.MapDataset.source(segments)
    rows = list(
        packing.PackIterDataset(stream, shape=shape, look_ahead=64, read=IN_TURN)
    )[:-8]  # at the end there is little to choose from
    filled = sum(len(segment) for row in rows for segment in row)
    assert filled / (len(rows) * shape.tokens) >= 0.990


def test_no_clip_waits_for_ever():
    """A row that nothing fits is closed after `patience` times `open_rows` others."""
    stream = [(60, 1)] + [(99, 1)] * 40
    rows = places(dataset(stream, open_rows=4))
    assert rows.index([0]) <= packing.BestFitPacker.patience * 4 + 1


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((101, 1), "101 tokens does not fit a row of 100: use rows of 104"),
        ((1, 31), "31 tokens does not fit a row's 30: use 31"),
    ],
)
def test_a_segment_larger_than_a_row_is_refused(size, message):
    with pytest.raises(ValueError, match=message):
        list(dataset([(5, 1), size]))


def test_open_rows_must_be_positive():
    with pytest.raises(ValueError, match="open_rows is 0: use 1"):
        packing.BestFitPacker(SHAPE, 0)


def test_mixed_corpus_packs_to_98_percent():
    """Images and clips of six aspect ratios in rows of 2048, padding counted."""
    rng = np.random.default_rng(0)
    sides = [(8, 8), (8, 12), (12, 8), (6, 10), (16, 9), (9, 16)]
    mixed = []
    for _ in range(3000):
        frames = 1 if rng.random() < 0.3 else int(rng.integers(2, 8))
        height, width = sides[rng.integers(6)]
        mixed.append((frames * height * width, int(rng.integers(3, 30))))
    shape = packed_rows.RowShape(tokens=2048, text=1024, segments=32)
    rows = list(dataset(mixed, shape=shape, open_rows=8))
    packed = packing.pack_batch(rows, shape=shape, count=len(rows))
    assert packing.efficiency(packed) > 0.98


def test_a_last_batch_is_filled_with_empty_rows():
    shape = packed_rows.RowShape(tokens=10, text=5, segments=2)
    packed = packing.pack_batch([[clip_data.segment(5)]], shape=shape, count=3)
    assert packed.tokens.shape == (3, 10, 2)
    assert not packed.segments[1:].any()
    assert packing.efficiency(packed) == pytest.approx(5 / 30)


def test_a_batch_is_dealt_over_shards():
    shape = packed_rows.RowShape(tokens=512, text=5, segments=2)
    rows = [[clip_data.segment(300)]]
    whole = packing.pack_batch(rows, shape=shape, count=1)
    dealt = packing.pack_batch(rows, shape=shape, count=1, shards=2)
    expected = packed_rows.stripe(whole, shards=2)
    np.testing.assert_array_equal(dealt.segments, expected.segments)
    assert (dealt.segments[0, :256] > 0).sum() == 128 + 44
