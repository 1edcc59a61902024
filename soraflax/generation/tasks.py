"""Ways of prompting: each fills in a canvas, and nothing else.

Sizes are in pixels and must be on the model's grid; the error names the nearest.
"""

from soraflax.generation import canvas as canvases


def text_to_video(
    grid: canvases.Grid,
    *,
    size: tuple[int, int],
    frames: int,
    time_step: float = 1.0,
) -> canvases.Canvas:
    """A canvas of which nothing is known.

    Args:
      grid: of the model.
      size: width and height.
      frames: how many.
      time_step: see `Canvas`.

    Raises:
      ValueError: a size off the grid, with the nearest sizes on it.
    """
    width, height = size
    shape = grid.latent_shape(frames, height, width)
    return canvases.Canvas.empty(shape, time_step=time_step)


def text_to_image(grid: canvases.Grid, *, size: tuple[int, int]) -> canvases.Canvas:
    """An image is a video of one frame.

    Raises:
      ValueError: a size off the grid, or a model whose patches span several frames.
    """
    return text_to_video(grid, size=size, frames=1)
