"""Records say what was done, where that is not what was asked."""

import dataclasses

import numpy as np
import pytest

import soraflax
from soraflax.generation import generator as generators
from tests.generation import tiny

FAST = soraflax.SamplingConfig(steps=4, guidance=1.0)


@pytest.fixture(scope="module")
def model():
    return soraflax.Model(generators.Generator(tiny.model()))


@pytest.mark.parametrize(
    ("last", "notes"), [(2, ["stopped after step 2 of 4"]), (4, []), (5, [])]
)
def test_sampling_that_was_stopped_says_so(model, last, notes):
    video = model.generate(
        "a circle",
        size=(16, 16),
        frames=5,
        config=FAST,
        progress=False,
        callback=lambda step: step.done == last,
    )
    assert video.metadata["notes"] == notes


def test_windows_that_were_not_given_are_recorded(model):
    made = {"size": (16, 16), "frames": 5, "progress": False}
    video = model.generate("a circle", config=FAST, **made)
    own = dataclasses.asdict(model.generator.windows)
    said = video.metadata["sampling"]["windows"]
    assert {**said, "kind": ""} == {**own, "kind": ""}
    named = dataclasses.replace(FAST, windows=model.generator.windows)
    again = model.generate("a circle", config=named, **made)
    assert again.metadata == video.metadata
    np.testing.assert_array_equal(again.frames, video.frames)
