"""What `room`, `canvas` and `blocks` have in common: clips, captions, judges."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from data_pipelines.worlds import measure

WORLDS = ("room", "canvas", "blocks")
EXTREME = ((112, 48), (48, 80))


@pytest.mark.parametrize("name", WORLDS)
def test_the_judge_reads_what_was_drawn(name: str) -> None:
    world, _ = measure.JUDGES[name]
    result = measure.accuracy(world.VARIANTS["demo"], world=name, seed=17, count=60)
    for attribute, row in result.items():
        if attribute != "milliseconds":
            assert row["accuracy"] >= 0.98, (attribute, result)
            assert row["visible"] >= 0.4, (attribute, result)


@pytest.mark.parametrize("name", WORLDS)
def test_blur_and_noise_and_other_sizes_are_forgiven(name: str) -> None:
    world, _ = measure.JUDGES[name]
    config = dataclasses.replace(world.VARIANTS["full"], sizes=EXTREME, frames=(17,))
    result = measure.accuracy(config, world=name, seed=3, count=16, blur=0.7, noise=5.0)
    for attribute, row in result.items():
        if attribute != "milliseconds" and row["visible"]:
            assert row["accuracy"] >= 0.9, (attribute, result)


@pytest.mark.parametrize("name", WORLDS)
def test_a_reading_is_wrong_about_another_clip(name: str) -> None:
    world, judge = measure.JUDGES[name]
    config = world.VARIANTS["demo"]
    readings = [
        judge.read(world.render_clip(1, i, config=config).video) for i in range(12)
    ]
    others = [
        world.render_clip(2, i, config=config).truth["attributes"] for i in range(12)
    ]
    agreed = [
        all(judge.agreement(reading, other).values())
        for reading, other in zip(readings, others, strict=True)
    ]
    assert np.mean(agreed) < 0.3


@pytest.mark.parametrize("name", WORLDS)
def test_captions_say_what_the_truth_says(name: str) -> None:
    world, _ = measure.JUDGES[name]
    for index in range(12):
        clip = world.render_clip(4, index, config=world.VARIANTS["demo"])
        named = clip.truth["attributes"]
        found = world.parse(clip.captions["detailed"])
        assert found == {k: v for k, v in named.items() if k in found}
        missing = named.keys() - found.keys()
        assert not missing or (name == "room" and clip.truth["frames"] == 1)
        short = world.parse(clip.captions["short"])
        assert (
            short.items() <= found.items() | named.items()
            if name != "room"
            else (short["colours"] == named["colours"])
        )
    with pytest.raises(ValueError, match="try "):
        world.parse("a quiet evening")


@pytest.mark.parametrize("name", WORLDS)
def test_a_clip_is_a_function_of_seed_and_index(name: str) -> None:
    world, _ = measure.JUDGES[name]
    config = world.VARIANTS["demo"]
    third, again = (world.render_clip(7, 3, config=config) for _ in range(2))
    np.testing.assert_array_equal(third.video, again.video)
    assert third.truth == again.truth and third.captions == again.captions
    other = world.render_clip(8, 3, config=config)
    assert other.video.shape != third.video.shape or (
        (other.video != third.video).any()
    )


def _combination(name: str, clip: Any) -> Any:
    world, _ = measure.JUDGES[name]
    named = clip.truth["attributes"]
    if name == "room":
        return any(
            world.is_held_out(
                item["colour"],
                item["shape"],
                floor=named["floor"],
                camera=clip.truth["camera"],
            )
            for item in clip.truth["objects"]
        )
    if name == "blocks":
        return world.is_held_out(
            named["player"], ground=named["background"], direction=named["direction"]
        )
    return world.is_held_out(
        named["action"],
        named["colour"],
        direction=named["direction"],
        sheet=named["background"],
    )


@pytest.mark.parametrize("name", WORLDS)
def test_held_out_combinations_are_never_trained_on(name: str) -> None:
    world, _ = measure.JUDGES[name]
    for holdout in ("exclude", "only"):
        config = dataclasses.replace(world.VARIANTS["demo"], holdout=holdout)
        for index in range(8):
            clip = world.render_clip(11, index, config=config)
            assert _combination(name, clip) == (holdout == "only")


@pytest.mark.parametrize("name", WORLDS)
def test_impossible_configs_are_refused(name: str) -> None:
    world, _ = measure.JUDGES[name]
    config = world.VARIANTS["demo"]
    for wrong, complaint in (
        ({"sizes": ((8, 8),)}, "use sides of 32"),
        ({"frames": ()}, "frames"),
        ({"holdout": "onli"}, "unknown holdout mode 'onli': use 'only'"),
    ):
        with pytest.raises(ValueError, match=complaint):
            dataclasses.replace(config, **wrong)
    with pytest.raises(ValueError, match="use 0 or more"):
        world.render_clip(-1, 0, config=config)
