"""Reads that fail: tried again, then replaced as the place in the stream decides."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from data_pipelines import (
    caption_notes,
    cropping,
    latents,
    packing,
    pipeline,
    records,
    sources,
    storage,
    transforms,
    word_swaps,
)
from experiments.stages.video import export
from soraflax import media
from soraflax.ops import grid as grids
from soraflax.ops import packing as packed_rows
from tests.data_pipelines import clip_data


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between reads, none of which is spent."""
    spent: list[float] = []
    monkeypatch.setattr(records.time, "sleep", spent.append)
    return spent


class Faulty:
    """Numbers as their own records; some reads raise."""

    def __init__(self, size: int, fails: Callable[[int, int], bool]) -> None:
        self.size, self.fails, self.reads = size, fails, 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        self.reads += 1
        if self.fails(index, self.reads):
            raise RuntimeError("DATA_LOSS")
        return index


def _dataset(source: Any, reopen: Any = None) -> records.RecordDataset[int]:
    return records.RecordDataset(source, {"name": "toy"}, parse=int, reopen=reopen)


def test_a_read_that_fails_for_a_while_is_read(waits: list[float]) -> None:
    source = Faulty(5, lambda index, reads: reads < 4)
    assert _dataset(source)[3] == 3
    assert waits == list(storage.RETRY_SECONDS)  # ever longer
    assert waits == sorted(waits)


def test_it_is_read_from_a_newly_opened_file() -> None:
    broken = Faulty(5, lambda index, reads: True)
    dataset = _dataset(broken, lambda: Faulty(5, lambda index, reads: False))
    assert [dataset[k] for k in range(5)] == list(range(5))
    assert broken.reads == 1


