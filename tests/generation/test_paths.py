"""Drawn paths: the body under the start, and nothing else, goes along."""

import numpy as np
import pytest

from soraflax.generation import paths, tasks
from soraflax.ops import grid as grids

GRID = grids.Grid(4, 8, patch=(1, 2, 2))
RED, BLUE, GROUND = (214, 39, 40), (40, 90, 235), (236, 236, 234)


def picture() -> np.ndarray:
    """A red square and a blue one on a plain ground."""
    frame = np.full((64, 64, 3), GROUND, np.uint8)
    frame[10:20, 8:18] = RED
    frame[40:50, 40:50] = BLUE
    return frame


def centre(frame: np.ndarray, colour: tuple[int, int, int]) -> tuple[float, float]:
    rows, columns = np.nonzero((frame == colour).all(-1))
    assert len(rows) == 100
    return float(columns.mean()), float(rows.mean())


def test_a_path_is_read() -> None:
    assert paths.parse("1,2:3.5,4:5,6") == ((1.0, 2.0), (3.5, 4.0), (5.0, 6.0))
    for text in (
        "",
        "1,2",
        "1,2:3",
        "1,2:a,b",
        "1,2,3:4,5,6",
        "1,2:nan,3",
        "inf,2:3,4",
    ):
        with pytest.raises(ValueError, match="give two points or more"):
            paths.parse(text)


def test_paths_are_read_as_they_are_typed_or_as_points() -> None:
    typed = "1,2:3,4  5,6:7,8:9,10"
    points = (((1.0, 2.0), (3.0, 4.0)), ((5.0, 6.0), (7.0, 8.0), (9.0, 10.0)))
    assert paths.read(typed) == points == paths.read(points)
    assert paths.read([np.array([[1, 2], [3, 4]])]) == points[:1]
    assert paths.read("") == paths.read(()) == ()
    wrong = ([[(1, 2)]], [[(1, 2), (3, np.nan)]], [[(1, 2), (3,)]], [1, 2], ["1,2:3,4"])
    for given in wrong:
        with pytest.raises(ValueError, match="give two points or more") as error:
            paths.read(given)
        assert "\n" not in str(error.value)


def test_the_body_is_what_is_connected_and_alike() -> None:
    body = paths.find_body(picture(), (12.0, 15.0))
    assert body.sum() == 100 and body[10:20, 8:18].all()
    with pytest.raises(ValueError, match=r"outside of 64x64: use 63,15"):
        paths.find_body(picture(), (64.0, 15.0))
    with pytest.raises(ValueError, match="begin it on a body"):
        paths.find_body(picture(), (30.0, 30.0))


def test_bodies_go_along_their_paths_at_even_speed() -> None:
    right, corner = ((12, 15), (32, 15)), ((45, 45), (45, 25), (55, 25))
    video = paths.drag(picture(), [right, corner], frames=5)
    assert (video[0] == picture()).all()
    red = [centre(frame, RED) for frame in video]
    np.testing.assert_allclose(np.diff(red, axis=0), [[5, 0]] * 4)
    blue = np.array([centre(frame, BLUE) for frame in video])
    np.testing.assert_allclose(
        blue - blue[0], [[0, 0], [0, -8], [0, -15], [2, -20], [10, -20]], atol=1
    )
    # Where they were there is ground.
    assert (video[-1, 10:20, 8:18] == GROUND).all()
    off = paths.drag(picture(), [((12, 15), (-40, 15))], frames=3)
    assert not (off[-1] == RED).all(-1).any()


def test_an_image_is_given_and_the_rest_starts_from_the_dragged_clip() -> None:
    still = tasks.animate(GRID, picture(), frames=17, fps=8.0)
    moving = paths.along(still, [((12, 15), (32, 15))], strength=0.5)
    assert moving.strength == 0.5 and moving.frames == 17
    assert moving.keep_mask[0].all() and not moving.keep_mask[1:].any()
    assert (moving.video[0] == picture()).all()
    both = tasks.animate(GRID, picture(), frames=17, fps=8.0, last=picture())
    with pytest.raises(ValueError, match="leave the last one out"):
        paths.along(both, [((12, 15), (32, 15))])
