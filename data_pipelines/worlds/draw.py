"""Anti-aliased drawing of a scene with signed distances.

For a body of signed distance d, in pixels, negative inside, a pixel is covered by

    a = clip(1/2 - d, 0, 1),                              (1)
    frame <- (1 - a) frame + a colour,                    (2)

for all frames of the clip at once. Only additions, products and square roots touch
the pixels, so that the bytes are the same on every IEEE machine.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, UInt8

from data_pipelines.worlds import palette, scenes

PATTERN_PERIOD = 0.28  # short sides
PATTERN_LEVELS = 13.0


def render(
    scene: scenes.Scene, motion: scenes.Motion
) -> tuple[UInt8[np.ndarray, "T H W 3"], Float[np.ndarray, "T bodies"]]:
    """Draw every frame.

    Returns:
      The video, and the visibility of each body in [0, 1]: the fraction of its area
      that is inside the frame and not covered.
    """
    frame = _background(scene)
    cover = [_body_cover(scene, motion, index=i) for i in range(len(scene.bodies))]
    for body, (region, alpha) in zip(scene.bodies, cover, strict=True):
        _blend(frame, region, alpha=alpha, colour=palette.COLOURS[body.colour])
    bar = _occluder_cover(scene)
    if bar is not None:
        full_frame = (slice(0, scene.height), slice(0, scene.width))
        _blend(frame, full_frame, alpha=bar, colour=palette.OCCLUDER)
    video = np.clip(frame + np.float32(0.5), 0, 255).astype(np.uint8)
    return video, _visibility(scene, cover, bar=bar)


def shape_cover(
    shape: str,
    radius: float,
    *,
    x: Float[np.ndarray, "*#pixels"],
    y: Float[np.ndarray, "*#pixels"],
    angle: Float[np.ndarray, "*#pixels"],
) -> Float[np.ndarray, "*pixels"]:
    """Equation (1) for a shape of `radius` pixels.

    Args:
      shape: a key of `palette.SHAPES`.
      radius: in pixels.
      x, y: offsets of pixels from its centre.
      angle: in radians.
    """
    form = palette.SHAPES[shape]
    scale = np.float32(radius)
    if np.any(angle) and form.vertices is not None:
        cos, sin = _round(np.cos(angle)), _round(np.sin(angle))
        x, y = cos * x + sin * y, cos * y - sin * x
    if form.vertices is None:
        distance = np.sqrt(x * x + y * y) - scale * np.float32(form.outer)
        if form.hole:
            thickness = np.float32(radius * (form.outer - form.hole))
            distance = np.maximum(distance, -(distance + thickness))
    elif shape == "star":
        distance = _star_distance(x, y, vertices=form.vertices * radius)
    else:
        distance = _convex_distance(x, y, vertices=form.vertices * radius)
    return np.clip(np.float32(0.5) - distance, 0, 1)


def _round(values: npt.ArrayLike) -> Any:
    """Multiples of 2^-16, float32: what libraries of functions differ by is lost."""
    return (np.round(np.asarray(values) * 2**16) / 2**16).astype(np.float32)


def _convex_distance(
    x: np.ndarray, y: np.ndarray, *, vertices: np.ndarray
) -> np.ndarray:
    distance = None
    for start, end in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
        edge = (end - start) / np.hypot(*(end - start))
        normal = _round(np.array([edge[1], -edge[0]]))
        plane = normal[0] * x + normal[1] * y - np.float32(_round(start) @ normal)
        distance = plane if distance is None else np.maximum(distance, plane)
    assert distance is not None
    return distance


def _star_distance(x: np.ndarray, y: np.ndarray, *, vertices: np.ndarray) -> np.ndarray:
    """Folds the plane onto half a point of the star, whose edge is then one line."""
    cos, sin = _round(np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)]))
    x = np.abs(x)
    for mirror in (np.array([cos, sin]), np.array([-cos, sin])):
        reach = 2 * np.maximum(mirror[0] * x + mirror[1] * y, 0)
        x, y = x - reach * mirror[0], y - reach * mirror[1]
    x = np.abs(x)
    edge = (vertices[1] - vertices[0]) / np.hypot(*(vertices[1] - vertices[0]))
    normal = _round(np.array([edge[1], -edge[0]]))
    return normal[0] * x + normal[1] * y - np.float32(_round(vertices[0]) @ normal)


def _background(scene: scenes.Scene) -> np.ndarray:
    shape = (scene.frames, scene.height, scene.width, 3)
    colour = np.asarray(palette.BACKGROUNDS[scene.background], np.float32)
    frame = np.broadcast_to(colour, shape).copy()
    if scene.dotted:
        x = _pixels(scene.width)[None, None, :] / scene.short_side
        y = _pixels(scene.height)[None, :, None] / scene.short_side
        turn = np.float32(2 * np.pi / PATTERN_PERIOD)
        camera = scene.camera().astype(np.float32)[:, None, None]
        waves = _round(np.cos(turn * (x + camera))) + _round(np.cos(turn * y))
        frame += np.float32(PATTERN_LEVELS / 2) * waves[..., None]
    return frame


def _pixels(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.float32) + np.float32(0.5)


Region = tuple[slice, slice]


def _body_cover(
    scene: scenes.Scene, motion: scenes.Motion, *, index: int
) -> tuple[Region, np.ndarray]:
    """The region of the frame that the body touches in any frame; its cover there."""
    body, short = scene.bodies[index], scene.short_side
    centre = motion.screen(scene)[:, index] * short
    reach = palette.SHAPES[body.shape].outer * body.radius * short + 1
    low = np.floor(centre.min(0) - reach).astype(int)
    high = np.ceil(centre.max(0) + reach).astype(int)
    region = (
        slice(max(low[1], 0), max(min(high[1], scene.height), 0)),
        slice(max(low[0], 0), max(min(high[0], scene.width), 0)),
    )
    centre = centre.astype(np.float32)
    x = _pixels(scene.width)[None, None, region[1]] - centre[:, None, None, 0]
    y = _pixels(scene.height)[None, region[0], None] - centre[:, None, None, 1]
    angle = motion.angle[:, index, None, None]
    radius = body.radius * short
    return region, shape_cover(body.shape, radius, x=x, y=y, angle=angle)


def _occluder_cover(scene: scenes.Scene) -> np.ndarray | None:
    if scene.occluder is None:
        return None
    centre = (scene.occluder.x - scene.camera()) * scene.short_side
    half = scene.occluder.width * scene.short_side / 2
    x = np.abs(_pixels(scene.width)[None, :] - centre[:, None].astype(np.float32))
    return np.clip(np.float32(0.5 + half) - x, 0, 1)[:, None, :]


def _blend(
    frame: np.ndarray,
    region: Region,
    *,
    alpha: np.ndarray,
    colour: tuple[int, int, int],
) -> None:
    """Equation (2), in place."""
    part = frame[:, region[0], region[1]]
    part += alpha[..., None] * (np.asarray(colour, np.float32) - part)


def _visibility(
    scene: scenes.Scene,
    cover: list[tuple[Region, np.ndarray]],
    *,
    bar: np.ndarray | None,
) -> np.ndarray:
    shape = (scene.frames, scene.height, scene.width)
    light = np.ones(shape, np.float32)
    if bar is not None:
        light *= 1 - bar
    seen = np.zeros((scene.frames, len(cover)))
    # From the front to the back: each body dims the light that reaches those behind.
    for i in reversed(range(len(cover))):
        (rows, columns), alpha = cover[i]
        body = scene.bodies[i]
        area = palette.SHAPES[body.shape].area * (body.radius * scene.short_side) ** 2
        visible = alpha * light[:, rows, columns]
        seen[:, i] = np.clip(visible.sum((1, 2)) / area, 0, 1)
        light[:, rows, columns] *= 1 - alpha
    return seen
