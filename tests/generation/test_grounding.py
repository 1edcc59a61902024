"""Prompts are read word by word, and what is not understood is not read."""

import pytest

from soraflax.generation import grounding

Subject, Reading = grounding.Subject, grounding.Reading


@pytest.mark.parametrize(
    ("text", "subjects", "background"),
    [
        ("red", [Subject(colour="red")], None),
        ("a Red ball.", [Subject(1, colour="red", shape="circle")], None),
        ("something that moves left", [Subject(motion="left")], None),
        ("small thing", [Subject(size="small")], None),
        ("on a white background", [], "white"),
        ("navy background", [], "navy"),
        (
            "two big violet balls over a grey background",
            [Subject(2, "large", "purple", "circle")],
            "gray",
        ),
        (
            "an orange box which is still, a star and three rings moving up",
            [
                Subject(1, colour="orange", shape="square", motion="still"),
                Subject(1, shape="star"),
                Subject(3, shape="ring", motion="up"),
            ],
            None,
        ),
    ],
)
def test_what_a_prompt_asks_for(text, subjects, background):
    reading = grounding.read(text)
    assert reading == Reading(tuple(subjects), background)
    assert grounding.read(grounding.say(reading)) == reading


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "no circle", "a dog", "a red circle without motion"),
        *("a small, red circle", "a red blue circle", "circles", "two circle"),
        *("a circle a square", "two red", "a giant red circle", "a red circle or"),
    ],
)
def test_what_is_not_understood_is_not_read(text):
    assert grounding.read(text) is None


def test_a_longer_prompt_keeps_every_attribute_and_changes_none():
    def keeps(asked, made):
        return grounding.keeps(grounding.read(asked), grounding.read(made))

    long = "a small red ring moves up and a large blue star on a tan background"
    for asked in ("a ring and a star", "red and blue", "tan background", long):
        assert keeps(asked, long)
    for asked in (
        *("a ring", "two rings and a star", "a star and a ring", "red and red"),
        *("a ring moves down and a star", "a ring and a star on a navy background"),
        "a ring and a star moves up",  # of which the longer one says nothing
    ):
        assert not keeps(asked, long)


def test_images_have_no_motion_that_was_not_asked_for():
    asked = grounding.read("a ring and a star moves up")
    made = grounding.read("a red ring moves left and a blue star moves up")
    said = grounding.say(grounding.still(asked, made))
    assert said == "a red ring and a blue star moves up"
