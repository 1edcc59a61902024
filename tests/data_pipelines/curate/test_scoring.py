"""Scores of shots whose content is known, and the limits that reject them."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from data_pipelines.curate import observation, scoring, settings
from soraflax import media
from tests.data_pipelines.curate import raw_files


def observe(frames: np.ndarray, fps: float = 8.0) -> observation.Observation:
    stream = media.FrameStream(
        name="made",
        frames=len(frames),
        height=frames.shape[1],
        width=frames.shape[2],
        fps=fps,
        pixels=iter(frames),
    )
    return observation.observe(stream, settings.ProbeSettings())


def scores(frames: np.ndarray) -> dict[str, Any]:
    return scoring.scores(observe(frames), 0, last=len(frames) - 1)


def test_what_moves_moves_and_what_stands_is_frozen() -> None:
    moving = raw_files.world(0)
    found = scores(moving)
    assert found["motion"] > 0.02 and found["frozen"] == 0
    still = scores(np.repeat(moving[:1], 17, axis=0))
    assert still["motion"] == 0 and still["frozen"] == 1
    stops = moving.copy()
    stops[5:] = stops[5]
    assert scores(stops)["frozen"] == pytest.approx(11 / 16)
    assert (found["seconds"], found["frames"]) == (17 / 8, 17)


def test_speed_is_that_of_the_vectors_where_there_are_some() -> None:
    moving = raw_files.world(0)
    assert scores(moving)["speed"] is None
    moved = np.array([np.nan, 0.5, np.nan, 0.1] + [0.0] * 13, np.float32)
    seen = dataclasses.replace(observe(moving), displacement=moved)
    assert scoring.scores(seen, 0, last=3)["speed"] == pytest.approx(0.3 * 8)
    assert scoring.scores(seen, 4, last=16)["speed"] == 0
    limits = {"speed": settings.Bounds(greatest=1.0)}
    assert scoring.rejection(scores(moving), limits) is None
    broken = scoring.rejection(scoring.scores(seen, 0, last=3), limits)
    assert broken is not None and broken["score"] == "speed"


def test_an_image_is_not_frozen() -> None:
    found = scores(raw_files.world(0)[:1])
    assert found["motion"] is None and found["frozen"] is None
    bounds = settings.CurationSettings().bounds
    assert scoring.rejection(found, bounds) is None


@pytest.mark.parametrize("black", [0, 7, 16])
@pytest.mark.parametrize("axis", [1, 2])
def test_borders_are_measured(axis: int, black: int) -> None:
    frames = raw_files.world(1).swapaxes(1, axis).copy()
    frames[:, :8] = frames[:, -4:] = black
    found = scores(frames.swapaxes(1, axis))
    assert found["borders"] == pytest.approx(12 / 64, abs=0.01)
    assert scores(raw_files.world(1))["borders"] == 0


def test_a_dark_picture_has_no_borders() -> None:
    y, x = np.mgrid[:64, :64]
    glow = 200 * np.exp(-((y - 32) ** 2 + (x - 32) ** 2) / 200)
    frames = np.repeat(glow.astype(np.uint8)[None, ..., None], 3, axis=-1)
    assert scores(frames)["borders"] == 0


def test_sharpness_falls_with_blur_and_brightness_is_the_mean() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (1, 64, 64, 3)).astype(np.uint8)
    blurred = np.stack([noise, np.roll(noise, 1, 1), np.roll(noise, 1, 2)]).mean(0)
    sharp, soft = scores(noise), scores(blurred.astype(np.uint8))
    assert sharp["sharpness"] > 3 * soft["sharpness"]
    assert scores(np.full((1, 64, 64, 3), 100, np.uint8))["brightness"] == 100


def test_text_is_likelier_where_there_is_some() -> None:
    from PIL import Image, ImageDraw, ImageFont

    plain = raw_files.world(2)[0].repeat(4, axis=0).repeat(4, axis=1)
    image = Image.fromarray(plain)
    font = ImageFont.load_default(20)
    text = "SUBSCRIBE NOW www.video"
    for y in (180, 205):
        ImageDraw.Draw(image).text((4, y), text, "black", font=font)
    assert scores(plain[None])["text"] == 0
    assert scores(np.asarray(image)[None])["text"] > 0.02


@pytest.mark.parametrize(
    ("value", "broken"),
    [(0.5, None), (0.1, 0.2), (0.9, 0.8), (float("nan"), 0.2), (0.2, None)],
)
def test_bounds_say_which_side_is_broken(value: float, broken: float | None) -> None:
    assert settings.Bounds(0.2, 0.8).broken(value) == broken


def test_a_rejection_names_score_limit_and_value() -> None:
    bounds = {"a": settings.Bounds(least=1.0), "b": settings.Bounds(greatest=2.0)}
    assert scoring.rejection({"a": 1.0, "b": 2.0}, bounds) is None
    assert scoring.rejection({"a": 1.0, "b": 3.0}, bounds) == {
        "reason": "b is more than the limit",
        "score": "b",
        "threshold": 2.0,
        "value": 3.0,
    }
    missing = scoring.rejection({"a": float("nan"), "b": 0.0}, bounds)
    assert missing is not None and missing["value"] is None
    assert "cannot be measured" in missing["reason"]


def test_bounds_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="least 2 is more than greatest 1"):
        settings.Bounds(2.0, 1.0)
    with pytest.raises(ValueError, match="use a finite number"):
        settings.Bounds(least=float("nan"))
