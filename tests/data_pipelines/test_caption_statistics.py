"""Statistics of captions against numbers counted by hand."""

import pytest

from data_pipelines import caption_statistics
from data_pipelines.worlds import bodies


def test_lengths_repetition_and_duplicates():
    found = caption_statistics.measure(
        ["", "a red dog", "A red dog.", "dog, red: a", "a b a b a b", "one two three"]
    )
    assert (found["captions"], found["empty"]) == (6, 1)
    assert found["words"] == {
        "mean": 3.0,
        "least": 0,
        "median": 3.0,
        "greatest": 6,
    }
    # Of four runs of three words two are distinct, in one of six captions.
    assert found["repetition"] == pytest.approx(0.5 / 6, abs=1e-4)
    assert found["duplicates"] == pytest.approx(2 / 5)
    assert found["near_duplicates"] == pytest.approx(3 / 5)
    assert found["accuracy"] == {}


def test_accuracy_against_the_ground_truth():
    clips = [
        bodies.render_clip(5, n, config=bodies.VARIANTS["several"]) for n in range(12)
    ]
    truths = [clip.truth for clip in clips]
    right = [clip.captions["detailed"] for clip in clips]
    perfect = caption_statistics.measure(right, truths)["accuracy"]
    assert perfect == dict.fromkeys(caption_statistics.ATTRIBUTES, 1.0)
    lost = caption_statistics.measure(["IMG_1.mp4"] * 12, truths)["accuracy"]
    assert lost == dict.fromkeys(caption_statistics.ATTRIBUTES, 0.0)
    wrong = [text.replace("small", "large") for text in right]
    partly = caption_statistics.measure(wrong, truths)["accuracy"]
    assert partly["size"] < 1 and partly["colour"] == 1


def test_no_captions_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        caption_statistics.measure([])
