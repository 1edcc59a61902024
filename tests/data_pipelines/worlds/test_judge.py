"""The judge reads back what the renderer drew, and agrees only where it should."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.worlds import bodies, captions, judge, measure

ATTRIBUTES = {
    "colour",
    "shape",
    "size",
    "count",
    "direction",
    "background",
    "framing",
}
SIZES = ((64, 64), (96, 64), (64, 96), (80, 112))


@pytest.mark.parametrize("variant", list(bodies.VARIANTS))
@pytest.mark.parametrize(("blur", "noise"), [(0.0, 0.0), (1.0, 8.0)])
def test_every_visible_attribute_is_read(variant, blur, noise):
    config = dataclasses.replace(bodies.VARIANTS[variant], sizes=SIZES)
    count = 150 if blur == 0 else 60
    result = measure.accuracy(config, seed=17, count=count, blur=blur, noise=noise)
    assert set(result) == ATTRIBUTES | {"milliseconds"}
    moving = {"direction"} if variant == "images" else set()
    for attribute in ATTRIBUTES - moving:
        assert result[attribute]["accuracy"] >= 0.98, (attribute, result)
        assert result[attribute]["visible"] >= 0.35, (attribute, result)


def test_pans_are_read_and_do_not_pass_for_motion():
    config = dataclasses.replace(
        bodies.VARIANTS["demo"], pan=1.0, image_share=0.0, frames=(17,)
    )
    for index in range(20):
        clip = bodies.render_clip(0, index, config=config)
        reading = judge.read(clip.video)
        assert reading["pan"] == clip.truth["pan"]
        if clip.truth["visible"]["direction"]:
            assert reading["direction"] == clip.truth["attributes"]["direction"]


def test_a_reading_is_wrong_about_another_clip():
    config = dataclasses.replace(bodies.VARIANTS["demo"], image_share=0.0)
    readings = [
        judge.read(bodies.render_clip(1, i, config=config).video) for i in range(40)
    ]
    others = [
        bodies.render_clip(2, i, config=config).truth["attributes"] for i in range(40)
    ]
    agreed = [
        judge.agreement(reading, other)
        for reading, other in zip(readings, others, strict=True)
    ]
    for key, most in (("colour", 0.45), ("direction", 0.45), ("background", 0.55)):
        assert np.mean([row[key] for row in agreed]) < most


def test_agreement_compares_what_the_prompt_names():
    reading = captions.attributes(
        [
            {"colour": "red", "shape": "circle", "size": "large", "direction": "up"},
            {"colour": "blue", "shape": "ring", "size": "small", "direction": "left"},
        ],
        background="tan",
        framing="inside",
    )
    named = captions.parse("a small blue ring moves right and a red circle moves up")
    assert judge.agreement(reading, named) == {
        "colour": True,
        "shape": True,
        "size": True,
        "direction": False,
        "count": True,
    }
    assert judge.agreement(reading, {"background": "tan", "framing": "cut"}) == {
        "background": True,
        "framing": False,
    }
    three = captions.parse("three red circles on a tan background")
    assert judge.agreement(reading, three) == {
        "colour": False,
        "shape": False,
        "count": False,
        "background": True,
    }


def test_an_empty_video_shows_nothing():
    video = np.full((5, 32, 32, 3), 118, np.uint8)
    reading = judge.read(video)
    assert reading["count"] == 0 and reading["background"] == "gray"
    named = captions.parse("a large red circle moves right on a gray background")
    agrees = judge.agreement(reading, named)
    assert agrees.pop("background")
    assert not any(agrees.values())


def test_noise_alone_does_not_stop_the_judge():
    video = np.random.default_rng(0).integers(0, 256, (9, 40, 56, 3), np.uint8)
    assert judge.read(video)["count"] >= 0


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 8, 8, 1)])
def test_other_arrays_are_refused(shape):
    with pytest.raises(ValueError, match=r"use uint8 \[T, H, W, 3\]"):
        judge.read(np.zeros(shape, np.uint8))
