"""The embedded world `bodies`: rigid bodies that move, bounce and hide, with words.

A clip is a pure function of (seed, index, config): Philox counters keyed by both, one
stream per clip, so any clip can be made alone and in any order. A scene is drawn from
the config, run (`scenes`), described (`truth`, `captions`) and rendered (`draw`).

Train and held-out data differ twice: they use different seeds, and one in ten
combinations of (colour, shape, direction, background), chosen by a hash of its name
alone, is *held out*: `holdout='exclude'` never shows one, `'only'` shows nothing else.
An image has no direction; its combinations are hashed without.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8

from data_pipelines.worlds import captions, draw, palette, scenes, truth

_MARGIN = 0.03  # short sides between a body that stays inside and the frame's edge
_GAP = 0.06  # short sides between bodies that never touch
_ATTEMPTS = 5000
_PROBABILITIES = (
    *("image_share", "twins", "gravity", "bounce", "leave"),
    *("spin", "occluder", "pan", "dotted"),
)

Option = TypeVar("Option")


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """The distribution of clips; tuples are drawn from evenly, repeats count twice.

    Attributes:
      sizes: (width, height) in pixels.
      frames: lengths of clips.
      fps: frame rates.
      image_share: probability of an image (1 frame) instead.
      counts: probabilities of 1, 2 and 3 bodies; they need not sum to 1.
      twins: probability that the bodies of a clip are all alike.
      speed: range of launch speeds in short sides per second.
      gravity, bounce, leave: probabilities of a clip with gravity and walls, with
        walls only, and of one in which bodies cross the frame's edge. In all other
        clips bodies move evenly and no edge cuts them.
      separate: in those, no two bodies ever touch.
      spin: probability that bodies start turned and keep turning.
      occluder, pan, dotted: probabilities of a bar in front, of a slow camera pan
        (always over a dotted background: on a plain one it would not show), and of
        a dotted background.
      bar: range of the bar's width in short sides.
      holdout: 'any', 'exclude' or 'only' held-out combinations.
    """

    sizes: tuple[tuple[int, int], ...] = ((64, 64), (96, 64), (64, 96))
    frames: tuple[int, ...] = (17, 17, 17, 9)
    fps: tuple[float, ...] = (8.0,)
    image_share: float = 0.1
    colours: tuple[str, ...] = tuple(palette.COLOURS)
    shapes: tuple[str, ...] = tuple(palette.SHAPES)
    object_sizes: tuple[str, ...] = tuple(palette.RADII)
    directions: tuple[str, ...] = tuple(palette.DIRECTIONS)
    backgrounds: tuple[str, ...] = tuple(palette.BACKGROUNDS)
    counts: tuple[float, ...] = (0.5, 0.3, 0.2)
    twins: float = 0.2
    speed: tuple[float, float] = (0.2, 0.35)
    gravity: float = 0.2
    bounce: float = 0.15
    leave: float = 0.15
    separate: bool = False
    spin: float = 0.5
    occluder: float = 0.15
    bar: tuple[float, float] = (0.1, 0.16)
    pan: float = 0.15
    dotted: float = 0.3
    holdout: str = "any"

    def __post_init__(self) -> None:
        palette.check_names(self.colours, palette.COLOURS, kind="colour")
        palette.check_names(self.shapes, palette.SHAPES, kind="shape")
        palette.check_names(self.object_sizes, palette.RADII, kind="object size")
        palette.check_names(self.directions, palette.DIRECTIONS, kind="direction")
        palette.check_names(self.backgrounds, palette.BACKGROUNDS, kind="background")
        palette.check_names(
            [self.holdout], ("any", "exclude", "only"), kind="holdout mode"
        )
        if not self.sizes or min(min(size) for size in self.sizes) < 16:
            raise ValueError(f"sizes {self.sizes}: use sides of 16 pixels or more")
        if not self.frames or min(self.frames) < 1:
            raise ValueError(f"frames {self.frames}: use 1 or more")
        if not self.fps or min(self.fps) <= 0:
            raise ValueError(f"fps {self.fps}: use rates above 0, as 8.0")
        for name in _PROBABILITIES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"{name} {getattr(self, name)}: use a probability, 0 to 1"
                )
        if not 1 <= len(self.counts) <= 3 or sum(self.counts) <= 0:
            raise ValueError(
                f"counts {self.counts}: give the probabilities of 1, 2 and 3 bodies"
            )


@dataclasses.dataclass(frozen=True)
class RenderedClip:
    """A rendered clip; `truth` holds plain JSON values (`truth.describe`)."""

    video: UInt8[np.ndarray, "T H W 3"]
    fps: float
    captions: dict[str, str]
    truth: dict[str, Any]


def render_clip(seed: int, index: int, *, config: WorldConfig) -> RenderedClip:
    """Render clip `index` of stream `seed`; the same bytes whatever else is rendered.

    Raises:
      ValueError: negative seed or index, or a config that no scene satisfies.
    """
    draws = Draws(seed, index)
    for _ in range(_ATTEMPTS):
        scene = _draw_scene(draws, config)
        if scene is None:
            continue
        motion = scenes.simulate(scene)
        if _allowed(scene, truth.directions(scene, motion), holdout=config.holdout):
            break
    else:
        raise ValueError(_hopeless(config))
    video, seen = draw.render(scene, motion)
    description = truth.describe(scene, motion, seen=seen)
    words = {
        "short": captions.short(description["objects"]),
        "detailed": captions.detailed(description),
    }
    return RenderedClip(video=video, fps=scene.fps, captions=words, truth=description)


def prompts(
    seed: int, count: int, *, config: WorldConfig, images: bool = False
) -> list[tuple[str, dict[str, Any]]]:
    """Different prompts in the detailed grammar, with the attributes each names.

    They follow the config's palettes, counts and `holdout`, name a plain background,
    and leave out bounces, occluders and pans. Images have no direction.

    Raises:
      ValueError: the config does not hold that many different prompts.
    """
    unique: dict[str, dict[str, Any]] = {}
    draws = Draws(seed, 0, purpose=1)
    for _ in range(_ATTEMPTS + 20 * count):
        if len(unique) == count:
            return list(unique.items())
        background = draws.choice(config.backgrounds)
        objects = _draw_objects(draws, config, image=images)
        if not _allowed_objects(objects, background, holdout=config.holdout):
            continue
        words = [item | {"verb": item["direction"]} for item in objects]
        text = f"{captions.short(words)} on a {background} background"
        unique[text] = captions.attributes(objects, background=background)
    if len(unique) == count:
        return list(unique.items())
    raise ValueError(
        f"{count} prompts: this config holds {len(unique)} different ones"
        if unique
        else _hopeless(config)
    )


def word_kinds(config: WorldConfig) -> tuple[tuple[str, ...], ...]:
    """The words of captions by kind: the name of each kind, then its words."""
    moves = tuple(name for name in config.directions if name != "still")
    kinds = (
        ("colour", *config.colours),
        ("shape", *config.shapes),
        ("size", *config.object_sizes),
        ("direction", *moves),
        ("background", *config.backgrounds),
        ("count", *(("two", "three") if config.twins else ())),
    )
    return tuple(kind for kind in kinds if len(kind) > 2)


def is_held_out(
    colour: str, shape: str, *, direction: str | None, background: str
) -> bool:
    """Whether training with `holdout='exclude'` never shows this combination."""
    name = f"{colour}/{shape}/{direction or '-'}/{background}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % 10 == 0


class Draws:
    """Random draws of one clip: only 53-bit uniforms, so that numpy versions agree."""

    def __init__(self, seed: int, index: int, *, purpose: int = 0) -> None:
        if seed < 0 or index < 0:
            raise ValueError(f"seed {seed}, index {index}: use 0 or more")
        sequence = np.random.SeedSequence(seed, spawn_key=(purpose, index))
        self._random = np.random.Generator(np.random.Philox(sequence)).random

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()

    def choice(self, options: Sequence[Option]) -> Option:
        return options[int(self._random() * len(options))]

    def weighted(self, weights: Sequence[float]) -> int:
        """An index, with probability in proportion to its weight."""
        marks = np.cumsum(weights)
        return int(np.searchsorted(marks, self._random() * marks[-1], side="right"))


def _draw_objects(
    draws: Draws, config: WorldConfig, *, image: bool
) -> list[dict[str, Any]]:
    """Attributes of 1 to 3 bodies, large ones first; of three only one is large."""
    count = 1 + draws.weighted(config.counts)
    twins = count > 1 and draws.chance(config.twins)
    objects: list[dict[str, Any]] = []
    for index in range(count):
        size = draws.choice(config.object_sizes)
        if count == 3 and (twins or index > 0) and "small" in config.object_sizes:
            size = "small"
        item = {
            "colour": draws.choice(config.colours),
            "shape": draws.choice(config.shapes),
            "size": size,
            "direction": None if image else draws.choice(config.directions),
        }
        objects.append(dict(objects[0]) if twins and objects else item)
    return sorted(objects, key=lambda item: -palette.RADII[item["size"]][0])


def _allowed_objects(
    objects: Sequence[dict[str, Any]], background: str, *, holdout: str
) -> bool:
    if holdout == "any":
        return True
    new = any(
        is_held_out(
            item["colour"],
            item["shape"],
            direction=item["direction"],
            background=background,
        )
        for item in objects
    )
    return new == (holdout == "only")


def _allowed(
    scene: scenes.Scene, directions: Sequence[str | None], *, holdout: str
) -> bool:
    objects = [
        {"colour": body.colour, "shape": body.shape, "direction": direction}
        for body, direction in zip(scene.bodies, directions, strict=True)
    ]
    return _allowed_objects(objects, scene.background, holdout=holdout)


def _hopeless(config: WorldConfig) -> str:
    return (
        f"no clip fits this config with holdout={config.holdout!r}: "
        "give more colours, shapes or room, or use holdout='any'"
    )


def _draw_scene(draws: Draws, config: WorldConfig) -> scenes.Scene | None:
    """A random scene; None if its bodies find no room (the caller draws again)."""
    image = draws.chance(config.image_share)
    width, height = draws.choice(config.sizes)
    frames = 1 if image else draws.choice(config.frames)
    image = frames == 1
    background = draws.choice(config.backgrounds)
    objects = _draw_objects(draws, config, image=image)
    kinds = ("gravity", "bounce", "leave", "even")
    weights = (config.gravity, config.bounce, config.leave)
    kind = kinds[draws.weighted((*weights, max(0.0, 1 - sum(weights))))]
    if image and kind != "leave":
        kind = "even"
    steady = kind == "even" and config.separate
    if steady and not _allowed_objects(objects, background, holdout=config.holdout):
        return None
    pan = 0.0
    if not image and draws.chance(config.pan):
        pan = draws.choice((-1, 1)) * draws.uniform(0.06, 0.12)
    scene = scenes.Scene(
        width=width,
        height=height,
        frames=frames,
        fps=draws.choice(config.fps),
        background=background,
        bodies=(),
        dotted=draws.chance(config.dotted) or pan != 0,
        pan=pan,
        gravity=draws.uniform(0.7, 1.5) if kind == "gravity" else 0.0,
        walls=kind in ("gravity", "bounce"),
    )
    if draws.chance(config.occluder):
        bar = draws.uniform(*config.bar)
        middle = draws.uniform(0.2, scene.extent[0] - 0.2)
        scene = dataclasses.replace(scene, occluder=scenes.Occluder(middle, bar))
    spin = draws.chance(config.spin)
    for _ in range(20):
        placed = _place_all(
            draws, scene, objects=objects, kind=kind, spin=spin, config=config
        )
        if placed is not None:
            return dataclasses.replace(scene, bodies=placed)
    return None


def _place_all(
    draws: Draws,
    scene: scenes.Scene,
    *,
    objects: Sequence[dict[str, Any]],
    kind: str,
    spin: bool,
    config: WorldConfig,
) -> tuple[scenes.Body, ...] | None:
    bodies: list[scenes.Body] = []
    for item in objects:
        body = scenes.Body(
            **item,
            radius=draws.uniform(*palette.RADII[item["size"]]),
            position=(0.0, 0.0),
            angle=draws.uniform(0, 2 * np.pi) if spin else 0.0,
            spin=draws.uniform(-1.5, 1.5) if spin else 0.0,
        )
        placement = {"even": _place_even, "leave": _place_leaving}.get(
            kind, _place_free
        )
        placed = placement(draws, scene, body, speed=draws.uniform(*config.speed))
        if placed is None:
            return None
        bodies.append(placed)
    times = scene.duration if config.separate and kind == "even" else 0.0
    if any(
        _approach(a, b, duration=times) < a.reach + b.reach + _GAP
        for i, a in enumerate(bodies)
        for b in bodies[:i]
    ):
        return None
    return tuple(bodies)


def _approach(first: scenes.Body, second: scenes.Body, *, duration: float) -> float:
    """The least distance between the centres of two bodies in even motion.

    Of |offset + speed t| over 0 <= t <= duration: the minimum of a parabola, clipped.
    """
    offset = np.subtract(first.position, second.position)
    speed = np.subtract(first.velocity, second.velocity)
    closing = -float(offset @ speed) / max(float(speed @ speed), 1e-9)
    return float(np.hypot(*(offset + speed * min(max(closing, 0.0), duration))))


def _place_even(
    draws: Draws, scene: scenes.Scene, body: scenes.Body, *, speed: float
) -> scenes.Body | None:
    """Even motion, wholly inside the frame from the first frame to the last."""
    box = np.array([-1, -1, 1, 1]) * body.reach if body.spin else body.box(body.angle)
    room = np.array(scene.extent) - (box[2:] - box[:2]) - 2 * _MARGIN
    heading = np.array(palette.DIRECTIONS[body.direction or "still"])
    camera = np.array([scene.pan * scene.duration, 0.0])
    free = float(np.abs(heading) @ (room + heading * camera))
    travel = heading * min(speed * scene.duration, free)
    drift = travel - camera
    low = _MARGIN - box[:2] + np.maximum(-drift, 0)
    high = np.array(scene.extent) - _MARGIN - box[2:] - np.maximum(drift, 0)
    if np.any(low > high + 1e-9) or (heading.any() and free < truth.MOVED):
        return None
    start = [draws.uniform(a, b) for a, b in zip(low, high, strict=True)]
    return _launch(body, start, velocity=travel / max(scene.duration, 1e-9))


def _place_leaving(
    draws: Draws, scene: scenes.Scene, body: scenes.Body, *, speed: float
) -> scenes.Body | None:
    """Ends across the edge it heads for; one that stays still starts across it."""
    heading = body.direction if body.direction not in (None, "still") else None
    edge = np.array(palette.DIRECTIONS[heading or draws.choice(("left", "right"))])
    extent = np.array(scene.extent)
    inside = [draws.uniform(body.reach, side - body.reach) for side in extent]
    camera = np.array([scene.pan * scene.duration, 0.0])
    depth = draws.uniform(-0.6, 0.3) * body.radius
    end = np.where(edge > 0, extent + depth, np.where(edge < 0, -depth, inside))
    travel = edge * speed * scene.duration if heading else np.zeros(2)
    start = end - travel + camera
    return _launch(body, start.tolist(), velocity=travel / max(scene.duration, 1e-9))


def _place_free(
    draws: Draws, scene: scenes.Scene, body: scenes.Body, *, speed: float
) -> scenes.Body | None:
    """Anywhere inside; falls under gravity, or flies into the walls."""
    heading = np.array(palette.DIRECTIONS[body.direction or "still"])
    width, height = scene.extent
    edge = body.reach + scenes.WALL_INSET
    lowest = max(0.5 * height, edge) if scene.gravity else height - edge
    start = [draws.uniform(edge, width - edge), draws.uniform(edge, lowest)]
    jitter = draws.uniform(-0.15, 0.15) * heading[::-1]
    faster = 1.0 if scene.gravity else draws.uniform(1.0, 2.5)
    return _launch(body, start, velocity=(heading + jitter) * speed * faster)


def _launch(
    body: scenes.Body, start: Sequence[float], *, velocity: np.ndarray
) -> scenes.Body:
    return dataclasses.replace(
        body,
        position=(float(start[0]), float(start[1])),
        velocity=(float(velocity[0]), float(velocity[1])),
    )


# One body that moves evenly and never leaves, many images, short clips: what a
# transformer of a few million parameters learns in minutes on a CPU.
_DEMO = WorldConfig(
    frames=(9, 17, 17),
    image_share=0.25,
    colours=("red", "yellow", "green", "cyan", "blue", "purple"),
    shapes=("circle", "square", "triangle"),
    backgrounds=("black", "gray", "white", "tan"),
    counts=(1.0,),
    twins=0.0,
    gravity=0.0,
    bounce=0.0,
    leave=0.0,
    separate=True,
    spin=0.0,
    occluder=0.0,
    pan=0.0,
    dotted=0.0,
)
VARIANTS = {
    "demo": _DEMO,
    # The same bodies in images and shorter clips: more of them per token.
    "short": dataclasses.replace(_DEMO, frames=(9, 17), image_share=0.55),
    "images": dataclasses.replace(_DEMO, image_share=1.0),
    "videos": dataclasses.replace(_DEMO, image_share=0.0),
    # One body that passes behind a bar, evenly.
    "hidden": dataclasses.replace(
        _DEMO,
        sizes=((96, 64),),
        frames=(17,),
        image_share=0.0,
        object_sizes=("small",),
        directions=("left", "right"),
        speed=(0.45, 0.6),
        occluder=1.0,
        bar=(0.3, 0.36),
    ),
    # One to three of them that move each in its own way, the camera too.
    "directed": dataclasses.replace(
        _DEMO,
        sizes=((96, 64),),
        frames=(17,),
        image_share=0.1,
        counts=(0.35, 0.45, 0.2),
        speed=(0.15, 0.3),
        dotted=0.3,
        pan=0.35,
    ),
    # One to three of them, alike or not, so that there is something to count: what the
    # captioner learns from.
    "several": dataclasses.replace(
        _DEMO, image_share=0.4, counts=(0.5, 0.3, 0.2), twins=0.2
    ),
    # Everything there is: up to three bodies, gravity, walls, bars, pans, a dozen
    # aspect ratios, an image to six seconds: what `configs/bodies_world.py` trains on.
    "wide": WorldConfig(
        sizes=(
            *((64, 64), (80, 64), (64, 80), (96, 64), (64, 96), (112, 64), (64, 112)),
            *((128, 64), (64, 128), (96, 80), (80, 96), (144, 64)),
        ),
        frames=(9, 17, 17, 25, 33, 49),
        image_share=0.15,
        separate=True,
        spin=0.3,
    ),
    "full": WorldConfig(
        sizes=((64, 64), (96, 64), (64, 96), (128, 96), (80, 112)),
        frames=(17, 17, 17, 9, 33),
        fps=(8.0, 12.0),
    ),
}
