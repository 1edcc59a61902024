"""The names the world speaks of, and what each looks like.

One table for the renderer, the captions and the judge. Lengths are in *short sides*:
the shorter side of the frame is 1, so a scene looks the same at every size. Colours
are sRGB; every body colour lies at least 75 levels (Euclidean) from every background
and from the occluder, which is what makes a clip readable back from its pixels.
"""

import dataclasses
import difflib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

COLOURS = {
    "red": (214, 39, 40),
    "orange": (255, 135, 20),
    "yellow": (250, 215, 40),
    "green": (40, 170, 70),
    "cyan": (60, 205, 225),
    "blue": (40, 90, 235),
    "purple": (150, 50, 190),
    "pink": (250, 120, 190),
}

BACKGROUNDS = {
    "black": (18, 18, 20),
    "gray": (118, 118, 122),
    "white": (236, 236, 234),
    "navy": (26, 36, 90),
    "tan": (196, 172, 132),
    "mint": (150, 210, 180),
}

OCCLUDER = (110, 70, 40)

RADII = {"small": (0.105, 0.125), "large": (0.185, 0.215)}

DIRECTIONS = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
    "still": (0.0, 0.0),
}


def _star(outer: float, inner: float) -> np.ndarray:
    angles = -np.pi / 2 + np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2 == 0, outer, inner)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=-1)


@dataclasses.dataclass(frozen=True)
class Shape:
    """A shape of unit radius, y down. `outer` bounds it; `hole` is an inner radius."""

    outer: float
    area: float
    vertices: Float[np.ndarray, "V 2"] | None = None
    hole: float = 0.0

    def box(self, angle: float) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the shape turned by `angle`, from its centre."""
        if self.vertices is None:
            return -self.outer, -self.outer, self.outer, self.outer
        cos, sin = np.cos(angle), np.sin(angle)
        turned = self.vertices @ np.array([[cos, sin], [-sin, cos]])
        (left, top), (right, bottom) = turned.min(0), turned.max(0)
        return float(left), float(top), float(right), float(bottom)


_SQUARE = 0.9 * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
_HALF = 1.4 * np.sqrt(3) / 2
_TRIANGLE = np.array([[0.0, -1.4], [_HALF, 0.7], [-_HALF, 0.7]])

SHAPES = {
    "circle": Shape(outer=1.0, area=float(np.pi)),
    "square": Shape(outer=0.9 * 2**0.5, area=4 * 0.81, vertices=_SQUARE),
    "triangle": Shape(outer=1.4, area=2.1 * float(_HALF), vertices=_TRIANGLE),
    "star": Shape(
        outer=1.4,
        area=float(10 * 0.5 * 1.4 * 0.65 * np.sin(np.pi / 5)),
        vertices=_star(1.4, 0.65),
    ),
    "ring": Shape(outer=1.1, area=float(np.pi * (1.21 - 0.36)), hole=0.6),
}


def check_names(names: Iterable[str], table: Iterable[str], *, kind: str) -> None:
    """Refuse names that a table does not have.

    Raises:
      ValueError: no names, or an unknown one; the message has the nearest.
    """
    names, table = tuple(names), tuple(table)
    if not names:
        raise ValueError(f"no {kind} given: use some of {', '.join(table)}")
    for name in names:
        if name not in table:
            nearest = difflib.get_close_matches(str(name), table, n=1, cutoff=0.0)[0]
            raise ValueError(f"unknown {kind} {name!r}: use {nearest!r}")
