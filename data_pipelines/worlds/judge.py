"""Reads colour, shape, size, count, direction, background and framing from pixels.

Only the pixels are looked at, and mild blur and noise are forgiven: the judge reads
renders, autoencoder reconstructions and generated videos alike.

1. The background is the palette's colour that most pixels lie near; what lies further
   from it than half of a blob's own contrast is foreground (so blur moves no edge).
2. Full-height columns of the occluder's colour are a bar, and not foreground.
3. Connected foreground is a blob; the count is the largest number of blobs that a
   quarter of the frames agree on. Frames with that count, and no blob at an edge or
   at the bar, are *clear*; colour, shape and size are averaged over them.
4. Shape: with z = x + iy from the blob's centre and E the mean over the blob,

       e2 = E|z|^2 / area,    e_n = |E z^n| / E[|z|^2]^(n/2),  n = 3, 4, 5,    (1)

   do not change when the blob moves, turns or grows. They and the share of holes are
   compared with those of the renderer's own shapes.
5. Direction: the net motion of a blob's centre, plus the camera's. The camera moves by

       c(t + 1) - c(t) = sum(I_x I_t) / sum(I_x^2)                             (2)

   over background pixels, with I the brightness (Lucas and Kanade, 1981).
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from scipy import ndimage, optimize

from data_pipelines.worlds import captions, draw, palette

_FLAT = np.zeros((3, 3, 3), bool)  # neighbours within a frame, none across frames
_FLAT[1] = True
_CONTRAST = 36.0  # least distance from the background, in levels
_LEAST_AREA = 0.007  # of a blob, in squared short sides
_AGREE = 0.25
_MOVED = 0.055  # short sides
_SIZES = list(palette.RADII)


@dataclasses.dataclass(frozen=True)
class Blob:
    """One connected piece of foreground in one frame; lengths in pixels."""

    frame: int
    centre: tuple[float, float]
    area: float
    colour: Float[np.ndarray, "3"]
    moments: Float[np.ndarray, "5"]
    clear: bool
    cut: bool


def read(video: Shaped[np.ndarray, "..."]) -> dict[str, Any]:
    """Read a video, uint8 `[T, H, W, 3]`, in the form of `captions.attributes`.

    Objects come largest first. `pan` ('left', 'right' or None) is read beside them.
    Where nothing can be seen the count is 0 and the subject's keys are missing.

    Raises:
      ValueError: another dtype or number of axes.
    """
    if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8:
        raise ValueError(
            f"video of {video.dtype} {video.shape}: use uint8 [T, H, W, 3]"
        )
    pixels = video.astype(np.float32)
    short = min(video.shape[1:3])
    name, colour = _background(pixels)
    distance = np.sqrt(np.square(pixels - colour).sum(-1))
    bar = _bar_columns(pixels)
    blobs = _find_blobs(pixels, distance, bar=bar)
    count = _count(blobs, frames=len(video))
    tracks = _follow(blobs, count, frames=len(video))
    camera = _camera(pixels, distance)
    objects = [_object(track, camera, short=short) for track in tracks]
    order = sorted(range(count), key=lambda i: -_area(tracks[i]))
    cut = any(blob.cut for blob in blobs)
    reading = captions.attributes(
        [objects[i] for i in order],
        background=name,
        framing="cut" if cut else "inside",
    )
    pan = float(camera[-1]) / short
    reading["pan"] = None if abs(pan) < 0.03 else ("right" if pan > 0 else "left")
    return reading


def blobs(video: UInt8[np.ndarray, "T H W 3"]) -> list[Blob]:
    """Every connected piece of foreground of every frame, the occluder apart."""
    pixels = video.astype(np.float32)
    _, colour = _background(pixels)
    distance = np.sqrt(np.square(pixels - colour).sum(-1))
    return _find_blobs(pixels, distance, bar=_bar_columns(pixels))


def agreement(
    reading: Mapping[str, Any], expected: Mapping[str, Any]
) -> dict[str, bool]:
    """Whether the reading agrees with each attribute that `expected` names.

    Of several objects each expected one is matched with one that was read, such that
    most attributes agree; an attribute agrees if it does for all objects.
    """
    result = {
        key: reading.get(key) == value
        for key, value in expected.items()
        if key not in ("objects", "pan")
    }
    expected_objects, read_objects = (
        expected.get("objects", []),
        reading.get("objects", []),
    )
    if not expected_objects:
        return result
    pairs = match_objects(expected_objects, read_objects)
    for key in ("colour", "shape", "size", "direction"):
        named = [
            (i, item[key]) for i, item in enumerate(expected_objects) if key in item
        ]
        if named:
            result[key] = all(
                i in pairs and read_objects[pairs[i]].get(key) == value
                for i, value in named
            )
    return result


def match_objects(
    expected: Sequence[Mapping[str, Any]], read: Sequence[Mapping[str, Any]]
) -> dict[int, int]:
    """Indices of expected objects to those that were read, most attributes agreeing."""
    match = np.array([[_alike(w, g) for g in read] for w in expected])
    match = match.reshape(len(expected), len(read))
    rows, columns = optimize.linear_sum_assignment(-match)
    return dict(zip(rows.tolist(), columns.tolist(), strict=True))


def _alike(expected: Mapping[str, Any], reading: Mapping[str, Any]) -> int:
    return sum(reading.get(key) == value for key, value in expected.items())


def _background(pixels: np.ndarray) -> tuple[str, np.ndarray]:
    """The background's name, and its colour as it is in this video."""
    flat = pixels[:: max(1, len(pixels) // 4), ::2, ::2].reshape(-1, 3)
    colours = np.array(list(palette.BACKGROUNDS.values()), np.float32)
    distance = np.sqrt(np.square(flat[:, None] - colours).sum(-1))
    nearest = distance.argmin(1)
    is_near = distance.min(1) < 45
    weight = np.where(is_near, 1.0, 1e-6)
    index = int(np.bincount(nearest, weights=weight, minlength=len(colours)).argmax())
    is_background = (nearest == index) & (is_near if is_near.any() else True)
    return list(palette.BACKGROUNDS)[index], np.median(flat[is_background], axis=0)


def _bar_columns(pixels: Float[np.ndarray, "T H W 3"]) -> Bool[np.ndarray, "T W"]:
    """Columns that the occluder fills, and one more on each side."""
    brown = np.square(pixels - np.array(palette.OCCLUDER, np.float32)).sum(-1) < 45**2
    columns = brown.mean(1) > 0.85
    columns = ndimage.binary_opening(columns, np.ones((1, 3), bool))
    return ndimage.binary_dilation(columns, np.ones((1, 5), bool))


def _find_blobs(
    pixels: np.ndarray, distance: np.ndarray, *, bar: np.ndarray
) -> list[Blob]:
    short = min(pixels.shape[1:3])
    least = _LEAST_AREA * short**2
    coarse = (distance > _CONTRAST) & ~bar[:, None, :]
    coarse = ndimage.binary_opening(coarse, _FLAT[:, 1:2] | _FLAT[:, :, 1:2])
    labels = np.zeros(coarse.shape, np.int32)
    ndimage.label(coarse, structure=_FLAT, output=labels)
    blobs = []
    for label, window in enumerate(ndimage.find_objects(labels), start=1):
        mask = labels[window] == label
        if mask.sum() < 0.7 * least:
            continue
        blob = _measure(pixels, distance, bar=bar, window=window, mask=mask)
        if blob is not None and blob.area >= least:
            blobs.append(blob)
    return blobs


def _measure(
    pixels: np.ndarray,
    distance: np.ndarray,
    *,
    bar: np.ndarray,
    window: tuple[slice, slice, slice],
    mask: np.ndarray,
) -> Blob | None:
    frame, (rows, columns) = window[0].start, window[1:]
    # Weights fall from 1 at the blob's own contrast to 0 at the background's colour, so
    # that blur, which mixes the two, leaves areas and centres as they are.
    far = distance[frame, rows, columns] * mask[0]
    core = mask[0] & (far >= 0.9 * np.percentile(far[mask[0]], 75))
    contrast = float(np.median(far[core]))
    weight = np.clip(far / contrast, 0, 1) * mask[0]
    solid = weight > 0.5
    if solid.sum() < 4:
        return None
    y, x = np.nonzero(solid)
    height, width = distance.shape[1:]
    top, bottom = y.min() + rows.start, y.max() + rows.start
    left, right = x.min() + columns.start, x.max() + columns.start
    cut = bool(min(top, left) == 0 or bottom == height - 1 or right == width - 1)
    near_bar = bar[frame, max(0, columns.start - 1) : columns.stop + 1].any()
    moments, area, centre = _moments(weight, solid)
    return Blob(
        frame=frame,
        centre=(centre[0] + columns.start, centre[1] + rows.start),
        area=area,
        colour=np.median(pixels[frame, rows, columns][core], axis=0),
        moments=moments,
        clear=not cut and not bool(near_bar),
        cut=cut,
    )


def _moments(
    weight: np.ndarray, solid: np.ndarray
) -> tuple[np.ndarray, float, tuple[float, float]]:
    """Equation (1) and the share of holes; the area with holes; the centre."""
    soft = np.clip((weight - 0.2) / 0.6, 0, 1)
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]]
    mass = float(soft.sum())
    cx, cy = float((soft * x).sum() / mass), float((soft * y).sum() / mass)
    z = (x - cx) + 1j * (y - cy)
    spread = float((soft * np.abs(z) ** 2).sum() / mass)
    powers = [
        abs((soft * z**n).sum() / mass) / max(spread, 1e-6) ** (n / 2)
        for n in (3, 4, 5)
    ]
    inside = np.asarray(ndimage.binary_fill_holes(solid), bool) & ~solid
    full = float(np.where(inside, 1.0, soft).sum())
    holes = 1 - mass / full
    return np.array([spread / mass, *powers, holes]), full, (cx + 0.5, cy + 0.5)


