"""Videos extended backward, piece by piece."""

import itertools

import numpy as np
import pytest

from soraflax.generation import canvas as canvases
from soraflax.generation import filling, generator, prepending, tasks
from tests.generation import tiny

GRID = canvases.Grid(temporal_ratio=4, spatial_ratio=8, channels=4, patch=(1, 2, 2))
PAIRS = canvases.Grid(temporal_ratio=4, spatial_ratio=8, channels=4, patch=(2, 1, 1))


@pytest.mark.parametrize(
    ("frames", "found"), [(1, [1]), (9, [9]), (10, [9, 1]), (23, [9, 9, 5])]
)
def test_pieces_are_as_long_as_they_can_be(frames, found):
    assert prepending.pieces(GRID, frames, most=9) == found


@pytest.mark.parametrize(
    ("frames", "near"), [(2, "1 or 5"), (8, "5 or 9"), (11, "10 or 14")]
)
def test_other_numbers_name_the_nearest(frames, near):
    with pytest.raises(ValueError, match=f"^{frames} new frames: use {near}$"):
        prepending.pieces(GRID, frames, most=9)


@pytest.mark.parametrize(("grid", "most"), [(GRID, 1), (GRID, 9), (PAIRS, 13)])
def test_the_nearest_number_is_the_nearest(grid, most):
    sums = {
        full * most + rest
        for full in range(60)
        for rest in range(grid.frames(grid.patch[0]), most + 1, grid.group)
    }
    for frames in np.arange(0.25, 40, 0.25):
        found = prepending.nearest(grid, frames, most=most)
        assert found in sums
        assert abs(found - frames) == min(abs(each - frames) for each in sums)
        pieces = prepending.pieces(grid, found, most=most)
        assert sum(pieces) == found and max(pieces) <= most


@pytest.fixture(scope="module")
def model():
    return generator.Generator(tiny.model())


def before(model, video, *, sizes, seed=0, text=""):
    given = tasks.generate(model.grid, size=(32, 16), frames=1, fps=8.0)
    job = generator.Job(given, text=text, seed=seed)
    config = generator.SamplingConfig(steps=1)
    return prepending.prepend(
        model, job, video=video, sizes=sizes, context=8, config=config
    )


def test_the_video_stays_and_every_piece_is_another(model):
    video = np.random.default_rng(0).integers(0, 256, (6, 16, 32, 3)).astype(np.uint8)
    whole = before(model, video, sizes=[5, 5, 1])
    assert whole.shape == (17, 16, 32, 3)
    np.testing.assert_array_equal(whole[-6:], video)
    pieces = [whole[1:6], whole[6:11]]
    assert (pieces[0] != pieces[1]).any()
    # What is next to the video was made first, so it does not depend on the rest.
    np.testing.assert_array_equal(before(model, video, sizes=[5])[-11:], whole[-11:])
    others = [
        before(model, video, sizes=[5], seed=1),
        before(model, video, sizes=[5], text="a red circle"),
        before(model, 255 - video, sizes=[5]),
    ]
    for one, two in itertools.combinations([whole[-11:], *others], 2):
        assert (one[:5] != two[:5]).any()


def test_no_seed_leaves_its_range(model):
    video = np.zeros((4, 16, 32, 3), np.uint8)
    last = before(model, video, sizes=[1], seed=filling.MAX_SEED)
    assert last.shape == (5, 16, 32, 3)


def test_no_pieces_change_nothing(model):
    video = np.ones((4, 16, 32, 3), np.uint8)
    assert before(model, video, sizes=[]) is video
