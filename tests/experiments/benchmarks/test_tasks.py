"""Measures of tasks on videos whose answers are known; all parts on a tiny model."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.benchmarks.tasks import clips as shared
from experiments.benchmarks.tasks import editing as tasks_editing
from experiments.benchmarks.tasks import extending, keeping, measures, run, sampling
from experiments.reports import editing, openings
from soraflax import media
from soraflax.diffusion import samplers
from soraflax.generation import generator
from soraflax.pretrained import sampling_defaults
from tests.generation import tiny


@pytest.fixture(scope="module")
def bench():
    return shared.Bench(
        generator.Generator(tiny.model()),
        generator.SamplingConfig(steps=2, guidance=1.0),
        count=2,
    )


@pytest.fixture(scope="module")
def clip(bench):
    return bench.clips(1)[0]


def disc(x, y, *, radius=8, size=(48, 64), colour=(200, 30, 30)):
    """A frame with a disc on white."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    frame = np.full((*size, 3), 236, np.uint8)
    frame[np.hypot(rows - y, columns - x) <= radius] = colour
    return frame


def test_a_ratio_is_one_where_a_clip_goes_on_as_before():
    video = np.stack([disc(16 + 2 * k, 24) for k in range(6)])
    own = measures.pace(video[:5])
    assert own > shared.STILL
    ratio = measures.join_ratio(video[4], video[5], own=own)
    assert ratio == pytest.approx(1, abs=0.15)
    assert measures.join_ratio(video[4], disc(56, 24), own=own) > 1.5
    assert measures.join_ratio(video[4], video[4], own=own) == 0
    with pytest.raises(ValueError, match="2 or more"):
        measures.pace(video[:1])


