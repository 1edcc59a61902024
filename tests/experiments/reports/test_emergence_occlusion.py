"""Permanence: true clips are shown, clips that stop or lose the body are not."""

import numpy as np
import pytest

from experiments.reports import emergence_occlusion as report
from experiments.reports import scoreboard, worlds
from soraflax.generation import generator
from tests.generation import tiny


@pytest.fixture(scope="module")
def cases() -> list[report.Occlusion]:
    recipe = worlds.WorldRecipe("bodies", variant="hidden", prompts=60)
    found = [
        report.occlusion(clip, step=4, least=5) for clip in worlds.held_out(recipe)
    ]
    return [case for case in found if case is not None]


def _verdict(videos: list[np.ndarray], cases: list[report.Occlusion]) -> str:
    figures = tuple(report.figures(videos, cases))
    return scoreboard.Claim("x", "", "", figures, machine="").verdict


def test_only_real_occlusions_count(cases: list[report.Occlusion]) -> None:
    assert len(cases) >= 5
    for case in cases:
        seen = np.array(case.clip.truth["objects"][0]["visibility"])
        assert (seen[: case.given] > 0.9).all() and seen[case.given :].min() < 0.15
        assert seen[-1] > 0.9 and case.given % 4 == 1


def test_the_true_motion_is_shown_and_a_stop_is_not(
    cases: list[report.Occlusion],
) -> None:
    real = [case.clip.video for case in cases]
    assert _verdict(real, cases) == "shown"
    by_name = {f.name: f for f in report.figures(real, cases)}
    assert by_name["survives"].value > 0.9 and by_name["identity"].value > 0.8
    assert _verdict([report.frozen(case) for case in cases], cases) == "not shown"


def test_a_lost_body_and_a_second_one_are_counted(
    cases: list[report.Occlusion],
) -> None:
    case = cases[0]
    empty = case.clip.video.copy()
    corner = empty[-1, 1, 1].copy()
    body = case.clip.truth["objects"][0]
    x, y = round(body["x"][-1]), round(body["y"][-1])
    patch = (slice(max(y - 14, 0), y + 14), slice(max(x - 14, 0), x + 14))
    blob = empty[-1][patch].copy()
    empty[-1][patch] = corner
    gone = report.outcome(empty, case)
    assert gone["vanished"] == 1 and gone["survives"] == gone["identity"] == 0
    assert np.isnan(gone["position"])
    twice = case.clip.video.copy()
    top = 2 if y > 32 else 62 - blob.shape[0]
    twice[-1, top : top + blob.shape[0], patch[1]] = blob
    assert report.outcome(twice, case)["several"] == 1


def test_a_model_continues_what_is_given(cases: list[report.Occlusion]) -> None:
    model = generator.Generator(tiny.model())
    recipe = worlds.WorldRecipe("bodies", solver_steps=2, guidance=1.0)
    case = cases[0]
    (video,) = report.continued(model, [case], recipe=recipe)
    assert video.shape == case.clip.video.shape and video.dtype == np.uint8
    assert (video[: case.given] == case.clip.video[: case.given]).all()
    assert (video[case.given :] != case.clip.video[case.given :]).any()
