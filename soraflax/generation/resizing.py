"""Images, clips and masks brought to a size on a model's grid, with a note of it."""

from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, UInt8

from soraflax import media
from soraflax.ops import grid as grids

Rule = Literal["refuse", "resize"]
# A mask's pixel is white from this luma on.
WHITE = 128


def nearest_size(grid: grids.Grid, size: tuple[int, int]) -> tuple[int, int]:
    """The width and height on a model's grid nearest to `size`, in pixels."""
    width, height = (
        # The smaller of two that are equally near.
        min(grids.nearest_sizes(side, step, first=step), key=lambda n: abs(n - side))
        for side, step in zip(size, grid.patch_sides[::-1], strict=True)
    )
    return width, height


def fit_image(
    image: UInt8[np.ndarray, "height width 3"] | media.Video,
    grid: grids.Grid,
    *,
    size: tuple[int, int] | None = None,
    name: str = "image",
) -> tuple[UInt8[np.ndarray, "h w 3"], list[str]]:
    """An image on the grid: resized, its middle kept where proportions differ.

    Args:
      image: of any size; pixels, or a video of one frame.
      grid: sizes that the model can make.
      size: wanted width and height; None for the nearest on the grid.
      name: what the note calls the image.

    Returns:
      The image, and notes of how it was read and of what was done if it did not fit.

    Raises:
      ValueError: `size` is off the grid, with the nearest on it; a video of several
        frames.
    """
    notes: list[str] = []
    pixels: Any = image
    if isinstance(image, media.Video):
        if len(image) != 1:
            raise ValueError(
                f"{name}: a video of {len(image)} frames: give one of them"
            )
        notes, pixels = reading_notes(image, name), image.frames[0]
    width, height = pixels.shape[1], pixels.shape[0]
    if size is not None:
        grid.check_frame(size)
    target = size or nearest_size(grid, (width, height))
    if target == (width, height):
        return pixels, notes
    notes.append(note(name, (width, height), after=target))
    return cover(pixels[None], target)[0], notes


def fit_clip(
    clip: media.Video,
    grid: grids.Grid,
    *,
    rule: Rule = "refuse",
    size: tuple[int, int] | None = None,
    name: str = "clip",
) -> tuple[media.Video, list[str]]:
    """A clip whose frames are on the grid; how many there are is not looked at.

    Args:
      clip: of any size.
      grid: sizes that the model can make.
      rule: what to do with a clip off the grid: refuse it, or resize it to the nearest
        size on it, its middle kept.
      size: width and height that 'resize' brings it to instead.
      name: what the error and the note call the clip.

    Returns:
      The clip, and notes of how it was read and of what was done if it did not fit.

    Raises:
      ValueError: off the grid and the rule is 'refuse', with the nearest size.
    """
    target = size or nearest_size(grid, clip.size)
    notes = reading_notes(clip, name)
    if target == clip.size:
        return clip, notes
    if rule == "refuse":
        raise ValueError(
            f"{name}: {clip.size[0]}x{clip.size[1]} pixels: use "
            f"{target[0]}x{target[1]}, or say --fit resize"
        )
    resized = media.Video(cover(clip.frames, target), clip.fps)
    return resized, [*notes, note(name, clip.size, after=target)]


def cover(
    frames: UInt8[np.ndarray, "frames height width 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "frames h w 3"]:
    """Frames scaled to cover a width and height, antialiased; their middle is kept.

    Their proportions do not change: what is too long is cut off on both sides alike.
    """
    from PIL import Image

    height, width = frames.shape[1:3]
    scale = max(size[0] / width, size[1] / height)
    # The part of the input that is shown, in its own pixels.
    across, down = min(width, size[0] / scale), min(height, size[1] / scale)
    left, top = (width - across) / 2, (height - down) / 2
    box = (left, top, left + across, top + down)
    lanczos = Image.Resampling.LANCZOS
    resized = (
        Image.fromarray(frame).resize(size, lanczos, box=box) for frame in frames
    )
    return np.stack([np.asarray(frame) for frame in resized])


def cover_mask(
    mask: Bool[np.ndarray, "frames height width"], size: tuple[int, int]
) -> Bool[np.ndarray, "frames h w"]:
    """A mask to a width and height, as `cover` does to the clip that it is of."""
    pixels = np.where(mask[..., None], np.uint8(255), np.uint8(0))
    return cover(np.repeat(pixels, 3, axis=-1), size)[..., 0] >= WHITE


def reading_notes(clip: media.Video, name: str) -> list[str]:
    """What reading did to a clip or image, a line each that names it."""
    return [f"{name}: {each}" for each in clip.notes]


def note(name: str, before: tuple[int, int], *, after: tuple[int, int]) -> str:
    """What was done to an image or clip of one width and height, in a line."""
    sizes = "{}x{} becomes {}x{}".format(*before, *after)
    is_cut = before[0] * after[1] != before[1] * after[0]
    return f"{name}: {sizes} pixels: resized{', the middle kept' if is_cut else ''}"
