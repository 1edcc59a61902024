"""How a stored picture is turned and mirrored before it is shown.

Eight orientations: the axes exchanged or not, then each of them reversed or not. EXIF
numbers them 1 to 8; display matrices of movies and the properties `irot` and `imir` of
HEIF say the same in other ways.
"""

import dataclasses
import math
import struct
from typing import Any

import numpy as np
from jaxtyping import Shaped

# How far from a multiple of a right angle a matrix may be, as a part of its scale.
_TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True)
class Orientation:
    """One of eight; the axes are exchanged first.

    Attributes:
      exchanged: rows become columns.
      right_to_left: columns are reversed.
      upside_down: rows are reversed.
    """

    exchanged: bool = False
    right_to_left: bool = False
    upside_down: bool = False

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height as shown of those as stored, or the other way round."""
        width, height = size
        return (height, width) if self.exchanged else size

    def apply(
        self, pixels: Shaped[np.ndarray, "h w c"]
    ) -> Shaped[np.ndarray, "h2 w2 c"]:
        """A picture as it is shown."""
        if self == UPRIGHT:
            return pixels
        if self.exchanged:
            pixels = np.swapaxes(pixels, 0, 1)
        steps = [
            -1 if reverse else 1 for reverse in (self.upside_down, self.right_to_left)
        ]
        return np.ascontiguousarray(pixels[:: steps[0], :: steps[1]])

    def then(self, after: "Orientation") -> "Orientation":
        """This one, followed by another."""
        columns, rows = self.right_to_left, self.upside_down
        if after.exchanged:
            columns, rows = rows, columns
        return Orientation(
            self.exchanged != after.exchanged,
            columns != after.right_to_left,
            rows != after.upside_down,
        )


UPRIGHT = Orientation()
# In the order of EXIF's numbers, 1 to 8.
EXIF = (
    UPRIGHT,
    Orientation(False, True, False),
    Orientation(False, True, True),
    Orientation(False, False, True),
    Orientation(True, False, False),
    Orientation(True, True, False),
    Orientation(True, True, True),
    Orientation(True, False, True),
)


def from_exif(number: Any) -> Orientation:
    """By EXIF's number; upright where it is none."""
    known = isinstance(number, int) and 1 <= number <= 8
    return EXIF[number - 1] if known else UPRIGHT


def from_matrix(data: bytes) -> Orientation:
    """By a display matrix, nine integers of 32 bits: a b u c d v x y w.

    A pixel (x, y) is shown at (a x + c y, b x + d y), but for a shift; a matrix of
    zeros, which some writers leave, changes nothing.

    Raises:
      ValueError: an angle that is no multiple of a right angle, or a skew.
    """
    values = struct.unpack("=9i", data[:36])
    a, b, c, d = (values[i] / 65536 for i in (0, 1, 3, 4))
    scale = max(abs(v) for v in (a, b, c, d))
    if not scale:
        return UPRIGHT
    straight, exchanged = max(abs(b), abs(c)), max(abs(a), abs(d))
    if straight <= _TOLERANCE * scale and a and d:
        return Orientation(False, a < 0, d < 0)
    if exchanged <= _TOLERANCE * scale and b and c:
        return Orientation(True, c < 0, b < 0)
    angle = math.degrees(math.atan2(b, a))
    raise ValueError(f"shown turned by {angle:.0f} degrees: turn it by 0, 90, 180, 270")
