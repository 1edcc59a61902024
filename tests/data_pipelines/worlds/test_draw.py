"""Covers have the area of their shapes, and the same picture at every size."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.worlds import draw, palette, scenes


def _cover(shape, radius, angle=0.0, offset=0.0):
    side = int(4 * radius)
    place = np.arange(side, dtype=np.float32) - side / 2 + np.float32(0.5 + offset)
    return draw.shape_cover(
        shape, radius, x=place[None, :], y=place[:, None], angle=np.asarray(angle)
    )


@pytest.mark.parametrize("shape", list(palette.SHAPES))
@pytest.mark.parametrize("angle", [0.0, 0.4, 2.0])
def test_cover_sums_to_the_area_at_any_angle_and_place(shape, angle):
    area = palette.SHAPES[shape].area * 20.0**2
    for offset in (0.0, 0.3):
        total = _cover(shape, 20.0, angle, offset).sum()
        assert total == pytest.approx(area, rel=0.015)


@pytest.mark.parametrize("shape", ["square", "triangle", "star"])
def test_a_turned_polygon_fills_its_box(shape):
    cover = _cover(shape, 20.0, 0.5)
    rows, columns = np.nonzero(cover > 0.02)
    box = np.array(palette.SHAPES[shape].box(0.5)) * 20
    pixels = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    np.testing.assert_allclose(pixels - 40, box, atol=2.5)


def test_a_bar_hides_what_is_behind_it():
    body = scenes.Body(
        colour="red",
        shape="circle",
        size="small",
        direction=None,
        radius=0.1,
        position=(0.5, 0.5),
    )
    scene = scenes.Scene(
        width=64, height=64, frames=2, fps=8.0, background="white", bodies=(body,)
    )
    _, seen = draw.render(scene, scenes.simulate(scene))
    np.testing.assert_allclose(seen, 1.0, atol=0.02)
    for width, share in ((0.25, 0.0), (0.05, 0.69)):
        bar = dataclasses.replace(scene, occluder=scenes.Occluder(0.5, width))
        video, seen = draw.render(bar, scenes.simulate(bar))
        np.testing.assert_allclose(seen, share, atol=0.03)
        np.testing.assert_array_equal(video[0, 32, 32], palette.OCCLUDER)


def test_a_larger_frame_shows_the_same_scene():
    body = scenes.Body(
        colour="blue",
        shape="star",
        size="large",
        direction=None,
        radius=0.2,
        position=(0.6, 0.4),
        angle=0.3,
    )
    scene = scenes.Scene(
        width=64,
        height=48,
        frames=1,
        fps=8.0,
        background="tan",
        bodies=(body,),
        dotted=True,
    )
    large = dataclasses.replace(scene, width=256, height=192)
    one, _ = draw.render(scene, scenes.simulate(scene))
    four, _ = draw.render(large, scenes.simulate(large))
    shrunk = four.reshape(1, 48, 4, 64, 4, 3).mean((2, 4))
    assert np.abs(shrunk - one).mean() < 1.5
