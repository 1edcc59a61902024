import dataclasses

import numpy as np
import pytest

from data_pipelines import pipeline, transforms, word_swaps
from soraflax.ops import packing
from tests.data_pipelines import clip_data

CAPTIONS = (
    "a red circle moves left",
    "two blue squares",
    "a red square moves right on a black background",
)
WORDS = {"direction": ("left", "right"), "shape": ("circle", "square")}


class Latents(clip_data.Latents):
    """Latents with the captions above, by turns."""

    def __getitem__(self, index):
        record = super().__getitem__(index)
        captions = {"short": CAPTIONS[index % len(CAPTIONS)]}
        return dataclasses.replace(record, captions=captions)


def letters(text, length):
    return np.frombuffer(text.encode()[: length - 1] + b"\0", np.uint8).astype(np.int32)


@pytest.fixture
def swapped(monkeypatch):
    monkeypatch.setattr(pipeline, "embedded_encode", lambda: letters)
    config = pipeline.PackedDataConfig(
        rows=2,
        row=packing.RowShape(tokens=256, text=256, segments=8),
        captions=transforms.CaptionConfig(dropout=1.0, max_length=64),
        windows=1.0,
    )
    return word_swaps.make_swapped_rows(config, WORDS, clips=9, latents=Latents(9))


def texts(batches):
    found = []
    for packed in batches:
        for row in range(len(packed.text)):
            for segment in range(1, packed.text_segments[row].max() + 1):
                ids = packed.text[row][packed.text_segments[row] == segment]
                found.append(bytes(ids.astype(np.uint8)).decode().rstrip("\0"))
    return found


def test_each_kind_of_word_is_replaced_and_nothing_else(swapped):
    assert texts(swapped.rows) == list(CAPTIONS) * 3
    assert texts(swapped.replaced["direction"])[:3] == [
        "a red circle moves right",
        "two blue squares",
        "a red square moves left on a black background",
    ]
    assert texts(swapped.replaced["shape"])[:3] == [
        "a red square moves left",
        "two blue circles",
        "a red circle moves right on a black background",
    ]


def test_rows_of_all_kinds_hold_the_same_clips_at_the_same_places(swapped):
    for others in swapped.replaced.values():
        for a, b in zip(swapped.rows, others, strict=True):
            for name in ("tokens", "segments", "positions", "level_ids"):
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert {len(batch.tokens) for batch in swapped.rows} == {2}


def test_words_take_turns_and_parts_of_words_stay():
    words = ("tan", "gray", "navy")
    assert word_swaps.swap("tan, gray, navy and tangled", words) == (
        "gray, navy, tan and tangled"
    )
