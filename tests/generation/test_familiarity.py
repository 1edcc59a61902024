"""What is far from training is said, once and in a line, and nothing else is."""

import dataclasses
import warnings

import pytest

import soraflax
from soraflax.generation import conditioning, familiarity, generator, tasks, windows
from soraflax.pretrained import training_data
from tests.generation import tiny

SEEN = training_data.TrainingData(
    sides=(64, 96),
    aspects=(64 / 96, 96 / 64),
    frames=(1, 17),
    fps=(8.0, 8.0),
    words=(
        *("a", "blue", "circle", "large", "left"),
        *("moves", "red", "right", "small", "square"),
    ),
)
PLAIN = soraflax.SamplingConfig(steps=1, guidance=1.0)


def trained_on(seen):
    model = tiny.model()
    config = dataclasses.replace(model.config, trained_on=seen)
    return generator.Generator(dataclasses.replace(model, config=config))


MODEL = trained_on(SEEN)


def notes(
    text="a red circle", *, size=(64, 64), frames=17, fps=8.0, model=MODEL, **how
):
    given = tasks.generate(model.grid, size=size, frames=frames, fps=fps)
    config = dataclasses.replace(PLAIN, **how)
    job = conditioning.Job(given, text)
    return familiarity.notes(job, model.model.config, sampling_config=config)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"text": ""},
        {"text": "A small RED circle, moves 3 right!"},
        {"size": (128, 96)},
        {"size": (48, 64)},
        {"frames": 65},
        {"frames": 1, "fps": 1.0},
        {"fps": 12.0},
        {"size": (512, 512), "windows": windows.WindowConfig(tile=(96, 64))},
    ],
)
def test_what_is_near_needs_no_note(how):
    assert notes(**how) == ()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (
            {"text": "a dog runs on the beach"},
            "the words 'dog', 'runs', 'on', 'the', 'beach' were never seen in "
            "training; known are 10 words, such as 'moves', 'right', 'small', "
            "'circle', 'square'",
        ),
        (
            {"text": "a red sqare and cirlces"},
            "the words 'sqare', 'and', 'cirlces' were never seen in training; nearest "
            "known: 'square', 'circle'",
        ),
        (
            {"text": "a dog"},
            "the word 'dog' was never seen in training; known are",
        ),
        (
            {"text": "eins zwei drei vier funf sechs sechs sieben"},
            "'eins', 'zwei', 'drei', 'vier', 'funf' and 2 more were never seen",
        ),
        (
            {"size": (512, 512)},
            "512x512 pixels are far from training, whose sides had 64 to 96",
        ),
        ({"size": (32, 64)}, "32x64 pixels are far from training"),
        (
            {"size": (144, 48)},
            "an aspect ratio of 3 is far from training, which had 0.667 to 1.5",
        ),
        (
            {"frames": 77},
            "77 frames are 5 times the longest clip of training, 17: made window",
        ),
        ({"fps": 30.0}, "30 frames per second are far from training, which had 8"),
        (
            {"size": (512, 512), "windows": windows.WindowConfig(tile=(32, 32))},
            "32x32 pixels are far from training",
        ),
    ],
)
def test_what_is_far_is_said_in_a_line(how, says):
    (note,) = notes(**how)
    assert says in note and "\n" not in note


def test_models_that_do_not_say_give_no_note():
    old = trained_on(None)
    assert old.model.config == tiny.model().config
    assert notes("a dog", size=(512, 512), fps=60.0, model=old) == ()
    wordless = trained_on(dataclasses.replace(SEEN, words=(), frames=(17, 17)))
    assert notes("a dog", model=wordless) == ()
    (note,) = notes("a dog", frames=1, model=wordless)
    assert note == "training had no images, which are clips of one frame"


def test_in_python_it_is_a_warning_and_a_field():
    model = soraflax.Model(MODEL)
    quick = {"size": (64, 64), "frames": 5, "config": PLAIN, "progress": False}
    with pytest.warns(familiarity.UnfamiliarWarning, match="word 'dog'"):
        video = model.generate("a dog", **quick)
    (note,) = video.metadata["notes"]
    assert note.startswith("the word 'dog' was never seen")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.generate("a red circle", **quick).metadata["notes"] == []
