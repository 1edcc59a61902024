"""Ground truth of a rendered clip, computed from its geometry, never its pixels.

`visible` says of each attribute whether the pixels hold it. A frame is *clear* if in
it every body is wholly seen (not occluded, not cut) and at least `GAP` pixels from
every other body and from the occluder. Shape, size, colour and count are visible if
a third of the frames are clear; direction if besides the bodies move plainly, that is
if nearly all of the motion is net travel along one axis.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from data_pipelines.worlds import captions, palette, scenes

GAP = 2.0  # pixels
STILL = 0.02  # short sides of path, at most
MOVED = 0.1  # short sides of net travel, at least
MIN_RADIUS = 4.5  # pixels: below, the shape of a body is lost in the grid
CLEAR_SHARE = 1 / 3


def describe(
    scene: scenes.Scene, motion: scenes.Motion, *, seen: Float[np.ndarray, "T bodies"]
) -> dict[str, Any]:
    """The truth of a clip as plain JSON values; `seen` is the visibility of bodies.

    Keys: `attributes` (see `captions.attributes`), `visible` (attribute -> bool),
    `objects` (colour, shape, size, direction, verb, and per frame x, y, width, height
    in pixels and visibility in [0, 1]), `background`, `dotted`, `framing`, `occluder`
    (its middle and width in pixels in the first frame, or None), `pan` ('left',
    'right' or None), `events`, `width`, `height`, `frames`, `fps`.
    """
    boxes = _boxes(scene, motion)
    margin = _margin(scene, boxes)
    verbs = [_verb(scene, motion, index=index) for index in range(len(scene.bodies))]
    objects = [
        _object(scene, motion, index=index, verb=verb, boxes=boxes, seen=seen)
        for index, verb in enumerate(verbs)
    ]
    framing = "inside" if margin >= 0 else "cut"
    named = captions.attributes(objects, background=scene.background, framing=framing)
    bar, short = scene.occluder, scene.short_side
    return {
        "attributes": named,
        "visible": _visible(scene, named, boxes=boxes, margin=margin, seen=seen),
        "objects": objects,
        "background": scene.background,
        "dotted": scene.dotted,
        "framing": framing,
        "occluder": None
        if bar is None
        else {"x": round(bar.x * short, 2), "width": round(bar.width * short, 2)},
        "pan": None if scene.pan == 0 else ("right" if scene.pan > 0 else "left"),
        "events": _events(motion),
        "width": scene.width,
        "height": scene.height,
        "frames": scene.frames,
        "fps": scene.fps,
    }


def directions(scene: scenes.Scene, motion: scenes.Motion) -> list[str | None]:
    """The plain direction of each body's motion in the world, None if it has none."""
    verbs = [_verb(scene, motion, index=index) for index in range(len(scene.bodies))]
    return [verb if verb in palette.DIRECTIONS else None for verb in verbs]


def _verb(scene: scenes.Scene, motion: scenes.Motion, *, index: int) -> str | None:
    if scene.frames == 1:
        return None
    track = motion.position[:, index]
    net = track[-1] - track[0]
    path = np.abs(np.diff(track, axis=0)).sum(0)
    axis = int(np.abs(net[1]) > np.abs(net[0]))
    main = abs(net[axis])
    if path.sum() <= STILL:
        return "still"
    if main >= MOVED and main >= 0.9 * path[axis] and main >= 2 * path[1 - axis]:
        return (("left", "right"), ("up", "down"))[axis][int(net[axis] > 0)]
    return (
        "bounces" if any(event.body == index for event in motion.events) else "drifts"
    )


def _boxes(
    scene: scenes.Scene, motion: scenes.Motion
) -> Float[np.ndarray, "T bodies 4"]:
    """Left, top, right, bottom on the screen in pixels."""
    boxes = np.zeros((scene.frames, len(scene.bodies), 4))
    centres = np.tile(motion.screen(scene), 2)
    for index, body in enumerate(scene.bodies):
        for frame in range(scene.frames):
            boxes[frame, index] = body.box(float(motion.angle[frame, index]))
    return (boxes + centres) * scene.short_side


