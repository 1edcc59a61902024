"""Joint training is shown where neither clips nor images lose by it."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from experiments.reports import joint
from soraflax.generation import generator
from tests.generation import tiny


def _rows(both: int, video: int, *, images: int = 170) -> dict:
    def row(right: int) -> joint.Reading:
        own = [1.0] * right + [0.0] * (200 - right)
        return joint.Reading(own, [1.0] * 20 + [0.0] * 80)

    return {
        ("images", "clips"): row(20),
        ("images", "images"): row(150),
        ("video", "clips"): row(video),
        ("video", "images"): row(60),
        ("both", "clips"): row(both),
        ("both", "images"): row(images),
    }


def _claim(rows: dict) -> joint.scoreboard.Claim:
    return joint.to_claim(
        rows, ceilings={"clips": 0.9, "images": 0.8}, training_flops=3.0
    )


def test_both_must_hold_with_an_allowance() -> None:
    assert _claim(_rows(180, 150)).verdict == "shown"
    assert _claim(_rows(120, 150)).verdict == "not shown"
    assert _claim(_rows(180, 150, images=100)).verdict == "not shown"
    claim = _claim(_rows(180, 150))
    assert claim.flops == 3.0 and len(claim.figures) == 8
    assert claim.figures[0].chance == -joint.ALLOWED_LOSS
    by_name = {figure.name: figure for figure in claim.figures}
    clips = by_name["clips of a model of images"]
    assert clips.value == 0.1 and clips.chance == 0.2 and clips.ceiling == 0.9


def test_a_model_is_read_of_clips_and_of_images(tmp_path: pathlib.Path) -> None:
    model = generator.Generator(tiny.model())
    config = joint.JointConfig(
        prompts=2, image_prompts=2, image_samples=2, steps=2, guidance=1.0
    )
    rows = {}
    for kind, frames in (("clips", 17), ("images", 1)):
        found, ceiling = joint.read(model, config=config, images=kind == "images")
        assert 0 <= ceiling <= 1 and len(found.own) == 2
        assert len(found.others) == (4 if kind == "images" else 2)
        assert [len(video) for video in found.shown] == [frames] * 2
        rows["both", kind] = found
    joint.draw(tmp_path / joint.PICTURE, rows)
    with Image.open(tmp_path / joint.PICTURE) as picture:
        assert np.asarray(picture).shape[1] > 7 * 64


@pytest.mark.parametrize("config", [joint.JointConfig(), joint.QUICK])
def test_the_world_holds_what_is_asked_for(config: joint.JointConfig) -> None:
    """Else hours of training would end in a line."""
    for images in (False, True):
        asked = joint.asked(config, images=images)
        assert len({text for text, _ in asked}) == len(asked) > 10


def test_prompts_that_there_are_not_are_refused_before_training(
    tmp_path: pathlib.Path,
) -> None:
    config = joint.JointConfig(image_prompts=48)
    with pytest.raises(ValueError, match="48 prompts: this config holds 18"):
        joint.make(tmp_path, config=config)
    assert not list(tmp_path.iterdir())