def _count(blobs: list[Blob], *, frames: int) -> int:
    for only_clear in (True, False):
        tally = np.zeros(frames, int)
        spoilt = np.zeros(frames, bool)
        for blob in blobs:
            tally[blob.frame] += 1
            spoilt[blob.frame] |= not blob.clear
        tally = tally[~spoilt] if only_clear else tally
        if only_clear and (len(tally) == 0 or tally.max() == 0):
            continue
        values, votes = np.unique(tally, return_counts=True)
        agreed = values[votes >= _AGREE * len(tally)]
        return int(agreed.max()) if len(agreed) else int(np.median(tally))
    return 0


def _follow(blobs: list[Blob], count: int, *, frames: int) -> list[list[Blob]]:
    """Tracks through the frames of `count` blobs, matched by place and colour."""
    tracks: list[list[Blob]] = [[] for _ in range(count)]
    for frame in range(frames):
        frame_blobs = [blob for blob in blobs if blob.frame == frame]
        if len(frame_blobs) != count or count == 0:
            continue
        if not tracks[0]:
            for track, blob in zip(tracks, frame_blobs, strict=True):
                track.append(blob)
            continue
        cost = np.array(
            [[_unlike(t[-1], blob) for blob in frame_blobs] for t in tracks]
        )
        for i, j in zip(*optimize.linear_sum_assignment(cost), strict=True):
            tracks[i].append(frame_blobs[j])
    return tracks


