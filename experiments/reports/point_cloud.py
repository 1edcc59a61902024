"""A point cloud of a clip of `room` whose camera orbits, and the camera itself.

1. The camera. The world says how an orbit goes (`room.camera_path`) but for its speed
   and its height. Those are searched for: a pixel of the floor, grey and below the
   horizon, lies where its ray meets the plane y = 0, and is seen by every other frame
   where that point projects to. With I the brightness and m the middle frame,

       left(camera) = mean |I_k(project_k(p)) - I_m(p)| / mean |I_k(p) - I_m(p)|   (1)

   over floor pixels p and frames k is 1 for a camera that stands and near 0 for the
   one that was there.
2. Depth, by a plane sweep (Collins, 1996): along the ray of each pixel of the middle
   frame the depth at which the other frames look most alike, on whichever side of the
   clip, before or after, it is seen better; costs are averaged over small windows.
3. Points whose depth is decided, that is whose least cost lies well below their mean
   cost, are the cloud, in the world's units, the camera of the first frame at angle 0.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy import ndimage

from data_pipelines.worlds import room

MAX_TURN = 32.0  # degrees per second, on either side, that are searched
HEIGHTS = (1.7, 1.8, 1.9, 2.0, 2.1)
DEPTHS = 1 / np.linspace(1 / 9.0, 1 / 2.6, 56)
_GREY = 0.42  # saturation below which a pixel may be floor; that of tan is 0.33
_DECIDED = 0.6  # least cost over mean cost, at most
_WINDOW = 5  # pixels
_CHANGES = 0.3  # levels


@dataclasses.dataclass(frozen=True)
class Orbit:
    """The camera of a clip.

    Attributes:
      turn: degrees per second, positive to the right.
      height: above the floor.
      left: equation (1).
      path: of every frame.
    """

    turn: float
    height: float
    left: float
    path: room.CameraPath


@dataclasses.dataclass(frozen=True)
class Cloud:
    """Points in the world's units, and their colours."""

    points: Float[np.ndarray, "P 3"]
    colours: UInt8[np.ndarray, "P 3"]


