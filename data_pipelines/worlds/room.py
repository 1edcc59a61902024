"""The world `room`: 3-D solids on a textured floor, seen by a camera that moves.

Lengths are of the world: solids are about 1 high and stand within a circle of radius
1.3 on the floor y = 0. A camera at c with axes r (right), d (down), f (forward) and
focal length F, in short sides, shows the world point p at

    x = F (p - c).r / (p - c).f,   y = F (p - c).d / (p - c).f,                   (1)

from the middle of the frame. Every pixel is the nearest hit of its ray (sphere, box,
cylinder or cone in closed form), averaged over 2 x 2 rays, with one light from above
and soft contact shadows on the floor. No OpenGL. A camera orbits, pans, zooms or stays
still; all of it, frame by frame, is in `truth`, as are the solids.
"""

import dataclasses
import hashlib
import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from data_pipelines.worlds import bodies, captions, palette

SHAPES = ("ball", "cube", "cylinder", "cone")
COLOURS = ("red", "yellow", "green", "cyan", "blue", "purple")
FLOORS = ("gray", "white", "tan")
CAMERAS = (
    "orbits left",
    "orbits right",
    "pans left",
    "pans right",
    "zooms in",
    "zooms out",
    "stays still",
)
SIZES = {"small": (0.30, 0.36), "large": (0.52, 0.60)}  # half of a solid's height
SKY = (196, 212, 226)
FOCAL = 1.3
_LIGHT = np.array([0.35, 0.86, -0.37])
_ATTEMPTS = 500
_DISTANCE = 4.6


@dataclasses.dataclass(frozen=True)
class RoomConfig:
    """The distribution of clips; tuples are drawn from evenly.

    Attributes:
      sizes: (width, height) in pixels.
      frames: lengths of clips.
      fps: frame rates.
      image_share: probability of an image instead, whose camera stays still.
      counts: probabilities of 1, 2 and 3 solids.
      turn: range of the angle of orbits and pans, in degrees per second.
      zoom: range of the growth of the focal length, as a factor per second.
      holdout: 'any', 'exclude' or 'only' combinations held out from training.
    """

    sizes: tuple[tuple[int, int], ...] = ((64, 64), (96, 64), (64, 96))
    frames: tuple[int, ...] = (17, 17, 9)
    fps: tuple[float, ...] = (8.0,)
    image_share: float = 0.2
    colours: tuple[str, ...] = COLOURS
    shapes: tuple[str, ...] = SHAPES
    object_sizes: tuple[str, ...] = tuple(SIZES)
    floors: tuple[str, ...] = FLOORS
    cameras: tuple[str, ...] = CAMERAS
    counts: tuple[float, ...] = (0.4, 0.4, 0.2)
    turn: tuple[float, float] = (14.0, 22.0)
    zoom: tuple[float, float] = (1.16, 1.25)
    holdout: str = "any"

    def __post_init__(self) -> None:
        palette.check_names(self.colours, COLOURS, kind="colour")
        palette.check_names(self.shapes, SHAPES, kind="shape")
        palette.check_names(self.object_sizes, SIZES, kind="object size")
        palette.check_names(self.floors, FLOORS, kind="floor")
        palette.check_names(self.cameras, CAMERAS, kind="camera")
        palette.check_names(
            [self.holdout], ("any", "exclude", "only"), kind="holdout mode"
        )
        if not self.sizes or min(min(size) for size in self.sizes) < 32:
            raise ValueError(f"sizes {self.sizes}: use sides of 32 pixels or more")
        if not self.frames or min(self.frames) < 1:
            raise ValueError(f"frames {self.frames}: use 1 or more")
        if len(self.counts) > min(3, len(self.colours)) or sum(self.counts) <= 0:
            raise ValueError(
                f"counts {self.counts}: give the probabilities of up to 3 solids, and "
                "as many colours"
            )


@dataclasses.dataclass(frozen=True)
class Solid:
    """A solid on the floor; `half` is half of its height, `x` and `z` its place."""

    colour: str
    shape: str
    size: str
    half: float
    x: float
    z: float
    angle: float


