"""Physics: the protocol's sets, and errors of true, standing and lost bodies."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from data_pipelines.worlds import bodies
from experiments.reports import physics, scoreboard
from soraflax.generation import generator
from tests.generation import tiny

CONFIG = physics.PhysicsConfig()
GIVEN = CONFIG.context


def _clips(test: str, *, count: int = 6) -> list[bodies.RenderedClip]:
    choices = physics.choices_of_tests(CONFIG, 12)[test]
    return [physics.render(7, index, choices=choices) for index in range(count)]


def test_sets_grow_and_new_combinations_have_known_values() -> None:
    ordered, left = physics.combinations(CONFIG)
    assert len(ordered) + len(left) == 6 * 3 * 4 and not set(ordered) & set(left)
    twelve = ordered[:12]
    assert {c.colour for c in twelve} == set(physics.COLOURS)
    assert {c.radius for c in twelve} == set(physics.RADII)
    assert {c.speed for c in twelve} == set(physics.SPEEDS)
    assert physics.choices_of_tests(CONFIG, 12)["in"] == twelve
    with pytest.raises(ValueError, match="60 combinations: use 54 or fewer"):
        physics.combinations(physics.PhysicsConfig(combinations=(60,)))


@pytest.mark.parametrize("test", physics.TESTS)
def test_clips_are_where_their_test_says(test: str) -> None:
    for clip in _clips(test):
        radius, speed = clip.truth["radius"], np.hypot(*clip.truth["velocity"])
        known_radius = physics.RADII[0][0] <= radius <= physics.RADII[-1][1]
        known_speed = physics.SPEEDS[0][0] <= speed <= physics.SPEEDS[-1][1]
        assert known_radius == (test != "out, radius")
        assert known_speed == (test != "out, speed")
        assert clip.truth["framing"] == "inside"
        words = clip.captions["short"].split()
        assert words == ["a", clip.truth["attributes"]["colour"], "circle"]


def _figures(
    videos: list[np.ndarray], clips: list[bodies.RenderedClip]
) -> dict[str, scoreboard.Figure]:
    real = [clip.video for clip in clips]
    found = physics.figures("new", videos, clips=clips, decoded=real, given=GIVEN)
    return {figure.name.partition(": ")[2]: figure for figure in found}


def test_true_motion_is_shown_and_a_stop_is_not() -> None:
    clips = _clips("new")
    true = _figures([clip.video for clip in clips], clips)
    assert all(true[f"{name} error"].shown for name in physics.ERRORS)
    assert true["velocity error"].value < 0.005 and true["lost"].value == 0
    stopped = []
    for clip in clips:
        rest = np.repeat(clip.video[GIVEN - 1 : GIVEN], physics.FRAMES - GIVEN, axis=0)
        stopped.append(np.concatenate([clip.video[:GIVEN], rest]))
    stood = _figures(stopped, clips)
    assert not stood["velocity error"].shown
    assert stood["radius error"].value < 0.005


def test_a_lost_body_is_counted_and_has_no_error() -> None:
    clips = _clips("in", count=4)
    videos = [clip.video.copy() for clip in clips]
    videos[0][10:] = videos[0][0, 0, 0]
    found = _figures(videos, clips)
    assert found["lost"].value == 0.25 and found["velocity error"].count == 3
    nothing = [np.full_like(video, 236) for video in videos]
    assert _figures(nothing, clips)["lost"].value == 1.0


def test_the_claim_of_untrained_models(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = physics.PhysicsConfig(
        combinations=(4, 12), rungs=(1, 4), tests=2, steps=2, clips=4
    )
    saved = tiny.save(tmp_path)
    (saved / "metrics.jsonl").write_text('{"step": 2, "training_flops": 7.0}\n')
    asked = []

    def train(folder: pathlib.Path, count: int, *, rung: int, **_: object):
        asked.append((count, rung))
        return saved

    monkeypatch.setattr(physics, "train", train)
    claim = physics.make(tmp_path, config=config)
    assert asked == [(4, 1), (4, 4), (12, 1), (12, 4)] and claim.flops == 28.0
    assert claim.figures[0].name == "new: velocity error"
    assert claim.verdict != "shown" and len(claim.figures) == 16
    text = (tmp_path / "physics" / "physics.json").read_text()
    assert "NaN" not in text and len(json.loads(text)) == 4 * 16
    for name, _ in claim.pictures:
        with Image.open(tmp_path / "physics" / name) as picture:
            assert picture.width > 9 * 64


def test_a_model_continues_what_is_given() -> None:
    model = generator.Generator(tiny.model())
    clips = _clips("in", count=1)
    config = physics.PhysicsConfig(steps=2)
    (video,) = physics.continued(model, clips, config=config)
    assert (video[:GIVEN] == clips[0].video[:GIVEN]).all()
    assert video.shape == clips[0].video.shape