def _unlike(first: Blob, second: Blob) -> float:
    distance = np.hypot(*np.subtract(first.centre, second.centre))
    return float(distance + 0.2 * np.abs(first.colour - second.colour).sum())


def _best(track: list[Blob]) -> list[Blob]:
    return [blob for blob in track if blob.clear] or track


def _area(track: list[Blob]) -> float:
    return float(np.median([blob.area for blob in _best(track)]))


def _object(
    track: list[Blob], camera: np.ndarray, *, short: int
) -> dict[str, str | None]:
    best = _best(track)
    colour = np.median([blob.colour for blob in best], axis=0)
    names = list(palette.COLOURS)
    levels = np.array([palette.COLOURS[name] for name in names], float)
    moments = np.median([blob.moments for blob in best], axis=0)
    radius = (_area(track) / np.pi) ** 0.5
    shape = _nearest_shape(moments, radius)
    form = palette.SHAPES[shape]
    outer = np.pi * form.outer**2 if form.hole else form.area
    scaled = (_area(track) / outer) ** 0.5 / short
    middle = (palette.RADII["small"][1] + palette.RADII["large"][0]) / 2
    return {
        "colour": names[int(np.square(levels - colour).sum(1).argmin())],
        "shape": shape,
        "size": "large" if scaled > middle else "small",
        "direction": _direction(track, camera, short=short),
    }