def _margin(scene: scenes.Scene, boxes: np.ndarray) -> float:
    """The least distance to the frame's edge, in pixels; negative where cut."""
    limit = np.array([scene.width, scene.height])
    return float(min(boxes[..., :2].min(), (limit - boxes[..., 2:]).min()))


def _object(
    scene: scenes.Scene,
    motion: scenes.Motion,
    *,
    index: int,
    verb: str | None,
    boxes: np.ndarray,
    seen: np.ndarray,
) -> dict[str, Any]:
    body = scene.bodies[index]
    centre = motion.screen(scene)[:, index] * scene.short_side
    size = boxes[:, index, 2:] - boxes[:, index, :2]
    return {
        "colour": body.colour,
        "shape": body.shape,
        "size": body.size,
        "direction": verb if verb in palette.DIRECTIONS else None,
        "verb": verb,
        "x": np.round(centre[:, 0], 2).tolist(),
        "y": np.round(centre[:, 1], 2).tolist(),
        "width": np.round(size[:, 0], 2).tolist(),
        "height": np.round(size[:, 1], 2).tolist(),
        "visibility": np.round(seen[:, index].astype(float), 3).tolist(),
    }


def _events(motion: scenes.Motion) -> list[dict[str, Any]]:
    """Bounces off the same thing are one event with all its frames."""
    contacts: dict[tuple[int, str], list[int]] = {}
    for event in motion.events:
        if event.against.isdigit() and int(event.against) < event.body:
            continue
        contacts.setdefault((event.body, event.against), []).append(event.frame)
    return [
        {"body": body, "against": against, "times": len(frames), "frames": frames}
        for (body, against), frames in contacts.items()
    ]


def _clear(
    scene: scenes.Scene,
    boxes: Float[np.ndarray, "T bodies 4"],
    *,
    seen: Float[np.ndarray, "T bodies"],
) -> Bool[np.ndarray, "T"]:
    """Which frames are clear: see the module docstring."""
    limit = np.array([scene.width, scene.height])
    clear = (boxes[..., :2] >= 0).all((1, 2)) & (boxes[..., 2:] <= limit).all((1, 2))
    clear &= (seen > 0.9).all(1)
    count = len(scene.bodies)
    for i in range(count):
        for j in range(i):
            clear &= _gap(boxes[:, i], boxes[:, j]) >= GAP
    if scene.occluder is not None:
        middle = (scene.occluder.x - scene.camera()) * scene.short_side
        half = scene.occluder.width * scene.short_side / 2
        before = boxes[..., 2] <= (middle - half - GAP)[:, None]
        after = boxes[..., 0] >= (middle + half + GAP)[:, None]
        clear &= (before | after).all(1)
    return np.asarray(clear)


def _gap(
    first: Float[np.ndarray, "T 4"], second: Float[np.ndarray, "T 4"]
) -> Float[np.ndarray, "T"]:
    """The distance between two tracks of boxes, 0 where they overlap."""
    low = np.maximum(first[:, :2], second[:, :2])
    high = np.minimum(first[:, 2:], second[:, 2:])
    return np.sqrt(np.square(np.maximum(low - high, 0)).sum(-1))


def _visible(
    scene: scenes.Scene,
    named: dict[str, Any],
    *,
    boxes: np.ndarray,
    margin: float,
    seen: np.ndarray,
) -> dict[str, bool]:
    clear = bool(_clear(scene, boxes, seen=seen).mean() >= CLEAR_SHARE)
    radius = min(body.radius for body in scene.bodies) * scene.short_side
    moved = all("direction" in item for item in named["objects"])
    background = (seen.mean(0) * (boxes[..., 2:] - boxes[..., :2]).prod(-1)).sum(-1)
    return {
        "colour": clear,
        "shape": clear and radius >= MIN_RADIUS,
        "size": clear,
        "count": clear,
        "direction": clear and moved,
        "background": bool(background.mean() < 0.7 * scene.width * scene.height),
        "framing": clear and not -2.0 < margin < 1.0,
    }
