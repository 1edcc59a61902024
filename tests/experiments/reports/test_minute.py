"""A minute: a clip that stays is shown, one that turns into another is not."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from data_pipelines.worlds import bodies
from experiments.reports import minute, scoreboard
from soraflax.generation import generator
from tests.generation import tiny

CONFIG = minute.MinuteConfig(
    seconds=3,
    fps=4.0,
    clips=1,
    real=1,
    tail=1,
    size=(32, 32),
    steps=2,
    guidance=1.0,
    large=(128, 96),
    large_frames=5,
    large_steps=2,
    tile=(64, 64),
)


def _clip(index: int, **fields: tuple[str, ...]) -> np.ndarray:
    world = dataclasses.replace(
        bodies.VARIANTS["videos"],
        sizes=((64, 64),),
        frames=(24,),
        object_sizes=("large",),
        directions=("still",),
        **fields,
    )
    return bodies.render_clip(3, index, config=world).video


def _drifts(videos: list[np.ndarray]) -> list[minute.Drift]:
    return [minute.follow(iter(video), fps=4.0) for video in videos]


def _figures(drifts: list[minute.Drift]) -> dict[str, scoreboard.Figure]:
    found = minute.figures("x", drifts, ceiling=drifts, others=drifts, tail=2)
    return {figure.name.split()[1]: figure for figure in found}


COLOURS = ("red", "green", "blue", "yellow", "purple")


def test_what_stays_is_shown_and_what_turns_into_another_is_not() -> None:
    shapes = ("circle", "square", "triangle", "circle", "square")
    clips = [
        _clip(i, colours=(colour,), shapes=(shape,))
        for i, (colour, shape) in enumerate(zip(COLOURS, shapes, strict=True))
    ]
    stays = _figures(_drifts(clips))
    assert stays["identity"].shown and stays["identity"].value == 1.0
    assert stays["levels"].value == 0.0 and stays["levels"].shown
    turns = [np.concatenate([clips[i - 1][:12], clips[i][12:]]) for i in range(5)]
    found = _figures(_drifts(turns))
    assert not found["identity"].shown and found["identity"].value == 0.0
    assert found["count"].value == 1.0


def test_a_clip_without_a_body_counts_as_none() -> None:
    body, empty = _clip(0), np.full((24, 64, 64, 3), 20, np.uint8)
    turns = np.concatenate([body[:12], empty[12:]])
    drifts = _drifts([turns, empty])
    assert drifts[1].same(drifts[1])["count"].all()  # nothing stays nothing
    np.testing.assert_array_equal(minute.shares(drifts)["count"], [1, 1, 1, 0, 0, 0])
    assert minute.shares(drifts[1:]) == {}


def test_only_seconds_are_held_and_few_are_refused() -> None:
    held = []

    def frames():
        for index in range(40):
            held.append(index)
            yield np.full((32, 32, 3), 236, np.uint8)

    drift = minute.follow(frames(), fps=4.0)
    assert len(drift.seconds) == len(drift.memory) == 10 and len(drift.shown) == 7
    assert drift.first["count"] == 0
    with pytest.raises(ValueError, match="use more than 2"):
        minute.follow(iter(_clip(0)[:7]), fps=4.0)


def test_a_stream_of_several_clips_is_read_one_by_one() -> None:
    parts = [(0, 1), (1, 10), (0, 2), (1, 20), (1, 30)]
    stream = ((number, np.array(part)) for number, part in parts)
    first, second = minute.parted(stream, 2)
    assert [int(part) for part in first] == [1, 2]
    assert [int(part) for part in second] == [10, 20, 30]


def test_clips_made_together_are_those_made_alone() -> None:
    model = generator.Generator(tiny.model())
    texts = minute.prompts(CONFIG, still=True) + minute.prompts(CONFIG, still=False)
    both = minute.generated(model, texts, seeds=(3, 5), config=CONFIG)
    sampling = generator.SamplingConfig(CONFIG.steps, CONFIG.guidance)
    for text, seed, found in zip(texts, (3, 5), both, strict=True):
        job = model.prompt(text, size=CONFIG.size, frames=13, fps=CONFIG.fps, seed=seed)
        alone = minute.follow(model.frames(job, sampling), fps=CONFIG.fps)
        np.testing.assert_array_equal(found.shown, alone.shown)
        assert found.seconds == alone.seconds


def test_prompts_are_of_bodies_that_stand_or_move() -> None:
    config = dataclasses.replace(CONFIG, clips=4)
    assert all("stays still" in text for text in minute.prompts(config, still=True))
    assert all("moves" in text for text in minute.prompts(config, still=False))


def test_an_untrained_model_is_measured_and_not_shown(tmp_path: pathlib.Path) -> None:
    claim = minute.make(tmp_path, generator.Generator(tiny.model()), config=CONFIG)
    assert claim.verdict != "shown" and len(claim.figures) == 10
    assert "128x96, 5 frames in tiles of 64x64" in claim.notes[2]
    assert "MiB" in claim.notes[1]
    for name, _ in claim.pictures:
        with Image.open(tmp_path / "minute" / name) as picture:
            assert picture.width > 100
    numbers = json.loads((tmp_path / "minute" / "minute.json").read_text())
    assert len(numbers["move"][0]["seconds"]) == 3
    claim.save(tmp_path / "minute")
    assert "NaN" not in (tmp_path / "minute" / scoreboard.CLAIM).read_text()
    again = scoreboard.read(tmp_path / "minute")
    assert again.verdict == claim.verdict