@dataclasses.dataclass(frozen=True)
class CameraPath:
    """Equation (1) for every frame.

    Attributes:
      position: c.
      axes: rows r, d and f.
      focal: F in short sides.
    """

    position: Float[np.ndarray, "T 3"]
    axes: Float[np.ndarray, "T 3 3"]
    focal: Float[np.ndarray, "T"]

    def project(
        self, points: Float[np.ndarray, "P 3"]
    ) -> tuple[Float[np.ndarray, "T P 2"], Float[np.ndarray, "T P"]]:
        """x and y of equation (1) in short sides, and depths along f."""
        away = points[None] - self.position[:, None]
        seen = np.einsum("taj,tpj->tpa", self.axes, away)
        return self.focal[:, None, None] * seen[..., :2] / seen[..., 2:], seen[..., 2]


def camera_path(
    name: str,
    times: Float[np.ndarray, "T"],
    *,
    start: float,
    rate: float,
    height: float,
) -> CameraPath:
    """The camera of a clip, which begins by looking at the middle of the floor.

    Args:
      name: one of `CAMERAS`.
      times: seconds of the frames.
      start: angle of its place about the vertical, in radians.
      rate: radians per second of orbits and pans, log factor per second of zooms.
      height: above the floor.
    """
    kind, way = name.split()
    sign = {"right": 1.0, "left": -1.0, "in": 1.0, "out": -1.0, "still": 0.0}[way]
    moved = sign * rate * times
    angle = start + (moved if kind == "orbits" else 0 * times)
    reach = math.sqrt(_DISTANCE**2 - height**2)
    position = np.stack(
        [reach * np.sin(angle), np.full_like(times, height), -reach * np.cos(angle)], -1
    )
    forward = np.array([0.0, 0.35, 0.0]) - position
    if kind == "pans":
        cos, sin = np.cos(moved), np.sin(moved)
        x, z = forward[:, 0].copy(), forward[:, 2].copy()
        forward[:, 0], forward[:, 2] = cos * x + sin * z, cos * z - sin * x
    forward /= np.linalg.norm(forward, axis=-1, keepdims=True)
    right = np.cross(np.array([0.0, 1.0, 0.0]), forward)
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    down = -np.cross(forward, right)
    focal = FOCAL * np.exp(moved if kind == "zooms" else 0 * times)
    return CameraPath(position, np.stack([right, down, forward], 1), focal)


def render_clip(seed: int, index: int, *, config: RoomConfig) -> bodies.RenderedClip:
    """Render clip `index` of stream `seed`; the same bytes whatever else is rendered.

    Raises:
      ValueError: negative seed or index, or a config that no scene satisfies.
    """
    draws = bodies.Draws(seed, index)
    for _ in range(_ATTEMPTS):
        image = draws.chance(config.image_share)
        frames = 1 if image else draws.choice(config.frames)
        solids = _draw_solids(draws, config)
        floor = draws.choice(config.floors)
        camera = draws.choice(config.cameras) if frames > 1 else "stays still"
        width, height = draws.choice(config.sizes)
        if solids and _allowed(solids, floor, camera=camera, holdout=config.holdout):
            break
    else:
        raise ValueError(
            f"no clip fits this config with holdout={config.holdout!r}: give more "
            "colours, floors or cameras, or use holdout='any'"
        )
    fps = draws.choice(config.fps)
    zooms = camera.startswith("zooms")
    rate = (
        math.log(draws.uniform(*config.zoom))
        if zooms
        else math.radians(draws.uniform(*config.turn))
    )
    if camera == "zooms in" or camera.startswith("pans"):
        rate *= 0.6  # what it looks at stays inside of the frame
    path = camera_path(
        camera,
        np.arange(frames) / fps,
        start=draws.uniform(0, 2 * math.pi),
        rate=rate,
        height=draws.uniform(1.7, 2.1),
    )
    video, ids = render(solids, floor, path=path, width=width, height=height)
    description = describe(solids, floor, camera=camera, path=path, ids=ids, fps=fps)
    words = {
        "short": captions.short(description["objects"]),
        "detailed": caption(
            description["objects"], floor=floor, camera=camera, image=frames == 1
        ),
    }
    return bodies.RenderedClip(video, fps, words, description)


