"""What training will not see of captions is counted, and said."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from data_pipelines import caption_notes, transforms
from tests.data_pipelines import clip_data


class Captioned(clip_data.Latents):
    """Latents with given captions."""

    def __init__(self, *captions: dict[str, str]) -> None:
        super().__init__(len(captions))
        self.captions = captions

    def __getitem__(self, index: int) -> Any:
        return dataclasses.replace(
            super().__getitem__(index), captions=self.captions[index]
        )


def _notes(*captions: dict[str, str], **config: Any) -> list[str]:
    return caption_notes.caption_notes(
        [Captioned(*captions)],
        transforms.CaptionConfig(**config),
        encode=clip_data.encode_text,
    )


def test_captions_that_fit_need_no_words() -> None:
    assert _notes({"a": "x" * 7}, {}, max_length=8) == []


def test_captions_that_are_cut_are_counted() -> None:
    (note,) = _notes({"a": "x" * 8, "b": "x"}, {"a": "x" * 20}, max_length=8)
    assert note == (
        "captions: 2 of 3 captions of 2 clips are longer than 8 tokens "
        "(data.captions.max_length): their ends are not read; the longest has 21"
    )
    assert _notes({"a": "x" * 8, "b": "x"}, names=("b",), max_length=8) == []


def test_captions_that_are_cleaned_are_counted() -> None:
    (note,) = _notes({"a": "smile \ud83d"}, {"a": "x"})
    assert note.startswith("captions: 1 of 2 captions of 2 clips hold controls")


def test_of_many_clips_some_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_notes, "MAX_CLIPS", 3)
    (note,) = _notes(*({"a": "x" * 9} for _ in range(10)), max_length=8)
    assert "3 of 3 captions of 3 clips (of 10, looked at evenly)" in note


def test_training_reads_captions_as_prompts() -> None:
    rng = np.random.default_rng(0)
    config = transforms.CaptionConfig(dropout=0.0)
    captions = {"a": "smile \ud83d\x07 \u202eleft"}
    text = transforms.choose_caption(captions, config, rng=rng)
    assert text == "smile \ufffd left"
