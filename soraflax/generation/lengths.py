"""How many frames a task is shown, makes at once, and makes in pieces.

With r the frames of video that a latent frame stands for and p the latent frames of a
patch: frames from the start of a canvas on number 1 + r (p k - 1), others r p k, so
that patches are whole.
"""

from typing import Any

from soraflax.ops import grid as grids


def contexts(grid: grids.Grid, window: int) -> dict[str, Any]:
    """Context and new frames of each task that suit windows of so many latent frames.

    `{task: (context, new)}` in frames of video; forward extension keeps half of a
    window, a loop and a connection leave half of it between two contexts.
    """
    p, step = grid.patch[0], grid.frame_step
    # In patches along time: the window, half of it, and each end of a transition.
    window = max(3, window // p if window else 5)
    half, end = window // 2, max(1, window // 4)
    # Frames at the start of a canvas are one patch's 1 + r (p - 1) and r p of others.
    return {
        "forward": (grid.video_frames(p * (window - half)), half * step),
        "backward": ((window - half) * step, grid.video_frames(p * half)),
        "between": (end * step, (window - 2 * end) * step),
    }


def pieces(grid: grids.Grid, frames: int, *, longest: int | None = None) -> list[int]:
    """New frames of each piece before a clip, the one next to the clip first.

    Args:
      grid: sizes that the model can make.
      frames: new frames in all.
      longest: new frames of a piece, at most; 1 + r (p k - 1). None for one piece.

    Raises:
      ValueError: no pieces make so many, with the nearest numbers that some do.
    """
    full = [] if longest is None else [longest] * max(0, -(-frames // longest) - 1)
    rest = frames - sum(full)
    legal = grids.nearest_sizes(rest, grid.frame_step, first=grid.min_frames)
    if rest not in legal:
        near = " or ".join(str(sum(full) + size) for size in legal)
        raise ValueError(f"{frames} new frames: use {near}")
    return [*full, rest]


def nearest_pieces(grid: grids.Grid, frames: float, *, longest: int) -> int:
    """The number of new frames nearest to `frames` that `pieces` takes."""
    step = grid.frame_step
    legal = []
    for number in range(max(1, int(frames) - step), int(frames) + step + 1):
        try:
            pieces(grid, number, longest=longest)
        except ValueError:
            continue
        legal.append(number)
    return min(legal, key=lambda number: abs(number - frames))


def check_new(grid: grids.Grid, frames: int) -> None:
    """Refuse a number of new frames that would put a join inside of a patch.

    Raises:
      ValueError: with the nearest.
    """
    step = grid.frame_step
    grids.check_size(frames, step, first=step, unit="new frames")


def tail(grid: grids.Grid, own: int, *, context: int) -> int:
    """The most kept frames of a clip of `own`, at most `context`, for the start.

    Raises:
      ValueError: a context of less than a patch, or of more than the clip.
    """
    return _fit(own, context, step=grid.frame_step, first=grid.min_frames)


def head(grid: grids.Grid, own: int, *, context: int) -> int:
    """The same for the end; of one frame fewer, as nothing before it is kept."""
    return _fit(own, context, step=grid.frame_step, first=grid.frame_step)


def _fit(own: int, context: int, *, step: int, first: int) -> int:
    if own < first:
        raise ValueError(f"a clip of {own} frames: {first} or more are needed")
    if not first <= context:
        raise ValueError(f"a context of {context} frames: use {first} or more")
    if context > own:
        longest = grids.nearest_sizes(own, step, first=first)[0]
        raise ValueError(
            f"a clip of {own} frames, a context of {context}: use "
            + (f"{longest} or less" if longest <= own else "a longer clip")
        )
    return grids.nearest_sizes(context, step, first=first)[0]


def check_enough(grid: grids.Grid, own: int, *, name: str) -> None:
    """Refuse a clip of `own` frames, too short for anything to be made before it.

    Raises:
      ValueError: with how many frames it needs.
    """
    if own < grid.frame_step:
        plural = "s" * (own > 1)
        raise ValueError(f"{name}: {own} frame{plural}: give {grid.frame_step} or more")