def caption(
    objects: list[dict[str, Any]], *, floor: str, camera: str, image: bool = False
) -> str:
    """ "a large red cube on a gray floor. the camera orbits left"."""
    text = f"{captions.short(objects)} on a {floor} floor"
    return text if image else f"{text}. the camera {camera}"


def parse(text: str) -> dict[str, Any]:
    """The attributes a caption names, as `truth['attributes']` has them.

    Raises:
      ValueError: the text names no solid of this world.
    """
    words = " ".join(text.lower().split())
    objects = []
    for phrase in words.split(" on a ")[0].replace(" and ", ", ").split(", "):
        parts = phrase.split()
        shape = next((s for s in SHAPES if s in parts), None)
        if shape is None:
            continue
        item = {"shape": shape}
        for key, names in (("colour", COLOURS), ("size", tuple(SIZES))):
            named = [name for name in names if name in parts]
            item |= {key: named[0]} if named else {}
        objects.append(item)
    if not objects:
        raise ValueError(f"no solid named in {text!r}: try 'a large red cube'")
    floor = next((f for f in FLOORS if f"on a {f} floor" in words), None)
    camera = next((c for c in CAMERAS if f"the camera {c}" in words), None)
    return attributes(objects, floor=floor, camera=camera)


def attributes(
    objects: list[dict[str, Any]], *, floor: str | None, camera: str | None
) -> dict[str, Any]:
    """`count`, `colours` (sorted), `floor` and `camera`; None is left out."""
    colours = sorted(o["colour"] for o in objects if "colour" in o)
    found = {
        "count": len(objects),
        "colours": colours if len(colours) == len(objects) else None,
        "floor": floor,
        "camera": camera,
    }
    return {key: value for key, value in found.items() if value is not None}


def is_held_out(colour: str, shape: str, *, floor: str, camera: str) -> bool:
    """Whether training with `holdout='exclude'` never shows this combination."""
    name = f"{colour}/{shape}/{floor}/{camera}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % 10 == 0


def _allowed(solids: list[Solid], floor: str, *, camera: str, holdout: str) -> bool:
    if holdout == "any":
        return True
    new = any(
        is_held_out(s.colour, s.shape, floor=floor, camera=camera) for s in solids
    )
    return new == (holdout == "only")


def _draw_solids(draws: bodies.Draws, config: RoomConfig) -> list[Solid]:
    """Solids of different colours that do not touch, large ones first."""
    count = 1 + draws.weighted(config.counts)
    colours = list(config.colours)
    solids: list[Solid] = []
    for _ in range(count):
        size = draws.choice(config.object_sizes)
        half = draws.uniform(*SIZES[size])
        place = 0.35 if count == 1 else 1.2
        solid = Solid(
            colour=colours.pop(int(draws.uniform(0, len(colours)))),
            shape=draws.choice(config.shapes),
            size=size,
            half=half,
            x=draws.uniform(-place, place),
            z=draws.uniform(-place, place),
            angle=draws.uniform(0, math.pi / 2),
        )
        if any(
            math.hypot(solid.x - s.x, solid.z - s.z) < 1.45 * (half + s.half) + 0.1
            for s in solids
        ):
            return []
        solids.append(solid)
    return sorted(solids, key=lambda s: -s.half)