def _direction(track: list[Blob], camera: np.ndarray, *, short: int) -> str | None:
    if len(camera) == 1:
        return None
    # What moves against the frame as the camera does stands still in the world.
    centres = [np.add(blob.centre, (camera[blob.frame], 0.0)) for blob in track]
    window = max(1, len(centres) // 8)
    net = (
        np.mean(centres[-window:], axis=0) - np.mean(centres[:window], axis=0)
    ) / short
    if np.abs(net).max() < _MOVED:
        return "still"
    axis = int(abs(net[1]) > abs(net[0]))
    return (("left", "right"), ("up", "down"))[axis][int(net[axis] > 0)]


def _camera(
    pixels: Float[np.ndarray, "T H W 3"], distance: Float[np.ndarray, "T H W"]
) -> Float[np.ndarray, "T"]:
    """c(t) in pixels, by equation (2)."""
    grey = ndimage.gaussian_filter(pixels.mean(-1), (0, 1, 1))
    foreground = ndimage.binary_dilation(distance > _CONTRAST, _FLAT, iterations=3)
    plain = np.logical_not(foreground)
    steps = np.zeros(len(pixels))
    slope = np.gradient(grey, axis=2)
    for frame in range(1, len(pixels)):
        both = plain[frame] & plain[frame - 1]
        across = (slope[frame] + slope[frame - 1])[both] / 2
        change = (grey[frame] - grey[frame - 1])[both]
        strength = float(across @ across)
        if strength > 0.05 * max(1, both.sum()):
            steps[frame] = float(across @ change) / strength
    return np.cumsum(steps)


@functools.cache
def _templates(radius: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Moments of the renderer's shapes at a size, over positions, angles and blurs."""
    names, rows = [], []
    side = 4 * radius + 8
    for shape, form in palette.SHAPES.items():
        scale = (
            radius
            * (np.pi / (np.pi * form.outer**2 if form.hole else form.area)) ** 0.5
        )
        for turn in np.linspace(0, 2 * np.pi, 7, endpoint=False):
            for blur in (0.0, 0.8, 1.6):
                offset = np.arange(side, dtype=np.float32) - side / 2 + 0.5 + turn / 7
                cover = draw.shape_cover(
                    shape,
                    scale,
                    x=offset[None, :],
                    y=offset[:, None],
                    angle=np.asarray(turn),
                )
                cover = ndimage.gaussian_filter(cover, blur) if blur else cover
                names.append(shape)
                rows.append(_moments(cover / cover.max(), cover > 0.5)[0])
    return tuple(names), np.array(rows)


def _nearest_shape(moments: np.ndarray, radius: float) -> str:
    names, rows = _templates(int(np.clip(round(radius), 4, 40)))
    scale = np.array([0.02, 0.15, 0.15, 0.12, 0.08])
    return names[int(np.square((rows - moments) / scale).sum(1).argmin())]
