"""Numbers of frames that tasks are shown and make lie on the grid of patches."""

import pytest

from soraflax.generation import lengths
from soraflax.ops import grid as grids

GRID = grids.Grid(4, 8, (1, 2, 2))
PAIRS = grids.Grid(4, 8, (2, 2, 2))


@pytest.mark.parametrize("grid", [GRID, PAIRS])
@pytest.mark.parametrize("context", [8, 9, 13, 17])
def test_kept_frames_are_whole_patches_and_no_more_than_asked(grid, context):
    tail = lengths.tail(grid, 21, context=context)
    head = lengths.head(grid, 21, context=context)
    assert (tail - grid.min_frames) % grid.frame_step == 0 < tail <= context
    assert head % grid.frame_step == 0 < head <= context
    assert context - tail < grid.frame_step > context - head


def test_too_few_frames_are_one_line():
    with pytest.raises(ValueError, match=r"^a clip of 3 frames: 4 or more are needed$"):
        lengths.head(GRID, 3, context=4)
    with pytest.raises(ValueError, match=r"context of 12: use 9 or less$"):
        lengths.tail(GRID, 9, context=12)
    with pytest.raises(ValueError, match=r"^x: 1 frame: give 4 or more$"):
        lengths.check_enough(GRID, 1, name="x")
    lengths.check_enough(GRID, 4, name="x")