def describe(
    solids: list[Solid],
    floor: str,
    *,
    camera: str,
    path: CameraPath,
    ids: Int[np.ndarray, "T H W"],
    fps: float,
) -> dict[str, Any]:
    """Ground truth as plain JSON values, the camera of every frame in it."""
    frames, height, width = ids.shape
    objects = [
        {
            "colour": s.colour,
            "shape": s.shape,
            "size": s.size,
            "verb": None,
            "half": s.half,
            "x": s.x,
            "z": s.z,
            "angle": s.angle,
        }
        for s in solids
    ]
    least = 0.004 * min(height, width) ** 2
    area = np.stack([(ids == i + 1).sum((1, 2)) for i in range(len(solids))], -1)
    plain = bool((area >= 2.5 * least).all(1).mean() >= 0.6)
    lit = bool((area >= least).all())
    return {
        "attributes": attributes(objects, floor=floor, camera=camera),
        "visible": {
            "count": plain and lit,
            "colours": plain and lit,
            "floor": bool((ids == 0).mean() > 0.25),
            "camera": frames >= 5,
        },
        "objects": objects,
        "floor": floor,
        "camera": camera,
        "path": {
            "position": np.round(path.position, 5).tolist(),
            "axes": np.round(path.axes, 6).tolist(),
            "focal": np.round(path.focal, 5).tolist(),
        },
        "width": width,
        "height": height,
        "frames": frames,
        "fps": fps,
    }


def render(
    solids: list[Solid], floor: str, *, path: CameraPath, width: int, height: int
) -> tuple[UInt8[np.ndarray, "T H W 3"], Int[np.ndarray, "T H W"]]:
    """Every frame, and what its pixels show: 0 floor, i solid i, -1 sky."""
    video = np.zeros((len(path.focal), height, width, 3), np.uint8)
    ids = np.zeros((len(path.focal), height, width), np.int32)
    short = min(width, height)
    x = (np.arange(2 * width) + 0.5) / 2 - width / 2
    y = (np.arange(2 * height) + 0.5) / 2 - height / 2
    for frame, focal in enumerate(path.focal):
        plane = np.stack(np.broadcast_arrays(x[None] / short, y[:, None] / short), -1)
        rays = plane @ path.axes[frame, :2] + focal * path.axes[frame, 2]
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        colour, what = _shade(solids, floor, origin=path.position[frame], rays=rays)
        small = colour.reshape(height, 2, width, 2, 3).mean((1, 3))
        video[frame] = np.clip(np.round(small), 0, 255).astype(np.uint8)
        ids[frame] = what[::2, ::2]
    return video, ids


def _shade(
    solids: list[Solid], floor: str, *, origin: np.ndarray, rays: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Colours of rays, and what each hits first."""
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.where(rays[..., 1] < -1e-6, -origin[1] / rays[..., 1], np.inf)
    ground = origin + np.where(np.isfinite(far), far, 0.0)[..., None] * rays
    base = np.asarray(palette.BACKGROUNDS[floor], float)
    turn = 2 * math.pi / 1.1
    waves = np.cos(turn * ground[..., 0]) + np.cos(turn * ground[..., 2])
    fade = np.exp(-np.maximum(far - 3.0, 0.0) / 7.0)
    colour = base + (20.0 * waves * fade)[..., None]
    for solid in solids:
        gap = np.hypot(ground[..., 0] - solid.x, ground[..., 2] - solid.z)
        shadow = 0.3 * np.clip(1.6 - gap / solid.half, 0, 1)
        colour = colour * (1 - shadow[..., None])
    haze = np.where(np.isfinite(far), np.clip((far - 5.0) / 14.0, 0, 1), 1.0)[..., None]
    colour = (1 - haze) * colour + haze * np.asarray(SKY, float)
    what = np.where(np.isfinite(far), 0, -1)
    nearest = far.copy()
    for number, solid in enumerate(solids, start=1):
        distance, normal = _hit(solid, origin=origin, rays=rays)
        closer = distance < nearest
        light = 0.62 + 0.38 * np.clip(normal @ _LIGHT, 0, 1)
        painted = light[..., None] * np.asarray(palette.COLOURS[solid.colour], float)
        colour = np.where(closer[..., None], painted, colour)
        nearest = np.where(closer, distance, nearest)
        what = np.where(closer, number, what)
    return colour, what


def _hit(
    solid: Solid, *, origin: np.ndarray, rays: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distance along rays to a solid, inf where they miss, and the normal there."""
    h = solid.half
    cos, sin = math.cos(solid.angle), math.sin(solid.angle)
    turn = np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])
    o = turn @ (origin - np.array([solid.x, h, solid.z])) / h
    d = rays @ turn.T  # in units of h: the solid is within [-1, 1]
    hit = {"ball": _ball, "cube": _cube, "cylinder": _cylinder, "cone": _cone}
    with np.errstate(divide="ignore", invalid="ignore"):
        distance, normal = hit[solid.shape](o, d)
    distance = np.where(distance > 1e-6, distance, np.inf)
    return distance * h, normal @ turn


