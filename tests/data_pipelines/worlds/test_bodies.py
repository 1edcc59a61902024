"""Clips are functions of (seed, index, config); their truth is the geometry's."""

import collections
import dataclasses
import itertools
import json

import numpy as np
import pytest

from data_pipelines.worlds import bodies, captions, palette

VARIANTS = list(bodies.VARIANTS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_clip_depends_on_nothing_but_its_seed_and_index(variant):
    config = bodies.VARIANTS[variant]
    forward = [bodies.render_clip(3, index, config=config) for index in range(4)]
    backward = [
        bodies.render_clip(3, index, config=config) for index in reversed(range(4))
    ]
    for one, other in zip(forward, reversed(backward), strict=True):
        np.testing.assert_array_equal(one.video, other.video)
        assert one.captions == other.captions and one.truth == other.truth
    videos = {clip.video.tobytes() for clip in forward}
    videos |= {
        bodies.render_clip(4, index, config=config).video.tobytes()
        for index in range(4)
    }
    assert len(videos) == 8


@pytest.mark.parametrize("size", [(16, 16), (200, 48), (33, 91)])
@pytest.mark.parametrize(("frames", "fps"), [(1, 8.0), (2, 5.0), (40, 30.0)])
def test_any_size_duration_and_rate(size, frames, fps):
    config = dataclasses.replace(
        bodies.VARIANTS["full"], sizes=(size,), frames=(frames,), fps=(fps,)
    )
    clip = bodies.render_clip(0, 1, config=dataclasses.replace(config, image_share=0.0))
    assert clip.video.shape == (frames, size[1], size[0], 3)
    assert clip.video.dtype == np.uint8 and clip.fps == fps
    assert all(len(item["x"]) == frames for item in clip.truth["objects"])
    image = bodies.render_clip(
        0, 1, config=dataclasses.replace(config, image_share=1.0)
    )
    assert image.video.shape[0] == 1
    assert "direction" not in image.truth["attributes"]


def test_truth_is_json_and_says_what_the_caption_says():
    for index in range(30):
        clip = bodies.render_clip(1, index, config=bodies.VARIANTS["full"])
        assert json.loads(json.dumps(clip.truth)) == clip.truth
        named = captions.parse(clip.captions["detailed"])
        truth = clip.truth["attributes"]
        assert named["background"] == truth["background"]
        assert sorted(map(str, named["objects"])) == sorted(map(str, truth["objects"]))
        assert clip.captions["detailed"].startswith(clip.captions["short"])


def test_demo_bodies_move_plainly_inside_the_frame():
    for index in range(60):
        truth = bodies.render_clip(2, index, config=bodies.VARIANTS["demo"]).truth
        assert truth["framing"] == "inside" and not truth["events"]
        if truth["frames"] == 1:
            continue
        for item in truth["objects"]:
            assert item["direction"] in palette.DIRECTIONS
            moved = np.hypot(item["x"][-1] - item["x"][0], item["y"][-1] - item["y"][0])
            if item["direction"] != "still" and truth["pan"] is None:
                assert moved >= 6


def test_positions_and_sizes_are_those_of_the_pixels():
    config = dataclasses.replace(
        bodies.VARIANTS["demo"], counts=(1.0,), occluder=0.0, pan=0.0
    )
    for index in range(10):
        clip = bodies.render_clip(6, index, config=config)
        item = clip.truth["objects"][0]
        assert min(item["visibility"]) > 0.97
        first = clip.video[0].astype(int)
        different = np.abs(first - first[0, 0]).sum(-1) > 30
        rows, columns = np.nonzero(different)
        assert abs(np.ptp(columns) + 1 - item["width"][0]) <= 2
        assert abs(np.ptp(rows) + 1 - item["height"][0]) <= 2
        if item["shape"] != "triangle":
            assert abs(columns.mean() + 0.5 - item["x"][0]) < 0.6
            assert abs(rows.mean() + 0.5 - item["y"][0]) < 0.6


@pytest.mark.parametrize("holdout", ["exclude", "only"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_held_out_combinations_are_kept_apart(holdout, variant):
    config = dataclasses.replace(bodies.VARIANTS[variant], holdout=holdout)
    for index in range(12):
        truth = bodies.render_clip(0, index, config=config).truth
        held = [
            bodies.is_held_out(
                o["colour"],
                o["shape"],
                direction=o["direction"],
                background=truth["background"],
            )
            for o in truth["objects"]
        ]
        assert any(held) == (holdout == "only")


def test_a_tenth_of_the_combinations_is_held_out():
    names = (palette.COLOURS, palette.SHAPES, palette.DIRECTIONS, palette.BACKGROUNDS)
    held = [
        bodies.is_held_out(colour, shape, direction=direction, background=background)
        for colour, shape, direction, background in itertools.product(*names)
    ]
    assert 0.07 < np.mean(held) < 0.13


def test_demo_draws_its_attributes_evenly():
    config = dataclasses.replace(bodies.VARIANTS["demo"], sizes=((32, 32),))
    seen = [
        bodies.render_clip(9, i, config=config).truth["attributes"] for i in range(400)
    ]

    def most(name):
        """Share of the commonest value among the clips that have the attribute."""
        counts = collections.Counter(s[name] for s in seen if name in s)
        return max(counts.values()) / counts.total()

    assert most("colour") < 1.5 / 6 and most("background") < 1.4 / 4
    assert most("direction") < 1.5 / 5 and most("size") < 0.62


def test_prompts_are_new_different_and_say_what_they_expect():
    config = dataclasses.replace(bodies.VARIANTS["demo"], holdout="only")
    found = bodies.prompts(0, 64, config=config)
    assert found == bodies.prompts(0, 64, config=config)
    assert len({text for text, _ in found}) == 64
    for text, expected in found:
        assert captions.parse(text) == expected
        assert any(
            bodies.is_held_out(
                o["colour"],
                o["shape"],
                direction=o["direction"],
                background=expected["background"],
            )
            for o in expected["objects"]
        )
    for text, expected in bodies.prompts(0, 8, config=config, images=True):
        assert "moves" not in text and "direction" not in expected
    with pytest.raises(ValueError, match=r"prompts: this config holds \d+ different"):
        bodies.prompts(0, 800, config=dataclasses.replace(config, counts=(1.0,)))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("colours", ("red", "gren"), "unknown colour 'gren': use 'green'"),
        ("shapes", ("sqare",), "unknown shape 'sqare': use 'square'"),
        ("backgrounds", (), "no background given: use some of black, "),
        ("holdout", "excluded", "unknown holdout mode 'excluded': use 'exclude'"),
        ("sizes", ((64, 8),), "use sides of 16 pixels or more"),
        ("frames", (0,), "use 1 or more"),
        ("fps", (0.0,), "use rates above 0"),
        ("counts", (1, 1, 1, 1), "give the probabilities of 1, 2 and 3 bodies"),
        ("pan", 1.5, r"pan 1.5: use a probability, 0 to 1"),
    ],
)
def test_bad_configs_are_refused_with_the_nearest_legal_value(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(bodies.WorldConfig(), **{field: value})


def test_bad_seeds_and_hopeless_configs_are_refused():
    with pytest.raises(ValueError, match="use 0 or more"):
        bodies.render_clip(-1, 0, config=bodies.WorldConfig())
    alone = bodies.WorldConfig(
        colours=("red",),
        shapes=("circle",),
        backgrounds=("black",),
        directions=("right",),
        counts=(1.0,),
        gravity=0.0,
        bounce=0.0,
        leave=0.0,
        image_share=0.0,
        separate=True,
    )
    held = bodies.is_held_out("red", "circle", direction="right", background="black")
    impossible = dataclasses.replace(alone, holdout="exclude" if held else "only")
    with pytest.raises(ValueError, match="no clip fits this config"):
        bodies.render_clip(0, 0, config=impossible)
