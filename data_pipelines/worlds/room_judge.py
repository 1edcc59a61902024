"""Reads the colours and the number of solids, the floor and the camera of `room`.

1. A pixel of high saturation belongs to the solid whose palette colour has its hue; a
   solid is a colour that enough pixels of most frames have (solids have different
   colours, so that neither occlusion nor touching miscounts them).
2. The floor is the palette's colour nearest to the median of the grey lower half.
3. The camera. Between two frames all that is still moves, to first order, by

       u = a + b x + c y,   v = d + e x + f y                                     (1)

   in coordinates from the frame's middle, in short sides; (1) is fitted to brightness
   gradients (Lucas and Kanade, 1981), coarse to fine. A pan is a, a zoom b + f; an
   orbit about the middle moves near floor against far floor, which is c.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from scipy import ndimage

from data_pipelines.worlds import palette, room

_LEAST_AREA = 0.004  # of a solid, in squared short sides
_SATURATION = 0.42
_MOVING = 0.05  # per second: of what a camera does, in the units of `room_judge.camera`


def read(video: UInt8[np.ndarray, "T H W 3"]) -> dict[str, Any]:
    """Read a video in the form of `room.attributes`; an image has no camera."""
    pixels = video.astype(np.float32)
    names = _colours(pixels)
    reading: dict[str, Any] = {
        "count": len(names),
        "colours": names,
        "floor": _floor(pixels),
    }
    return reading | ({"camera": camera(video)} if len(video) > 1 else {})


def agreement(
    reading: Mapping[str, Any], expected: Mapping[str, Any]
) -> dict[str, bool]:
    """Whether the reading agrees with each attribute that `expected` names."""
    return {key: reading.get(key) == value for key, value in expected.items()}


def _saturation(pixels: np.ndarray) -> np.ndarray:
    high = pixels.max(-1)
    return (high - pixels.min(-1)) / np.maximum(high, 1.0)


def _colours(pixels: np.ndarray) -> list[str]:
    """Names of the solids' colours, sorted."""
    vivid = _saturation(pixels) > _SATURATION
    levels = np.array([palette.COLOURS[name] for name in room.COLOURS], np.float32)
    unit = levels / np.linalg.norm(levels, axis=-1, keepdims=True)
    norm = np.linalg.norm(pixels, axis=-1, keepdims=True)
    nearest = (pixels / np.maximum(norm, 1.0) @ unit.T).argmax(-1)
    least = _LEAST_AREA * min(pixels.shape[1:3]) ** 2
    found = []
    for index, name in enumerate(room.COLOURS):
        mask = vivid & (nearest == index)
        mask = ndimage.binary_opening(mask, np.ones((1, 2, 2), bool))
        if (mask.sum((1, 2)) >= least).mean() > 0.5:
            found.append(name)
    return sorted(found)


def _floor(pixels: np.ndarray) -> str:
    lower = pixels[:, pixels.shape[1] // 2 :].reshape(-1, 3)
    plain = lower[_saturation(lower) < _SATURATION]
    middle = np.median(plain if len(plain) else lower, axis=0)
    levels = np.array([palette.BACKGROUNDS[name] for name in room.FLOORS])
    return room.FLOORS[int(np.square(levels - middle).sum(-1).argmin())]


def camera(video: UInt8[np.ndarray, "T H W 3"]) -> str:
    """The camera's motion, one of `room.CAMERAS`."""
    a, zoom, shear = flow(video).sum(0)
    strength = {"pans": abs(a), "zooms": abs(zoom), "orbits": abs(shear)}
    kind = max(strength, key=lambda name: strength[name])
    if strength[kind] < _MOVING:
        return "stays still"
    if kind == "zooms":
        return "zooms in" if zoom > 0 else "zooms out"
    # What a camera that pans to the right sees moves to the left; one that goes round
    # to the right sees what is nearer than its centre go to the left.
    way = "right" if (a if kind == "pans" else shear) < 0 else "left"
    return f"{kind} {way}"


def flow(video: Shaped[np.ndarray, "T H W 3"]) -> Float[np.ndarray, "T-1 3"]:
    """a, the zoom (b + f) / 2 and c of equation (1), of every pair of frames."""
    six = flow_parameters(video)
    return np.stack([six[:, 0], (six[:, 1] + six[:, 5]) / 2, six[:, 2]], -1)


def flow_parameters(
    video: Shaped[np.ndarray, "T H W 3"],
) -> Float[np.ndarray, "T-1 6"]:
    """a to f of equation (1), of every pair of frames."""
    grey: Any = ndimage.gaussian_filter(
        video.astype(np.float32).mean(-1), (0, 1.5, 1.5)
    )
    pairs = itertools.pairwise(list(grey))
    found = [_affine(first, second) for first, second in pairs]
    return np.array(found).reshape(len(video) - 1, 6)


def warp(
    frame: Float[np.ndarray, "H W"], six: Float[np.ndarray, "6"]
) -> Float[np.ndarray, "H W"]:
    """A frame moved back by equation (1)."""
    short = min(frame.shape)
    x, y = _places(frame.shape)
    u = six[0] + six[1] * x + six[2] * y
    v = six[3] + six[4] * x + six[5] * y
    rows, columns = np.mgrid[: frame.shape[0], : frame.shape[1]]
    where = [rows + v * short, columns + u * short]
    return np.asarray(ndimage.map_coordinates(frame, where, order=1, mode="nearest"))


def _places(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """x and y of pixels from the frame's middle, in short sides."""
    height, width = shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    short = min(height, width)
    return (x - width / 2 + 0.5) / short, (y - height / 2 + 0.5) / short


def _affine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Equation (1) by least squares on gradients, refined by warping three times."""
    six, short = np.zeros(6), min(first.shape)
    x, y = _places(first.shape)
    for _ in range(4):
        warped = warp(second, six)
        gy, gx = np.gradient((first + warped) / 2)
        gx, gy = gx * short, gy * short
        features = np.stack([gx, gx * x, gx * y, gy, gy * x, gy * y], -1)[2:-2, 2:-2]
        change = (first - warped)[2:-2, 2:-2]
        flat = features.reshape(-1, 6)
        gram = flat.T @ flat + 1e-3 * np.eye(6)
        six = six + np.linalg.solve(gram, flat.T @ change.reshape(-1))
    return six