def find_orbit(video: UInt8[np.ndarray, "T H W 3"], *, fps: float) -> Orbit:
    """The orbit that equation (1) is least of: a grid, then finer about its best.

    Raises:
      ValueError: fewer than three frames.
    """
    if len(video) < 3:
        raise ValueError(f"{len(video)} frame(s) show no orbit: use 3 or more")
    times = np.arange(len(video)) / fps
    grey = ndimage.gaussian_filter(video.astype(np.float32).mean(-1), (0, 0.7, 0.7))
    mask = _saturation(video[len(video) // 2]) < _GREY

    def orbit(turn: float, height: float) -> Orbit:
        path = room.camera_path(
            "orbits right",
            times,
            start=0.0,
            rate=math.radians(turn),
            height=height,
        )
        return Orbit(turn, height, _left(grey, path, mask=mask), path)

    # Least turns first: of cameras that explain alike, the one that moves least.
    turns = sorted(np.arange(-MAX_TURN, MAX_TURN + 1, 2.0), key=abs)
    coarse = min((orbit(turn, 1.9) for turn in turns), key=lambda o: o.left)
    near = sorted(coarse.turn + np.arange(-2.0, 2.25, 0.25), key=abs)
    fine = (orbit(turn, height) for turn in near for height in HEIGHTS)
    return min(fine, key=lambda o: o.left)


def _left(
    grey: Float[np.ndarray, "T H W"], path: room.CameraPath, *, mask: np.ndarray
) -> float:
    """Equation (1); 1 where no floor is seen, or nothing of it changes."""
    middle = len(grey) // 2
    rays, origin = _rays(grey.shape[1:3], path, frame=middle)
    down = (rays[..., 1] < -0.05) & mask
    if not down.any():
        return 1.0
    ray = rays[down]
    points = origin - origin[1] / ray[:, 1:2] * ray
    seen = _sample(grey[..., None], path, points=points)[..., 0]
    here = grey[middle][down]
    there = np.isfinite(seen)
    moved = np.abs(seen - here)[there].mean()
    stood = np.abs(grey[:, down] - here)[there].mean()
    return float(moved / stood) if stood > _CHANGES else 1.0


def _rays(
    shape: Sequence[int], path: room.CameraPath, *, frame: int
) -> tuple[Float[np.ndarray, "H W 3"], Float[np.ndarray, "3"]]:
    """Rays of pixels, 1 along the camera's own axis, and where they begin."""
    height, width = shape
    short, focal = min(shape), path.focal[frame]
    x = (np.arange(width) + 0.5 - width / 2) / short / focal
    y = (np.arange(height) + 0.5 - height / 2) / short / focal
    plane = np.stack(np.broadcast_arrays(x[None], y[:, None]), -1)
    return plane @ path.axes[frame, :2] + path.axes[frame, 2], path.position[frame]


def _sample(
    frames: Float[np.ndarray, "T H W C"],
    path: room.CameraPath,
    *,
    points: Float[np.ndarray, "P 3"],
) -> Float[np.ndarray, "T P C"]:
    """What every frame has where it sees the points; NaN outside of it."""
    height, width = frames.shape[1:3]
    places, depth = path.project(points)
    columns = places[..., 0] * min(height, width) + width / 2 - 0.5
    rows = places[..., 1] * min(height, width) + height / 2 - 0.5
    seen = np.stack(
        [
            np.stack(
                [
                    ndimage.map_coordinates(
                        frame[..., c], [r, col], order=1, mode="nearest"
                    )
                    for c in range(frames.shape[-1])
                ],
                -1,
            )
            for frame, r, col in zip(frames, rows, columns, strict=True)
        ]
    )
    inside = (depth > 0.1) & (rows > -0.5) & (rows < height - 0.5)
    inside &= (columns > -0.5) & (columns < width - 0.5)
    return np.where(inside[..., None], seen, np.nan)


def _saturation(pixels: np.ndarray) -> np.ndarray:
    high = pixels.max(-1).astype(np.float32)
    return (high - pixels.min(-1)) / np.maximum(high, 1.0)


def reconstruct(video: UInt8[np.ndarray, "T H W 3"], path: room.CameraPath) -> Cloud:
    """The cloud of the middle frame, by a plane sweep along a camera's path."""
    middle = len(video) // 2
    frames = video.astype(np.float32)
    rays, origin = _rays(video.shape[1:3], path, frame=middle)
    sides = [np.arange(len(video)) < middle, np.arange(len(video)) > middle]
    costs = []
    for depth in DEPTHS:
        points = (origin + depth * rays).reshape(-1, 3)
        seen = _sample(frames, path, points=points)
        away = np.abs(seen - frames[middle].reshape(1, -1, 3)).mean(-1)
        # What nothing is seen of costs as much as black against white.
        away = np.where(np.isfinite(away), away, 255.0)
        least = np.minimum(*(away[side].mean(0) for side in sides))
        costs.append(ndimage.uniform_filter(least.reshape(rays.shape[:2]), _WINDOW))
    cost = np.stack(costs)
    best = cost.argmin(0)
    decided = cost.min(0) < _DECIDED * np.median(cost, axis=0)
    decided &= (best > 0) & (best < len(DEPTHS) - 1)
    points = origin + DEPTHS[best][..., None] * rays
    return Cloud(points[decided], video[middle][decided])


def write_ply(path: pathlib.Path, cloud: Cloud) -> None:
    """The cloud as an ASCII PLY file, up along y."""
    header = (
        f"ply\nformat ascii 1.0\nelement vertex {len(cloud.points)}\n"
        + "".join(f"property float {axis}\n" for axis in "xyz")
        + "".join(f"property uchar {name}\n" for name in ("red", "green", "blue"))
        + "end_header\n"
    )
    lines = (
        f"{x:.4f} {y:.4f} {z:.4f} {r} {g} {b}\n"
        for (x, y, z), (r, g, b) in zip(
            cloud.points.tolist(), cloud.colours.tolist(), strict=True
        )
    )
    path.write_text(header + "".join(lines))


def draw(
    path: pathlib.Path,
    cloud: Cloud,
    *,
    frame: UInt8[np.ndarray, "H W 3"],
    orbit: Orbit,
) -> None:
    """The frame that the cloud is of, and the cloud from there, two sides and above."""
    scale = 4
    start = math.radians(orbit.turn) * (len(orbit.path.focal) // 2)
    start *= _seconds_per_frame(orbit)
    views = [
        (start, orbit.height),
        (start - 0.6, 1.9),
        (start + 0.6, 1.9),
        (start, 4.3),
    ]
    pictures = [np.asarray(Image.fromarray(frame).resize(_wide(frame, scale)))]
    for angle, height in views:
        camera = room.camera_path(
            "stays still", np.zeros(1), start=angle, rate=0.0, height=height
        )
        pictures.append(_splat(cloud, camera, shape=pictures[0].shape[:2]))
    gap = np.full((pictures[0].shape[0], 4, 3), 255, np.uint8)
    row = [part for picture in pictures for part in (picture, gap)]
    Image.fromarray(np.concatenate(row[:-1], axis=1)).save(path)


def _seconds_per_frame(orbit: Orbit) -> float:
    """From the angles of an orbit's own path; 0 for one that stands."""
    if orbit.turn == 0:
        return 0.0
    x, z = orbit.path.position[1, 0], -orbit.path.position[1, 2]
    return math.atan2(x, z) / math.radians(orbit.turn)


def _wide(frame: np.ndarray, scale: int) -> tuple[int, int]:
    return frame.shape[1] * scale, frame.shape[0] * scale


def _splat(
    cloud: Cloud, camera: room.CameraPath, *, shape: Sequence[int]
) -> np.ndarray:
    """Points as squares of 3 pixels, the nearest last."""
    canvas = np.full((*shape, 3), 245, np.uint8)
    places, depth = camera.project(cloud.points)
    short = min(shape)
    columns = np.round(places[0, :, 0] * short + shape[1] / 2).astype(int)
    rows = np.round(places[0, :, 1] * short + shape[0] / 2).astype(int)
    for index in np.argsort(-depth[0]):
        r, c = rows[index], columns[index]
        if depth[0, index] > 0 and 1 <= r < shape[0] - 1 and 1 <= c < shape[1] - 1:
            canvas[r - 1 : r + 2, c - 1 : c + 2] = cloud.colours[index]
    return canvas