def test_frames_that_stand_and_then_step_have_no_pace():
    moves = [disc(16 + 2 * k, 24) for k in range(9)]
    own = measures.pace(np.stack(moves))
    steps = np.stack([moves[4 * (k // 4)] for k in range(9)])
    seam = keeping.Seam("a", 0, 1, own, slice(None))
    assert seam.inside(np.stack(moves)) == 1 and seam.inside(steps) == 0


def test_pace_is_the_median():
    """One cut in a clip does not make it fast."""
    steps = [np.full((4, 4, 3), level, np.uint8) for level in (0, 3, 6, 200, 203, 206)]
    assert measures.pace(np.stack(steps)) == 3


def test_a_place_is_the_discs_centre_and_diameter():
    found = measures.find_body(disc(20, 30, radius=9))
    assert found is not None
    assert found.centre == pytest.approx((20, 30), abs=0.1)
    assert found.diameter == pytest.approx(18, rel=0.1)
    assert measures.find_body(np.full((48, 64, 3), 236, np.uint8)) is None


def test_a_position_error_counts_in_diameters():
    given = np.stack([disc(20, 24), disc(22, 24)])
    moved = np.stack([disc(28, 24), disc(30, 24)])
    diameter = measures.find_body(given[0]).diameter  # type: ignore[union-attr]
    error = measures.position_error(given, moved)
    assert error == pytest.approx(8 / diameter, rel=0.05)
    assert measures.position_error(given, given) == 0
    empty = np.full(given.shape, 236, np.uint8)
    assert measures.position_error(given, empty) == pytest.approx(80 / diameter)
    with pytest.raises(ValueError, match="no body"):
        measures.position_error(empty, given)


def test_colour_is_no_matter_of_place():
    given, painted = disc(20, 24)[None], disc(20, 24, colour=(40, 90, 235))[None]
    assert measures.position_error(given, painted) < 0.01
    assert 0.3 < measures.similarity(given, painted) < 1
    assert measures.similarity(given, given) == pytest.approx(1)


def test_a_trend_is_of_ranks():
    assert measures.trend([1, 2, 3], [0.1, 0.2, 9]) == pytest.approx(1)
    assert measures.trend([1, 2, 3], [5, 4, -9]) == pytest.approx(-1)
    assert measures.trend([1, 2, 3], [1, 1, 1]) == 0


def test_one_changed_pixel_is_seen():
    video = np.zeros((2, 4, 4, 3), np.uint8)
    other = video.copy()
    other[1, 0, 0, 2] = 1
    kept = keeping.Kept(None, video, np.ones((2, 4, 4), bool))  # type: ignore
    assert kept.share(video) == 1
    assert kept.share(other) == 31 / 32
    assert kept.share(other[:1]) == 0
    kept.mask[1, 0, 0] = False
    assert kept.share(other) == 1


def test_clips_are_new_to_the_model_and_of_all_sizes(bench):
    clips = dataclasses.replace(bench, count=None).clips(4)
    sizes = [c.video.shape[1:3] for c in clips]
    assert sizes == [(64, 64), (64, 96), (96, 64), (64, 64)]
    again = dataclasses.replace(bench, count=1).clips(4)
    assert (again[0].video == clips[0].video).all()
    partners = keeping.partners(clips)
    assert [p is c for p, c in zip(partners, clips, strict=True)] == [
        *(False, True, True, False)
    ]
    assert partners[0] is clips[3]


def test_a_model_is_sampled_as_its_authors_do_unless_told_otherwise(bench):
    def model(defaults):
        whole = tiny.model()
        config = dataclasses.replace(whole.config, sampling=defaults)
        return generator.Generator(dataclasses.replace(whole, config=config))

    own = sampling_defaults.SamplingDefaults("ancestral", 40, 3.0)
    ancestral = samplers.SAMPLERS["ancestral"]
    cases = {
        (): (ancestral, 40, 3.0),
        (("steps", 7),): (ancestral, 7, 3.0),
        (("sampler", "euler"), ("guidance", 1.0)): (samplers.Euler(), 40, 1.0),
    }
    for given, expected in cases.items():
        found = shared.sampling(model(own), **dict(given))
        assert (found.sampler, found.steps, found.guidance) == expected
    silent = shared.sampling(model(None))
    assert (silent.sampler, silent.steps, silent.guidance) == (samplers.Euler(), 20, 2)


def test_an_edit_changes_one_word(clip):
    texts = {}
    for name in tasks_editing.NAMES:
        for turn in range(8):
            edit = tasks_editing.changed(clip, name, turn=turn)
            old, new = shared.caption(clip).split(), edit.text.split()
            differ = [b for a, b in zip(old, new, strict=True) if a != b]
            assert differ == [edit.value]
            texts[edit.text] = name
    assert {*texts.values()} == {*tasks_editing.NAMES}


def point(strength, accuracy, similarity, position=0.2):
    return tasks_editing.Point("colour", strength, accuracy, similarity, position, 8)


def test_a_curve_is_judged_by_trend_and_by_its_best_point():
    good = [point(0.3, 0.1, 0.9), point(0.6, 0.9, 0.7), point(0.9, 1.0, 0.5)]
    assert tasks_editing.summary(good)["ok"]
    assert tasks_editing.summary(good)["strengths that do both"] == [0.6, 0.9]
    lost = [dataclasses.replace(p, position=1.5) for p in good]
    assert not tasks_editing.summary(lost)["ok"]
    assert not tasks_editing.summary(good[::-1][:1] * 3)["ok"]
    falls = [point(p.strength, 1 - p.accuracy, p.similarity) for p in good]
    assert not tasks_editing.summary(falls)["ok"]


def test_learned_attributes_beat_chance():
    scores = {
        "colour": {"accuracy": 0.97, "chance": 0.2},
        "direction": {"accuracy": 0.3, "chance": 0.2},
        "count": {"accuracy": 1.0, "chance": 1.0},
    }
    assert sampling.learned(scores) == ["colour"]


def test_what_is_given_comes_back_and_a_slip_would_show(bench):
    lines = list(keeping.known(dataclasses.replace(bench, count=1)))
    assert [line["task"] for line in lines] == [
        *("animate", "animate to a last frame", "extend forward", "extend backward"),
        *("loop", "connect", "inpaint", "outpaint"),
    ]
    assert all(line["ok"] and line["pixels"] > 0 for line in lines)
    clip = bench.clips(1)[0].video
    case = keeping.keeping(bench, clip)["extend backward"]
    assert case.mask.any(axis=(1, 2)).tolist() == [False] * 5 + [True] * 17
    assert case.share(case.pixels) == 1
    assert case.share(np.roll(case.pixels, 1, axis=0)) < 1


def test_seams_lie_where_given_and_made_frames_meet(bench):
    clips = dataclasses.replace(bench, count=4).clips(4)[::3]
    cases = keeping._joined(bench, clips)
    assert len(cases) == 8
    for case in cases:
        given = case.given
        kept = np.zeros(given.frames, np.uint8)
        kept[: len(given.keep_mask)] = given.keep_mask.all(axis=(1, 2))
        before, after = (
            np.ones(0 if part is None else len(part), np.uint8)
            for part in (given.before, given.after)
        )
        whole = np.concatenate([before, kept[: given.result_frames], after])
        assert len(whole) == given.length
        for seam in case.seams:
            assert whole[seam.before] != whole[seam.after]
            assert seam.own > 0
            made = np.zeros(len(whole), np.uint8)
            made[seam.made] = 1
            np.testing.assert_array_equal(made, 1 - whole)


@pytest.mark.parametrize("part", ["joins", "drift", "image", "packed", "seed"])
def test_parts_say_what_was_asked_and_how_it_went(bench, part, tmp_path):
    bench = dataclasses.replace(bench, pictures=tmp_path / "new")
    lines = list(run.measure(bench, [part]))
    assert lines[-1]["seconds"]["total"] >= 0
    assert lines[:-1]
    for line in lines[:-1]:
        assert line["figure"] == part and isinstance(line["ok"], bool) and line["asked"]
    json.dumps(lines)
    drawn = [path.name for path in tmp_path.glob("new/*")]
    assert drawn == ([extending.PICTURE] if part == "drift" else [])


def test_short_sampling_has_an_order_and_caching_a_time(bench, monkeypatch):
    monkeypatch.setattr(sampling, "REFERENCE", 8)
    monkeypatch.setattr(sampling, "STEPS", (2, 3))
    monkeypatch.setattr(sampling, "FITTED", (2, 3))
    monkeypatch.setattr(sampling, "SETTINGS", sampling.SETTINGS[:1])
    monkeypatch.setattr(tasks_editing, "STRENGTHS", (0.5, 1.0))
    lines = list(run.measure(bench, ["order", "caching", "edit"]))
    orders = [line["order"] for line in lines if line["figure"] == "order"]
    assert len(orders) == 4 and np.isfinite(orders).all()
    (cached,) = [line for line in lines if line["figure"] == "caching"]
    assert cached["speed-up"] > 0
    assert sum(line["figure"] == "edit" for line in lines) == 6


def test_bad_input_is_one_line(capsys, tmp_path):
    for words in (
        ["--checkpoint", str(tmp_path)],
        ["--checkpoint", str(tmp_path), "--count", "0"],
        ["--checkpoint", str(tmp_path), "--refine-strength", "2"],
        ["--checkpoint", str(tmp_path), "--seed", "-1"],
    ):
        try:
            status = run.main(words)
        except SystemExit as stopped:
            status = stopped.code
        assert status == 2
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit) as stopped:
        run.main(["--help"])
    assert stopped.value.code == 0
    assert "in shared rows" in capsys.readouterr().out


def test_a_curve_is_drawn_from_the_benchmarks_lines(tmp_path, capsys):
    lines = tmp_path / "lines.jsonl"
    points = [point(0.3, 0.1, 0.9), point(0.9, 1.0, 0.5)]
    texts = [json.dumps({"figure": "edit", **dataclasses.asdict(p)}) for p in points]
    lines.write_text("\n".join([*texts, json.dumps({"machine": "this"})]))
    assert editing.read(lines) == points
    picture = tmp_path / "new" / "curve.png"
    assert editing.main(["--lines", str(lines), "--output", str(picture)]) == 0
    assert media.read_video(picture).frames.std() > 0
    lines.write_text("{}\n")
    capsys.readouterr()
    assert editing.main(["--lines", str(lines), "--output", str(picture)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def extended_disc(speed, *, later=(214, 39, 40), stop=999):
    """41 frames of a disc that goes right, `speed` pixels a frame, until `stop`."""
    frames = [
        disc(
            14 + speed * min(k, stop),
            24,
            size=(48, 96),
            colour=(214, 39, 40) if k < 25 else later,
        )
        for k in range(41)
    ]
    return np.stack(frames)


def test_drift_is_seen_in_the_piece_where_it_begins():
    videos = [
        extended_disc(1.0),
        extended_disc(1.0, later=(40, 90, 235)),
        extended_disc(1.0, stop=16),
        extended_disc(0.0),
    ]
    found = extending.Extended.of(videos, new=8, fps=8.0)
    assert [len(some) for some in found.pieces] == [5] * 4
    assert found.pieces[0][0].speed == pytest.approx(8 / 48, rel=0.02)
    assert found.kept("shape", 4) == 1
    assert [found.kept("colour", k) for k in (1, 2, 3, 4)] == [1, 1, 0.75, 0.75]
    assert found.kept("colour", 1, lucky=True) == 1
    # Even motion is compared; what stands has no speed to keep.
    assert found.speeds[0] == pytest.approx([1] * 4, rel=0.03)
    assert found.speeds[2] == pytest.approx([1, 0, 0, 0], abs=0.1)
    assert np.isnan(found.speeds[3]).all()
    assert found.speed(1)[1] == 3


def test_a_body_that_arrives_at_the_edge_is_not_asked_to_go_on():
    found = extending.Extended.of([extended_disc(2.0)], new=8, fps=8.0)
    # 9 frames end at 30 of 96 pixels: two more pieces keep its 8 pixels inside.
    assert (~np.isnan(found.speeds[0])).tolist() == [True, True, True, False]


def test_three_openings_share_an_ending(bench, tmp_path):
    found = openings.families(bench.model, bench.sampling, seed=0)
    assert [len(family.videos) for family in found] == [3, 3]
    for family in found:
        figures = family.figures()
        assert figures["shared"] == 1 and figures["different"] > 0
    assert found[0].given.tolist() == [False] * 13 + [True] * 4
    openings.draw(tmp_path / "openings.png", found)
    assert media.read_video(tmp_path / "openings.png").frames.std() > 0
