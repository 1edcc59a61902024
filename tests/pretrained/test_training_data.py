"""What is kept of the clips of training."""

import dataclasses

import pytest

from soraflax import config as config_lib
from soraflax.pretrained import training_data

CLIPS = [
    training_data.Clip(17, (96, 64), 8.0, ("A small RED circle.", "It moves, 3 times")),
    training_data.Clip(1, (64, 64), 1.0, ("ein grüner Würfel",)),
]


def test_extremes_and_words():
    seen = training_data.measure(CLIPS)
    assert (seen.sides, seen.aspects) == ((64, 96), (1.0, 1.5))
    assert (seen.frames, seen.fps) == ((1, 17), (8.0, 8.0))  # an image has no rate
    words = "a circle ein grüner it moves red small times würfel"
    assert seen.words == tuple(words.split())
    record = config_lib.to_dict(seen)
    assert config_lib.to_dataclass(record, training_data.TrainingData) == seen
    assert training_data.measure(CLIPS, all_seen=False).words == ()


def test_what_joins_letters_is_in_the_word():
    assert training_data.words_of("The dog's T-shirt—2nd 'one'") == [
        "the", "dog's", "t-shirt", "nd", "one",
    ]  # fmt: skip


def test_too_many_words_are_none(monkeypatch):
    monkeypatch.setattr(training_data, "MAX_WORDS", 9)
    assert training_data.measure(CLIPS).words == ()
    assert len(training_data.measure(CLIPS[:1]).words) == 7


def test_merged_holds_both():
    one, two = (training_data.measure([clip]) for clip in CLIPS)
    assert one.merged(two) == two.merged(one) == training_data.measure(CLIPS)
    unknown = dataclasses.replace(two, words=())
    assert one.merged(unknown).words == () == unknown.merged(one).words


def test_impossible_extremes_are_refused():
    with pytest.raises(ValueError, match="sides 64 to 32: need 0 < least <= greatest"):
        training_data.TrainingData((64, 32), (1.0, 1.0), (1, 17), (8.0, 8.0))