def test_a_damaged_record_is_replaced_by_the_next_of_its_pass(
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = sources.stream([range(200)], seed=5)
    sound = [whole[k] for k in range(400)]
    damaged = {sound[3], sound[4]}
    source = _dataset(Faulty(200, lambda index, reads: index in damaged))
    stream = sources.stream([source], seed=5)
    got = [stream[k] for k in range(400)]
    assert got[3] == got[4] == sound[5]
    others = [k for k in range(400) if sound[k] not in damaged]
    assert [got[k] for k in others] == [sound[k] for k in others]
    # The same from any place on: it depends on the place alone.
    again = sources.stream([source], seed=5)
    assert [again[k] for k in range(399, -1, -1)] == got[::-1]
    said = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
    assert len(said) == 4  # once each, of each stream
    assert "(2 of at most 2)" in said[1]


def test_too_many_end_the_run() -> None:
    source = _dataset(Faulty(200, lambda index, reads: index % 10 == 0))
    stream = sources.stream([source], seed=0)
    with pytest.raises(records.DatasetError, match="more than 2 cannot be read"):
        [stream[k] for k in range(200)]


def test_what_looks_at_clips_in_order_leaves_damaged_ones_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Validation, statistics and what an export says of the clips do."""
    source = _dataset(Faulty(200, lambda index, reads: index in (3, 7)))
    found = list(sources.readable(source, range(10)))
    assert found == [(k, k) for k in range(10) if k not in (3, 7)]
    said = capsys.readouterr().err.splitlines()
    assert said[1] == "toy: record 7 is damaged; it is left out (2 of at most 2)"
    source = _dataset(Faulty(200, lambda index, reads: index in (3, 7, 9)))
    with pytest.raises(records.DatasetError, match="more than 2 cannot be read"):
        list(sources.readable(source, range(10)))


class OneDamaged(clip_data.Latents):
    """Latents of which the first cannot be read, ever."""

    info = {"grid": {"temporal_ratio": 4, "spatial_ratio": 8}}  # noqa: RUF012

    def __getitem__(self, index: int) -> Any:
        if index == 0:
            raise records.DamagedRecordError("toy: record 0 is damaged")
        return super().__getitem__(index)


class Rest(OneDamaged):
    """The same without that one."""

    def __len__(self) -> int:
        return self.size - 1

    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index + 1)


def test_a_damaged_latent_ends_a_run_neither_before_nor_after_training(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Captions are looked at before, the caption gap is measured, clips are named."""
    source, captions = OneDamaged(20), transforms.CaptionConfig(max_length=200)
    encode = clip_data.encode_text
    assert caption_notes.caption_notes([source], captions, encode=encode) == []
    words = {"letter": ("d", "e")}
    row = packed_rows.RowShape(tokens=256, text=256, segments=8)
    config = pipeline.PackedDataConfig(rows=2, row=row, captions=captions)
    swapped = word_swaps.make_swapped_rows(config, words, clips=4, latents=source)
    assert sum(int(batch.segments.max(axis=1).sum()) for batch in swapped.rows) == 3
    sound = export.measure_data([Rest(20)], captions)
    assert export.measure_data([source], captions) == sound
    said = capsys.readouterr().err.splitlines()
    assert said == ["toy: record 0 is damaged; it is left out (1 of at most 1)"] * 3


def test_clips_that_cannot_be_decoded_are_left_out_of_what_is_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clips = [clip_data.clip(index) for index in range(4)]
    clips[2] = dataclasses.replace(clips[2], video=b"damaged")
    grid = grids.Grid(4, 8, (1, 2, 2))
    windows = latents.plan_windows(clips, grid, config=latents.LatentCacheConfig())
    batches = latents.fitted_batches(clips, windows, batch=1)
    ids = [clip.id for _, loaded in batches for clip, _ in loaded]
    assert sorted(ids) == [clip.id for clip in clips if clip is not clips[2]]
    assert "it is left out (1 of at most 1)" in capsys.readouterr().err


def test_a_source_without_one_readable_record() -> None:
    stream = sources.stream([_dataset(Faulty(1, lambda index, reads: True))], seed=0)
    with pytest.raises(records.DatasetError, match="none of 1 records"):
        _ = stream[0]


def test_packed_rows_resume_over_damage() -> None:
    def rows() -> Any:
        source = _dataset(Faulty(120, lambda index, reads: index == 17))
        stream = sources.stream([source], seed=1).map(_segment)
        shape = packed_rows.RowShape(tokens=64, text=64, segments=8)
        return iter(packing.PackIterDataset(stream, shape=shape, open_rows=3))

    whole = rows()
    for _ in range(10):
        next(whole)
    position = whole.get_state()
    expected = [_lengths(next(whole)) for _ in range(60)]
    resumed = rows()
    resumed.set_state(position)
    assert [_lengths(next(resumed)) for _ in range(60)] == expected


def _segment(number: int) -> packed_rows.Segment:
    latent = np.full((1, 1, 1 + number % 7, 4), number, np.float32)
    text = np.array([number + 1, 1], np.int32)
    return packed_rows.Segment.from_latent(latent, text, patch=(1, 1, 1))


def _lengths(row: Any) -> list[float]:
    return [float(np.asarray(segment.tokens)[0, 0]) for segment in row]


def _crops(clips: list[records.ClipRecord]) -> cropping.CropBatches:
    return cropping.CropBatches(
        clips=sources.stream([clips], seed=0),
        draws=len(clips),
        config=cropping.CropConfig(shapes=((1, 32, 32),)),
        batch=4,
        seed=0,
    )


def test_a_clip_that_cannot_be_decoded_is_replaced(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clips = [clip_data.clip(index) for index in range(12)]
    clips[5] = dataclasses.replace(clips[5], video=b"damaged")
    first, again = _crops(clips), _crops(clips)
    batches = [first[step]["video"] for step in range(6)]
    for step in reversed(range(6)):
        np.testing.assert_array_equal(again[step]["video"], batches[step])
    assert capsys.readouterr().err.count("clip-5") == 2
    clips[6] = dataclasses.replace(clips[6], video=b"damaged")
    with pytest.raises(records.DatasetError, match="more than 1 cannot be read"):
        [_crops(clips)[step] for step in range(12)]


def test_damage_of_every_clip_ends_the_run() -> None:
    clip = dataclasses.replace(clip_data.clip(0), video=b"damaged")
    with pytest.raises(records.DatasetError, match="in a row"):
        _ = _crops([clip])[0]
    with pytest.raises(media.MediaError):
        media.decode(clip.video, name="clip")
