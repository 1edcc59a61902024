"""Latents to tokens and back.

A latent `[t, h, w, z]` is cut into patches of `(pt, ph, pw)`. The patch at grid cell
(a, b, c) becomes the token

    token[(a h/ph + b) w/pw + c] = latent[a pt:, b ph:, c pw:, :]  flattened       (1)

so tokens run in (time, height, width) order and the entries of one token in
(pt, ph, pw, z) order. Arrays of numpy stay numpy, arrays of JAX stay on their device.
"""

import math
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Float, Shaped

A = TypeVar("A", np.ndarray, jax.Array)
Sizes = tuple[int, int, int]


def patch_grid(latent_shape: tuple[int, ...], patch: Sizes) -> Sizes:
    """Patches along time, height and width of a latent `[..., t, h, w, z]`.

    Raises:
      ValueError: a size is not a multiple of the patch.
    """
    sizes = latent_shape[-4:-1]
    for name, size, step in zip(("time", "height", "width"), sizes, patch, strict=True):
        if size % step:
            nearest = max(step, round(size / step) * step)
            raise ValueError(
                f"latent {name} {size} is not a multiple of the patch {step}: "
                f"use {nearest}"
            )
    t, h, w = (size // step for size, step in zip(sizes, patch, strict=True))
    return t, h, w


def patchify(
    latent: Shaped[A, "*batch time height width z"], patch: Sizes
) -> Shaped[A, "*batch N P"]:
    """Equation (1).

    Raises:
      ValueError: a size of the latent is not a multiple of the patch.
    """
    t, h, w = patch_grid(latent.shape, patch)
    batch, z = latent.shape[:-4], latent.shape[-1]
    pt, ph, pw = patch
    x = latent.reshape(*batch, t, pt, h, ph, w, pw, z)
    # (t, pt, h, ph, w, pw, z) to (t, h, w, pt, ph, pw, z): patches, then their entries.
    return _swap(x, len(batch), order=(0, 2, 4, 1, 3, 5, 6)).reshape(
        *batch, t * h * w, pt * ph * pw * z
    )


def unpatchify(
    tokens: Shaped[A, "*batch N P"], grid: Sizes, *, patch: Sizes
) -> Shaped[A, "*batch time height width z"]:
    """The inverse of `patchify`; `grid` counts patches, not latent cells.

    Raises:
      ValueError: the tokens are not as many or as wide as the grid and patch say.
    """
    batch, (count, width) = tokens.shape[:-2], tokens.shape[-2:]
    (t, h, w), (pt, ph, pw) = grid, patch
    if count != math.prod(grid):
        raise ValueError(
            f"{count} tokens do not fill a grid of {t} x {h} x {w}: "
            f"it takes {math.prod(grid)}"
        )
    if width % math.prod(patch):
        raise ValueError(
            f"token width {width} is not a multiple of the patch's {math.prod(patch)}"
        )
    x = tokens.reshape(*batch, t, h, w, pt, ph, pw, width // math.prod(patch))
    return _swap(x, len(batch), order=(0, 3, 1, 4, 2, 5, 6)).reshape(
        *batch, t * pt, h * ph, w * pw, -1
    )


def positions(grid: Sizes, *, time_step: float = 1.0) -> Float[np.ndarray, "N 3"]:
    """Time, height and width of every token of one clip.

    Args:
      grid: patches along time, height and width.
      time_step: distance between two patches in time, in latent frames at the
        reference frame rate (a clip at half that rate has 2.0).
    """
    axes = np.meshgrid(*(np.arange(size) for size in grid), indexing="ij")
    cells = np.stack(axes, axis=-1).reshape(-1, 3)
    return (cells * np.array([time_step, 1.0, 1.0])).astype(np.float32)


def _swap(x: A, lead: int, *, order: tuple[int, ...]) -> A:
    return x.transpose(*range(lead), *(lead + axis for axis in order))
