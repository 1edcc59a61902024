"""Rotary positions over time, height and width (RoFormer, arXiv:2104.09864).

A head of size K is K/2 pairs of features. As in Wan (arXiv:2503.20314) they are divided
among the axes,

    K_height = K_width = 2 floor(K / 6),    K_time = K - 4 floor(K / 6),         (1)

pair i of an axis of size d turns by the position p along that axis, times a frequency,

    angle = p theta^(-2 i / d),                                                  (2)

and features 2 i and 2 i + 1 (neighbours, not halves) are the pair:

    (a, b) -> (a cos - b sin, a sin + b cos).                                    (3)

Positions come with the data and need not be integers.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def axis_sizes(head_size: int) -> tuple[int, int, int]:
    """Features of a head for time, height and width, equation (1).

    Raises:
      ValueError: the head size is odd.
    """
    if head_size % 2:
        raise ValueError(
            f"rotary head size {head_size} must be even: use {head_size + 1}"
        )
    side = 2 * (head_size // 6)
    return head_size - 2 * side, side, side


def rope_angles(
    positions: Float[Array | np.ndarray, "*batch N 3"],
    head_size: int,
    *,
    theta: float = 10000.0,
) -> Float[Array, "*batch N half"]:
    """Angles of every token in radians, equation (2), float32."""
    sizes = axis_sizes(head_size)
    frequencies = np.concatenate(
        [theta ** (-np.arange(0, size, 2) / max(size, 1)) for size in sizes]
    ).astype(np.float32)
    axis_of_pair = np.repeat(np.arange(3), [size // 2 for size in sizes])
    along = jnp.asarray(positions, jnp.float32)[..., axis_of_pair]
    return along * frequencies


def apply_rope(
    x: Float[Array, "*batch N H K"], angles: Float[Array, "*batch N half"]
) -> Float[Array, "*batch N H K"]:
    """Rotate every pair of features, equation (3), in float32; same dtype out."""
    y = x.astype(jnp.float32)
    # (a, b) -> (b, a) in every pair, so that (3) is x cos + swapped (-sin, sin).
    swapped = jnp.flip(y.reshape(*y.shape[:-1], -1, 2), axis=-1).reshape(y.shape)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    same = jnp.repeat(cos, 2, axis=-1)
    other = jnp.stack([-sin, sin], axis=-1).reshape(same.shape)
    rotated = y * same[..., None, :] + swapped * other[..., None, :]
    return rotated.astype(x.dtype)
