"""Reads player, ground, direction and broken blocks of `blocks` from pixels.

1. The ground is the colour that most tiles have; the player that of the middle tile.
2. The world moves against the player: the shift between two frames is the one, along
   an axis and by at most a tile, under which they differ least (the middle apart). Its
   sum over the clip is the player's path, and its direction.
3. With the path known every tile keeps its place in the world; a block is broken where
   a tile is first a block and in the end ground.

`dynamics` holds a clip against the simulator: which steps its own map allows.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from data_pipelines.worlds import blocks, palette

_WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def read(video: UInt8[np.ndarray, "T H W 3"]) -> dict[str, Any]:
    """Read a video in the form of `blocks.attributes`."""
    pixels = video.astype(np.float32)
    position = path(video)
    net = position[-1] - position[0]
    axis = int(abs(net[1]) > abs(net[0]))
    direction = "still"
    if abs(net[axis]) >= 0.75:
        direction = (("left", "right"), ("up", "down"))[axis][int(net[axis] > 0)]
    ground = _ground(pixels)
    return {
        "player": _player(pixels),
        "background": ground,
        "direction": direction,
        "broken": len(broken(tile_history(video, position, ground=ground))),
    }


def agreement(
    reading: Mapping[str, Any], expected: Mapping[str, Any]
) -> dict[str, bool]:
    """Whether the reading agrees with each attribute that `expected` names."""
    return {key: reading.get(key) == value for key, value in expected.items()}


def path(video: UInt8[np.ndarray, "T H W 3"]) -> Float[np.ndarray, "T 2"]:
    """Columns and rows in tiles that the player has gone, frame by frame, from 0."""
    pixels = ndimage.gaussian_filter(video.astype(np.float32), (0, 0.7, 0.7, 0))
    side = min(video.shape[1:3]) / blocks.TILES
    reach = round(side)
    shifts = [(0, 0)] + [
        (way[0] * n, way[1] * n) for way in _WAYS.values() for n in range(1, reach + 1)
    ]
    position = np.zeros((len(pixels), 2))
    for frame in range(1, len(pixels)):
        errors = [
            _error(pixels[frame - 1], pixels[frame], shift=shift, side=side)
            for shift in shifts
        ]
        best = np.array(shifts[int(np.argmin(errors))])
        position[frame] = position[frame - 1] + best / side
    return position


def _error(
    first: np.ndarray, second: np.ndarray, *, shift: tuple[int, int], side: float
) -> float:
    """Mean difference if the player moved by `shift` pixels, without the middle."""
    dx, dy = shift
    height, width = first.shape[:2]
    rows, columns = (
        slice(max(dy, 0), height + min(dy, 0)),
        slice(max(dx, 0), width + min(dx, 0)),
    )
    back_rows = slice(max(-dy, 0), height + min(-dy, 0))
    back_columns = slice(max(-dx, 0), width + min(-dx, 0))
    difference = np.abs(first[rows, columns] - second[back_rows, back_columns]).sum(-1)
    y = np.arange(height)[rows] - height / 2 + 0.5
    x = np.arange(width)[columns] - width / 2 + 0.5
    away = np.maximum(np.abs(y)[:, None], np.abs(x)[None, :]) > 1.6 * side
    return float(difference[away].mean())


def _ground(pixels: np.ndarray) -> str:
    levels = np.array(list(blocks.GROUNDS.values()), np.float32)
    flat = pixels[:: max(1, len(pixels) // 4)].reshape(-1, 3)
    distance = np.sqrt(np.square(flat[:, None] - levels).sum(-1))
    votes = (distance < 40).sum(0)
    return list(blocks.GROUNDS)[int(votes.argmax())]


def _player(pixels: np.ndarray) -> str:
    height, width = pixels.shape[1:3]
    side = min(height, width) / blocks.TILES
    y, x = height / 2 + 0.15 * side, width / 2
    half = max(1.0, 0.16 * side)
    body = pixels[
        :, round(y - half) : round(y + half), round(x - half) : round(x + half)
    ]
    colour = np.median(body.reshape(-1, 3), axis=0)
    levels = np.array([palette.COLOURS[name] for name in blocks.PLAYERS], float)
    return blocks.PLAYERS[int(np.square(levels - colour).sum(-1).argmin())]


History = dict[tuple[int, int], list[tuple[int, bool]]]


def tile_history(
    video: UInt8[np.ndarray, "T H W 3"],
    position: Float[np.ndarray, "T 2"],
    *,
    ground: str,
) -> History:
    """(column, row) from where the player began, to (frame, is a block) where seen."""
    pixels = video.astype(np.float32)
    height, width = pixels.shape[1:3]
    side = min(height, width) / blocks.TILES
    levels = np.array([blocks.GROUNDS[ground], *blocks.BLOCKS.values()], np.float32)
    reach = [int(n / side / 2) + 1 for n in (width, height)]
    seen: History = {}
    for frame, (column, row) in enumerate(position):
        for i in range(round(column) - reach[0], round(column) + reach[0] + 1):
            for j in range(round(row) - reach[1], round(row) + reach[1] + 1):
                x, y = width / 2 + (i - column) * side, height / 2 + (j - row) * side
                under = max(abs(i - column), abs(j - row)) < 0.8
                half = 0.25 * side
                inside = half <= x <= width - half and half <= y <= height - half
                if under or not inside:
                    continue
                patch = pixels[
                    frame,
                    round(y - half) : round(y + half),
                    round(x - half) : round(x + half),
                ]
                colour = np.median(patch.reshape(-1, 3), axis=0)
                kind = int(np.square(levels - colour).sum(-1).argmin())
                seen.setdefault((i, j), []).append((frame, kind > 0))
    return seen


def broken(history: History) -> list[tuple[int, int]]:
    """Tiles that are a block where they are first seen and ground in the end."""
    found = []
    for tile, kinds in history.items():
        values = [kind for _, kind in kinds]
        head = values[: max(1, min(3, len(values) // 2))]
        if len(values) > 1 and np.mean(head) > 0.5 and not values[-1]:
            found.append(tile)
    return found


def dynamics(video: UInt8[np.ndarray, "T H W 3"]) -> dict[str, float]:
    """What of a clip obeys equations (1) and (2) of `blocks` on its own map.

    Returns:
      `consistent`: the share of tiles seen twice or more that are the same throughout,
      or were broken next to the player; `follows`: the share of frames in which the
      world moves as one, the rest of the difference being that of frames at rest.
    """
    position = path(video)
    ground = _ground(video.astype(np.float32))
    history = tile_history(video, position, ground=ground)
    known = {tile: kinds for tile, kinds in history.items() if len(kinds) > 1}
    steady = [
        len({kind for _, kind in kinds}) == 1
        or _broken_beside(tile, kinds, position=position)
        for tile, kinds in known.items()
    ]
    side = min(video.shape[1:3]) / blocks.TILES
    pixels = video.astype(np.float32)
    moved = np.round(np.diff(position, axis=0) * side).astype(int)
    errors = [
        _error(first, second, shift=(int(dx), int(dy)), side=side)
        for first, second, (dx, dy) in zip(pixels[:-1], pixels[1:], moved, strict=True)
    ]
    return {
        "consistent": float(np.mean(steady)) if steady else float("nan"),
        "follows": float(np.mean(np.array(errors) < 30.0)),
    }


def _broken_beside(
    tile: tuple[int, int], kinds: list[tuple[int, bool]], *, position: np.ndarray
) -> bool:
    """Whether a tile became ground once, with the player on the tile beside it."""
    values = [kind for _, kind in kinds]
    changes = [n for n in range(1, len(values)) if values[n] != values[n - 1]]
    if len(changes) != 1 or not values[0]:
        return False
    frame = kinds[changes[0]][0]
    away = np.abs(np.array(tile) - position[frame])
    return bool(away.sum() < 1.8)
