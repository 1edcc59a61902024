"""The sweep over sizes: agreements, the worst size decides, end to end when tiny."""

import pathlib

import numpy as np
from PIL import Image

from data_pipelines.worlds import bodies
from experiments.reports import sizes
from soraflax.generation import generator
from soraflax.pretrained import training_data
from tests.generation import tiny


def test_real_renders_agree_with_their_own_words_alone() -> None:
    clips = [
        bodies.render_clip(3, index, config=bodies.VARIANTS["videos"])
        for index in range(8)
    ]
    own, others = sizes.agreements(
        [clip.video for clip in clips], [clip.truth["attributes"] for clip in clips]
    )
    assert np.mean(own) > 0.95 > 0.7 > np.mean(others)


def test_inside_is_within_sides_and_aspects() -> None:
    known = training_data.TrainingData((64, 96), (2 / 3, 1.5), (1, 17), (8.0, 8.0))
    assert sizes.is_inside((96, 64), known) and sizes.is_inside((64, 64), known)
    assert not sizes.is_inside((48, 48), known)
    assert not sizes.is_inside((128, 64), known)
    assert not sizes.is_inside((64, 64), None)


def test_an_untrained_model_is_measured_and_not_shown(tmp_path: pathlib.Path) -> None:
    model = generator.Generator(tiny.model())
    config = sizes.SizesConfig(
        sizes=((48, 32), (32, 32)), prompts=2, steps=2, guidance=1.0, frames=9
    )
    claim = sizes.make(tmp_path, model, config=config)
    assert claim.verdict == "not shown" and len(claim.figures) == 2
    assert claim.figures[0].value == min(figure.value for figure in claim.figures)
    for figure in claim.figures:
        assert figure.ceiling is not None and figure.chance is not None
    with Image.open(tmp_path / "sizes" / "sizes.png") as picture:
        assert picture.width > 6 * 48
