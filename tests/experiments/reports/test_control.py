"""Control: true clips obey, standing ones do not, and every body counts."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from data_pipelines.worlds import bodies
from experiments.reports import control, scoreboard
from soraflax.generation import paths
from tests.experiments.reports import untrained


@pytest.fixture(scope="module")
def clips() -> list[bodies.RenderedClip]:
    return control.held_out(dataclasses.replace(control.RECIPE, prompts=30))


def _figures(
    videos: Sequence[np.ndarray], clips: Sequence[bodies.RenderedClip]
) -> dict[str, scoreboard.Figure]:
    found = control.figures(videos, clips, decoded=[clip.video for clip in clips])
    assert found[0].name == "bodies that obey"
    return {figure.name: figure for figure in found}


def test_true_clips_obey_and_standing_ones_do_not(
    clips: list[bodies.RenderedClip],
) -> None:
    several = [c for c in clips if len(c.truth["objects"]) > 1]
    assert len(several) > 5 and any(c.truth["pan"] for c in clips)
    true = _figures([clip.video for clip in clips], clips)
    assert all(figure.shown and figure.value > 0.9 for figure in true.values())
    bodies_in_all = sum(len(clip.truth["objects"]) for clip in clips)
    assert true["bodies that obey"].count == bodies_in_all
    still = [np.repeat(clip.video[:1], len(clip.video), axis=0) for clip in clips]
    stood = _figures(still, clips)
    assert not any(figure.shown for figure in stood.values())
    assert stood["bodies that stay still as said"].value == 1.0


def test_a_body_that_is_not_found_again_is_not_obeyed() -> None:
    asked = [
        {"colour": "red", "shape": "circle", "direction": "up"},
        {"colour": "blue", "shape": "square", "direction": "still"},
    ]
    read = {"objects": [{"colour": "blue", "shape": "square", "direction": "left"}]}
    assert control.motions(read, asked) == [None, "left"]
    assert control.motions({}, asked) == [None, None]


def test_a_dragged_body_is_at_the_end_of_its_path_and_one_that_stays_is_not(
    clips: list[bodies.RenderedClip],
) -> None:
    asked = control.drawn(clips)
    assert len(asked) > 3
    dragged = [
        paths.drag(one.clip.video[0], [one.path], frames=len(one.clip.video))
        for one in asked
    ]
    away, kept = control.path_figures(dragged, asked, decoded=dragged)
    assert away.shown and away.value < 0.03 and kept.value > 0.8
    stays = [np.repeat(one.clip.video[:1], 17, axis=0) for one in asked]
    away, kept = control.path_figures(stays, asked)
    assert not away.shown and kept.value > 0.9


def test_the_claim_of_an_untrained_model(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    clips: list[bodies.RenderedClip],
) -> None:
    short = [clip for clip in clips if len(clip.truth["objects"]) == 1][:2]
    monkeypatch.setattr(control, "held_out", lambda _: short)
    command = untrained.Command()
    recipe = dataclasses.replace(
        control.RECIPE, clips=4, prompts=2, solver_steps=2, guidance=1.0
    )
    claim = control.make(tmp_path, config=recipe, run=command)
    assert "--config.loss.mask_rates.first_frame=0.7" in command.seen[0]
    assert claim.flops == untrained.FLOPS and len(claim.figures) == 5
    assert claim.verdict != "shown"
    for name, _ in claim.pictures:
        with Image.open(tmp_path / "control" / name) as picture:
            assert picture.width > 8 * 96
