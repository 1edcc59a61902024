"""The report counts what a caption says rightly, and what it says instead."""

import pytest

from data_pipelines.worlds import bodies
from experiments.reports import captions


@pytest.fixture(scope="module")
def clips():
    world = bodies.VARIANTS["several"]
    return [bodies.render_clip(7, n, config=world) for n in range(10)]


def test_the_worlds_own_captions_are_right(clips):
    found = captions.measure([c.captions["detailed"] for c in clips], clips)
    assert {*found["accuracy"].values()} == {1.0}
    assert found["exact"] == 1.0 and found["unreadable"] == 0.0
    for table in found["confusion"].values():
        for truth, said in table.items():
            assert {*said} == {truth}
    bodies_seen = sum(clip.truth["attributes"]["count"] for clip in clips)
    shapes = found["confusion"]["shape"]
    assert sum(sum(row.values()) for row in shapes.values()) == bodies_seen


def test_what_is_said_wrongly_stands_in_the_table(clips):
    said = [c.captions["detailed"].replace("circle", "square") for c in clips]
    found = captions.measure(said, clips)
    circles = found["confusion"]["shape"]["circle"]
    assert {*circles} == {"square"}
    assert found["accuracy"]["shape"] < 1 and found["accuracy"]["colour"] == 1
    nothing = captions.measure(["IMG_1"] * len(clips), clips)
    assert nothing["unreadable"] == 1.0
    assert {*nothing["accuracy"].values()} == {0.0}
    assert {*nothing["confusion"]["size"]["small"]} == {captions.NOTHING}
