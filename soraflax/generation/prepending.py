"""What comes before a clip, of any length.

It is made piece by piece, the last first. Each piece is as long as a window allows and
a clip of its own: its first latent frame holds one frame of video, as in training, and
its end is the beginning of what is there already. Pieces are joined in pixels.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from soraflax.generation import canvas as canvases
from soraflax.generation import filling, generator, tasks
from soraflax.ops import patch as patches


def pieces(grid: canvases.Grid, frames: int, *, most: int) -> list[int]:
    """New frames of each piece, the one next to the clip first.

    Args:
      grid: of the model.
      frames: how many in all.
      most: of a piece; 1 + r (p k - 1) of them.

    Raises:
      ValueError: no pieces make so many, with the nearest numbers that some do.
    """
    least = grid.frames(grid.patch[0])
    found = [most] * max(0, -(-frames // most) - 1)
    rest = frames - sum(found)
    legal = patches.nearest_sizes(rest, grid.group, first=least)
    if rest not in legal:
        near = " or ".join(str(sum(found) + size) for size in legal)
        raise ValueError(f"{frames} new frames: use {near}")
    return [*found, rest]


def nearest(grid: canvases.Grid, frames: float, *, most: int) -> int:
    """The number of new frames nearest to this that `pieces` takes."""
    around = range(max(1, int(frames) - grid.group), int(frames) + grid.group + 1)
    legal = []
    for number in around:
        try:
            pieces(grid, number, most=most)
        except ValueError:
            continue
        legal.append(number)
    return min(legal, key=lambda number: abs(number - frames))


def prepend(
    model: generator.Generator,
    job: generator.Job,
    *,
    video: np.ndarray,
    sizes: Sequence[int],
    context: int,
    config: generator.SamplingConfig | None = None,
    progress: generator.Progress | None = None,
    preview: generator.Preview | None = None,
) -> np.ndarray:
    """`video` with as many more pieces before it.

    Args:
      model: that makes them.
      job: text, seed, frame rate and strength; of `given` nothing else is looked at.
      video: uint8 `[T, H, W, 3]`.
      sizes: frames of each piece, from `pieces`.
      context: frames of the video that each piece is shown, at most.
      config, progress, preview: as of `Generator.complete`.
    """
    for number, size in enumerate(sizes, start=1):
        given = tasks.extend(
            model.grid,
            video,
            direction="backward",
            frames=size,
            context=min(context, len(video)),
            fps=job.given.fps,
            strength=job.given.strength,
        )
        seed = (job.seed + 7919 * number) % (filling.MAX_SEED + 1)
        piece = dataclasses.replace(job, given=given, seed=seed)
        (video,) = model.complete([piece], config, progress=progress, preview=preview)
    return video
