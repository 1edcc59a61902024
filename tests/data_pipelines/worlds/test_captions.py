"""Words name the truth, and are read back."""

import pytest

from data_pipelines.worlds import captions


def test_the_grammar():
    red = {"size": "large", "colour": "red", "shape": "circle", "verb": "right"}
    blue = {"size": "small", "colour": "blue", "shape": "ring", "verb": "still"}
    assert captions.short([red]) == "a large red circle moves right"
    assert captions.short([red, blue]) == (
        "a large red circle moves right and a small blue ring stays still"
    )
    assert captions.short([blue] * 3) == "three small blue rings stay still"
    assert captions.short([red | {"verb": None}]) == "a large red circle"


def test_a_prompt_names_only_what_it_says():
    assert captions.parse("A large red  circle moves right") == {
        "colour": "red",
        "shape": "circle",
        "size": "large",
        "direction": "right",
        "count": 1,
        "objects": [
            {"colour": "red", "shape": "circle", "size": "large", "direction": "right"}
        ],
    }
    assert captions.parse("an orange star on a white background") == {
        "colour": "orange",
        "shape": "star",
        "count": 1,
        "background": "white",
        "objects": [{"colour": "orange", "shape": "star"}],
    }
    two = captions.parse("two small green squares move up and a red ring stays still")
    assert two["count"] == 3
    assert [o.get("direction") for o in two["objects"]] == ["up", "up", "still"]


def test_events_occluders_and_pans_are_told():
    truth = {
        "objects": [
            {"size": "large", "colour": "red", "shape": "circle", "verb": "bounces"},
            {"size": "small", "colour": "blue", "shape": "ring", "verb": "left"},
        ],
        "dotted": True,
        "background": "navy",
        "framing": "cut",
        "occluder": {"x": 3, "width": 4},
        "pan": "left",
        "events": [
            {"body": 0, "against": "floor", "times": 2},
            {"body": 0, "against": "1", "times": 1},
        ],
    }
    assert captions.detailed(truth) == (
        "a large red circle bounces and a small blue ring moves left on a dotted navy "
        "background. the red circle bounces off the floor twice. the red circle "
        "bounces off the blue ring. part of the scene is out of frame. a brown bar "
        "stands in front. the camera pans left"
    )


def test_a_text_of_another_world_is_refused():
    with pytest.raises(ValueError, match="no body named in 'a dog runs'"):
        captions.parse("a dog runs")
