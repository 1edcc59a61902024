"""The demo, shrunk: every stage runs, and the report holds what it promises."""

import copy
import dataclasses
import json

import numpy as np
import pytest

from experiments import demo
from experiments.plots import figures
from experiments.reports import obedience, scoring
from soraflax import media
from soraflax.generation import generator

SMALL = demo.DemoConfig(
    clips=10, held_out_clips=2, videos=3, images=2, steps=2, size="tiny"
)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    output = tmp_path_factory.mktemp("demo") / "out"
    demo.start_afresh(output)
    demo.make_demo(output, SMALL)
    return output, json.loads((output / "report.json").read_text())


def test_the_report_holds_what_it_promises(report):
    _, values = report
    assert 0 < values["packing_efficiency"] <= 1
    assert values["autoencoder_psnr_db"] > 0
    assert set(values["judge"]["colour"]) == {"accuracy", "chance", "ceiling", "count"}
    assert {"background", "direction", "shape", "size"} <= set(values["judge"])
    assert "direction" not in values["judge_images"]
    assert values["seconds"]["total"] >= max(
        v for k, v in values["seconds"].items() if k != "total"
    )


def test_videos_are_of_the_sizes_that_were_asked(report):
    output, values = report
    assert len(values["videos"]) == 5
    clips = [media.read_video(v["path"]).frames for v in values["videos"]]
    assert {c.shape[1:3] for c in clips} == {(64, 64), (64, 96), (96, 64)}
    assert [len(c) for c in clips] == [17, 17, 17, 1, 1]
    for name in ("contact_sheet.png", "loss_curves.png", "caption_gap.png"):
        assert media.read_video(output / name).frames.std() > 0


def test_obedience_is_read_over_seeds(report, tmp_path):
    model = generator.Generator.load(report[0] / "video")
    scores = obedience.measure(model, config=SMALL, seeds=2, output=tmp_path)
    assert set(scores) == {"judge", "judge_images"}
    colour = scores["judge"]["colour"]
    assert set(colour) == {"accuracy", "least", "chance", "ceiling"}
    assert colour["least"] <= colour["accuracy"]
    for seed in ("seed0", "seed1"):
        assert (tmp_path / seed / demo.SHEET).is_file()


def test_obedience_of_several_bodies_has_a_line_of_each(report, tmp_path):
    model = generator.Generator.load(report[0] / "video")
    scores = obedience.measure(
        model, config=SMALL, seeds=1, output=tmp_path, variant="directed"
    )
    assert set(scores) == {"judge", "judge_bodies", "judge_images"}
    assert {"colour", "shape", "size", "direction"} == set(scores["judge_bodies"])


def test_one_wrong_body_of_two_is_half_of_the_bodies_and_all_of_the_clip():
    world = dataclasses.replace(
        demo.bodies.VARIANTS["several"], counts=(0.0, 1.0), twins=0.0
    )
    clips = demo.real_renders(world, 4, frames=17)
    videos = [clip.video for clip in clips]
    right = [{"objects": clip.truth["attributes"]["objects"]} for clip in clips]
    colour = scoring.by_body(videos, right)["colour"]
    assert (colour["accuracy"], colour["count"]) == (1, 8)
    assert colour["chance"] < 0.6
    wrong = copy.deepcopy(right)
    for item in wrong:
        item["objects"][0]["colour"] = "pink"
    assert scoring.by_body(videos, wrong)["colour"]["accuracy"] == 0.5
    assert scoring.accuracy(videos, wrong)["colour"]["accuracy"] == 0


def test_only_a_demo_is_replaced(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="something else"):
        demo.start_afresh(tmp_path)
    assert (tmp_path / "mine.txt").exists()


def test_accuracy_of_real_renders_is_high_and_chance_is_not():
    world = demo.bodies.VARIANTS["demo"]
    clips = demo.real_renders(world, 12, frames=17)
    scores = scoring.accuracy(
        [c.video for c in clips], [c.truth["attributes"] for c in clips]
    )
    assert scores["colour"]["accuracy"] == 1.0
    assert scores["colour"]["chance"] < 0.6


def test_a_contact_sheet_holds_every_video(tmp_path):
    videos = [np.full((t, 16, 24, 3), 200, np.uint8) for t in (5, 1)]
    figures.contact_sheet(tmp_path / "sheet.png", videos, labels=["five", "one"])
    sheet = media.read_video(tmp_path / "sheet.png").frames[0]
    assert (sheet == 200).all(axis=-1).sum() == (5 + 1) * 32 * 48