def _quadratic(a: Any, *, b: Any, c: Any) -> np.ndarray:
    """The smaller root of a t^2 + 2 b t + c, NaN without one."""
    inside = b * b - a * c
    return np.where(inside >= 0, (-b - np.sqrt(np.maximum(inside, 0))) / a, np.nan)


def _ball(o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    t = _quadratic(np.ones(d.shape[:-1]), b=d @ o, c=o @ o - 1)
    t = np.where(np.isnan(t), np.inf, t)
    return t, np.where(
        np.isfinite(t)[..., None],
        o + np.where(np.isfinite(t), t, 0.0)[..., None] * d,
        0.0,
    )


def _cube(o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    side = 0.9  # a little less than its height: a cube looks no larger than a ball
    half = np.array([side, 1.0, side])
    near = (-np.sign(d) * half - o) / d
    far = (np.sign(d) * half - o) / d
    t = near.max(-1)
    axis = near.argmax(-1)
    normal = -np.sign(d) * np.eye(3)[axis]
    return np.where(t <= far.min(-1), t, np.inf), normal


def _cap(o: np.ndarray, d: np.ndarray, *, y: float, radius: float) -> np.ndarray:
    """Distance to a level disc."""
    t = (y - o[1]) / d[..., 1]
    x, z = o[0] + t * d[..., 0], o[2] + t * d[..., 2]
    return np.where(x * x + z * z <= radius**2, t, np.inf)


def _cylinder(o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r, flat = 0.8, np.array([1.0, 0.0, 1.0])
    side = d * flat
    t = _quadratic((side * side).sum(-1), b=side @ o, c=(o * flat) @ o - r * r)
    level = np.abs(o[1] + t * d[..., 1]) <= 1
    t = np.where(level, t, np.inf)
    top = _cap(o, d, y=1.0, radius=r)
    at = o + np.where(np.isfinite(t), t, 0.0)[..., None] * d
    normal = np.where((top < t)[..., None], np.array([0.0, 1.0, 0.0]), at * flat / r)
    return np.minimum(t, top), normal


def _cone(o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    slope = 0.5  # radius 1 at the foot, y = -1, and 0 at the top, y = 1
    form = np.array([1.0, -(slope**2), 1.0])
    tip = o - np.array([0.0, 1.0, 0.0])
    a, b, c = (d * d) @ form, d @ (form * tip), float((form * tip) @ tip)
    inside = np.sqrt(np.maximum(b * b - a * c, 0))
    best = np.full(d.shape[:-1], np.inf)
    for t in ((-b - inside) / a, (-b + inside) / a):
        y = o[1] + t * d[..., 1]
        good = (b * b >= a * c) & (t > 1e-6) & (np.abs(y) <= 1)
        best = np.where(good & (t < best), t, best)
    at = tip + np.where(np.isfinite(best), best, 0.0)[..., None] * d
    normal = at * form
    size = np.linalg.norm(normal, axis=-1, keepdims=True)
    return best, normal / np.maximum(size, 1e-9)


VARIANTS = {
    "demo": RoomConfig(),
    "images": RoomConfig(image_share=1.0),
    "full": RoomConfig(
        sizes=((64, 64), (96, 64), (64, 96), (128, 96), (80, 112)),
        frames=(17, 33, 9),
        fps=(8.0, 12.0),
    ),
}
