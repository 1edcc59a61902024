"""A scene of rigid bodies, and how it moves.

Lengths are in short sides, times in seconds, x to the right and y down. World
coordinates are the screen's at time 0; a camera that has moved by c(t) along x shows

    screen(t) = world(t) - (c(t), 0).                     (1)

pymunk moves the bodies: no friction, elasticity `ELASTICITY`, fixed steps of at most
1/60 s. Its length unit is a hundredth of a short side, to which its own tolerances
(collision slop) are suited.
"""

import dataclasses
import math

import numpy as np
import pymunk
from jaxtyping import Float

from data_pipelines.worlds import palette

ELASTICITY = 0.85
WALL_INSET = 0.035  # so that a body that touches a wall is still wholly inside
_UNIT = 100.0
_GRID = 2.0**14  # trajectories are rounded to this, so that bytes agree across machines


@dataclasses.dataclass(frozen=True)
class Body:
    """One body at time 0; `direction` is the motion it was launched with."""

    colour: str
    shape: str
    size: str
    direction: str | None
    radius: float
    position: tuple[float, float]
    velocity: tuple[float, float] = (0.0, 0.0)
    angle: float = 0.0
    spin: float = 0.0

    @property
    def reach(self) -> float:
        """Radius of the circle that holds the body at any angle."""
        return self.radius * palette.SHAPES[self.shape].outer

    def box(self, angle: float) -> Float[np.ndarray, "4"]:
        """Left, top, right, bottom from the centre, in short sides."""
        return self.radius * np.asarray(palette.SHAPES[self.shape].box(angle))


@dataclasses.dataclass(frozen=True)
class Occluder:
    """A bar over the full height, in front of every body; `x` is its middle."""

    x: float
    width: float


@dataclasses.dataclass(frozen=True)
class Scene:
    """Everything that decides a clip's pixels. `pan` is the camera's speed along x."""

    width: int
    height: int
    frames: int
    fps: float
    background: str
    bodies: tuple[Body, ...]
    dotted: bool = False
    occluder: Occluder | None = None
    pan: float = 0.0
    gravity: float = 0.0
    walls: bool = False

    @property
    def short_side(self) -> int:
        return min(self.width, self.height)

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height in short sides."""
        return self.width / self.short_side, self.height / self.short_side

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the last."""
        return (self.frames - 1) / self.fps

    def camera(self) -> Float[np.ndarray, "T"]:
        """c(t) of equation (1)."""
        return self.pan * np.arange(self.frames) / self.fps


@dataclasses.dataclass(frozen=True)
class Event:
    """A bounce: of `body`, at `frame` (the first that shows it), off `against`."""

    frame: int
    body: int
    against: str


@dataclasses.dataclass(frozen=True)
class Motion:
    """World positions, angles in radians, and events."""

    position: Float[np.ndarray, "T bodies 2"]
    angle: Float[np.ndarray, "T bodies"]
    events: tuple[Event, ...] = ()

    def screen(self, scene: Scene) -> Float[np.ndarray, "T bodies 2"]:
        """Positions on the screen, equation (1)."""
        camera = scene.camera()[:, None]
        return self.position - np.stack([camera, np.zeros_like(camera)], axis=-1)


def simulate(scene: Scene) -> Motion:
    """Simulate the scene; the last frame is at `scene.duration`."""
    space = pymunk.Space()
    space.gravity = (0.0, scene.gravity * _UNIT)
    names: dict[pymunk.Shape, str] = {}
    bodies = [
        _add_body(space, body, names=names, index=index)
        for index, body in enumerate(scene.bodies)
    ]
    if scene.walls:
        _add_walls(space, scene, names=names)
    hits: list[tuple[int, int, str]] = []
    frame = 0

    def note(arbiter: pymunk.Arbiter, space: pymunk.Space, data: object) -> None:
        first, second = (names[shape] for shape in arbiter.shapes)
        for body, other in ((first, second), (second, first)):
            if body.isdigit():
                hits.append((frame, int(body), other))

    space.on_collision(None, None, begin=note)
    steps = max(1, math.ceil(60 / scene.fps))
    position = np.zeros((scene.frames, len(bodies), 2))
    angle = np.zeros((scene.frames, len(bodies)))
    for frame in range(scene.frames):
        if frame > 0:
            for _ in range(steps):
                space.step(1 / (scene.fps * steps))
        position[frame] = [tuple(body.position) for body in bodies]
        angle[frame] = [body.angle for body in bodies]
    return Motion(
        position=np.round(position / _UNIT * _GRID) / _GRID,
        angle=np.round(angle * _GRID) / _GRID,
        events=_bounces(scene, hits),
    )


def _bounces(scene: Scene, hits: list[tuple[int, int, str]]) -> tuple[Event, ...]:
    """One event per contact: a body that rests on the floor bounces no more."""
    events: list[Event] = []
    last: dict[tuple[int, str], int] = {}
    for frame, body, against in hits:
        if frame - last.get((body, against), -10) >= 2:
            events.append(Event(frame=frame, body=body, against=against))
        last[body, against] = frame
    return tuple(events)


def _add_body(
    space: pymunk.Space, body: Body, *, names: dict[pymunk.Shape, str], index: int
) -> pymunk.Body:
    form = palette.SHAPES[body.shape]
    physical = pymunk.Body(mass=body.radius**2, moment=1.0)
    if form.vertices is None:
        radius = form.outer * body.radius * _UNIT
        outline: pymunk.Shape = pymunk.Circle(physical, radius)
        physical.moment = pymunk.moment_for_circle(physical.mass, 0, radius)
    else:
        vertices = [tuple(v) for v in (form.vertices * body.radius * _UNIT).tolist()]
        outline = pymunk.Poly(physical, vertices)
        physical.moment = pymunk.moment_for_poly(physical.mass, outline.get_vertices())
    outline.elasticity = ELASTICITY
    outline.friction = 0.0
    names[outline] = str(index)
    physical.position = (body.position[0] * _UNIT, body.position[1] * _UNIT)
    physical.velocity = (body.velocity[0] * _UNIT, body.velocity[1] * _UNIT)
    physical.angle = body.angle
    physical.angular_velocity = body.spin
    space.add(physical, outline)
    return physical


def _add_walls(
    space: pymunk.Space, scene: Scene, *, names: dict[pymunk.Shape, str]
) -> None:
    """Walls around all that the camera ever shows."""
    travel = scene.pan * scene.duration
    left = WALL_INSET + min(0.0, travel)
    right = scene.extent[0] - WALL_INSET + max(0.0, travel)
    top, bottom, thick = WALL_INSET, scene.extent[1] - WALL_INSET, 0.5
    corners = {
        "left wall": ((left - thick, top), (left - thick, bottom)),
        "right wall": ((right + thick, top), (right + thick, bottom)),
        "ceiling": ((left, top - thick), (right, top - thick)),
        "floor": ((left, bottom + thick), (right, bottom + thick)),
    }
    for name, (start, end) in corners.items():
        wall = pymunk.Segment(
            space.static_body,
            (start[0] * _UNIT, start[1] * _UNIT),
            (end[0] * _UNIT, end[1] * _UNIT),
            thick * _UNIT,
        )
        wall.elasticity, wall.friction = 1.0, 0.0
        names[wall] = name
        space.add(wall)
