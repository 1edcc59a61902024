"""The world `blocks`: a game of tiles without an end, played by a policy.

The map is a function of the clip's own numbers: every tile is ground, a tree or a
stone. The player stays in the middle of the frame and the world moves under it. Each
step takes two frames: the policy walks on in its heading, or, where a block is in the
way, breaks it, which leaves ground for good. The state of every frame and the action of
every step are in `truth`, so that generated clips can be held against the dynamics

    position(s + 1) = position(s) + heading   if the tile ahead is ground,        (1)
    tile ahead <- ground                      otherwise.                          (2)

A tile is an eighth of the shorter side.
"""

import dataclasses
import hashlib
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from data_pipelines.worlds import bodies, palette

PLAYERS = ("red", "purple", "orange", "pink")
GROUNDS = {"grass": (104, 178, 88), "sand": (222, 203, 146), "snow": (238, 242, 246)}
BLOCKS = {"tree": (26, 84, 44), "stone": (112, 112, 122)}
DIRECTIONS = ("left", "right", "up", "down", "still")
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
GAME = "in a block game"
TILES = 8  # tiles along the shorter side
STEP = 2  # frames of a step
_SPAN = 64
_ATTEMPTS = 500


@dataclasses.dataclass(frozen=True)
class BlocksConfig:
    """The distribution of clips; tuples are drawn from evenly.

    Attributes:
      sizes: (width, height) in pixels.
      frames: lengths of clips, 5 or more.
      fps: frame rates.
      players, grounds, directions: names of what is drawn.
      density: share of tiles that are blocks.
      named: probability that captions name the game.
      holdout: 'any', 'exclude' or 'only' combinations held out from training.
    """

    sizes: tuple[tuple[int, int], ...] = ((64, 64), (96, 64), (64, 96))
    frames: tuple[int, ...] = (17, 17, 9)
    fps: tuple[float, ...] = (8.0,)
    players: tuple[str, ...] = PLAYERS
    grounds: tuple[str, ...] = tuple(GROUNDS)
    directions: tuple[str, ...] = DIRECTIONS
    density: float = 0.2
    named: float = 0.5
    holdout: str = "any"

    def __post_init__(self) -> None:
        palette.check_names(self.players, PLAYERS, kind="player")
        palette.check_names(self.grounds, GROUNDS, kind="ground")
        palette.check_names(self.directions, DIRECTIONS, kind="direction")
        palette.check_names(
            [self.holdout], ("any", "exclude", "only"), kind="holdout mode"
        )
        if not self.sizes or min(min(size) for size in self.sizes) < 32:
            raise ValueError(f"sizes {self.sizes}: use sides of 32 pixels or more")
        if not self.frames or min(self.frames) < 5:
            raise ValueError(f"frames {self.frames}: use 5 or more")
        for name in ("density", "named"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}: use 0 to 1")


@dataclasses.dataclass(frozen=True)
class Play:
    """A game as it was played.

    Attributes:
      player, ground, direction: names.
      tiles: kinds of the map by row and column: 0 ground, 1 tree, 2 stone.
      position: column and row of the player in each frame; halves between tiles.
      broken: (frame, column, row) of every block that was broken.
      actions: 'walk', 'break' or 'stay', a step each.
    """

    player: str
    ground: str
    direction: str
    tiles: Int[np.ndarray, "S S"]
    position: Float[np.ndarray, "T 2"]
    broken: tuple[tuple[int, int, int], ...]
    actions: tuple[str, ...]


def play(
    tiles: Int[np.ndarray, "S S"], direction: str, *, frames: int
) -> tuple[Float[np.ndarray, "T 2"], list[tuple[int, int, int]], list[str]]:
    """The policy on a map, from its middle: equations (1) and (2).

    Returns:
      Positions of each frame, blocks broken and the frame of each, and actions.
    """
    tiles = tiles.copy()
    heading = np.array(palette.DIRECTIONS[direction], int)
    at = np.array([len(tiles) // 2, len(tiles) // 2])
    position, broken, actions = np.zeros((frames, 2)), [], []
    position[0] = at
    for frame in range(1, frames, STEP):
        ahead = at + heading
        blocked = bool(tiles[ahead[1], ahead[0]])
        moved = at
        if not heading.any():
            actions.append("stay")
        elif blocked:
            actions.append("break")
            tiles[ahead[1], ahead[0]] = 0
            broken.append(
                (min(frame + STEP - 1, frames - 1), int(ahead[0]), int(ahead[1]))
            )
        else:
            actions.append("walk")
            moved = ahead
        for part in range(STEP):
            if frame + part < frames:
                share = (part + 1) / STEP
                position[frame + part] = at + share * (moved - at)
        at = moved
    return position, broken, actions


def render_clip(seed: int, index: int, *, config: BlocksConfig) -> bodies.RenderedClip:
    """Render clip `index` of stream `seed`; the same bytes whatever else is rendered.

    Raises:
      ValueError: negative seed or index, or a config that no scene satisfies.
    """
    draws = bodies.Draws(seed, index)
    for _ in range(_ATTEMPTS):
        player, ground = draws.choice(config.players), draws.choice(config.grounds)
        direction = draws.choice(config.directions)
        held = is_held_out(player, ground=ground, direction=direction)
        if config.holdout == "any" or held == (config.holdout == "only"):
            break
    else:
        raise ValueError(
            f"no clip fits this config with holdout={config.holdout!r}: give more "
            "players, grounds or directions, or use holdout='any'"
        )
    width, height = draws.choice(config.sizes)
    frames, fps = draws.choice(config.frames), draws.choice(config.fps)
    tiles = np.zeros((_SPAN + 2 * frames, _SPAN + 2 * frames), int)
    for row in range(len(tiles)):
        for column in range(len(tiles)):
            if draws.chance(config.density):
                tiles[row, column] = 1 + int(draws.chance(0.5))
    tiles[len(tiles) // 2, len(tiles) // 2] = 0
    position, broken, actions = play(tiles, direction, frames=frames)
    game = Play(
        player, ground, direction, tiles, position, tuple(broken), tuple(actions)
    )
    video = render(game, width=width, height=height)
    named = attributes(game)
    text = caption(game)
    words = {
        "short": text,
        "detailed": f"{text} {GAME}" if draws.chance(config.named) else text,
    }
    truth = {
        "attributes": named,
        "visible": dict.fromkeys(named, True),
        "position": position.tolist(),
        "actions": list(actions),
        "broken": [list(block) for block in broken],
        "width": width,
        "height": height,
        "frames": frames,
        "fps": fps,
    }
    return bodies.RenderedClip(video, fps, words, truth)


def caption(game: Play) -> str:
    """ "a red player walks right over grass and breaks two blocks"."""
    who = f"{'an' if game.player[0] in 'aeiou' else 'a'} {game.player} player"
    if game.direction == "still":
        return f"{who} stays still on {game.ground}"
    count = len(game.broken)
    noun = "block" if count == 1 else "blocks"
    return (
        f"{who} walks {game.direction} over {game.ground} and breaks "
        f"{COUNTS[min(count, len(COUNTS) - 1)]} {noun}"
    )


def attributes(game: Play) -> dict[str, Any]:
    """`player`, `background`, `direction` and `broken`, a number of blocks."""
    return {
        "player": game.player,
        "background": game.ground,
        "direction": game.direction,
        "broken": len(game.broken),
    }


def parse(text: str) -> dict[str, Any]:
    """The attributes a caption names, in the form of `attributes`.

    Raises:
      ValueError: the text names no player.
    """
    words = text.lower().split()
    if "player" not in words:
        raise ValueError(f"no player in {text!r}: try 'a red player walks right'")
    found: dict[str, Any] = {}
    kinds = {"player": PLAYERS, "background": tuple(GROUNDS), "direction": DIRECTIONS}
    for key, names in kinds.items():
        named = [name for name in names if name in words]
        found |= {key: named[0]} if named else {}
    if "breaks" in words:
        count = words[words.index("breaks") + 1]
        found["broken"] = COUNTS.index(count) if count in COUNTS else None
    elif found.get("direction") == "still":
        found["broken"] = 0
    return {key: value for key, value in found.items() if value is not None}


def is_held_out(player: str, *, ground: str, direction: str) -> bool:
    """Whether training with `holdout='exclude'` never shows this combination."""
    name = f"{player}/{ground}/{direction}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % 10 == 0


def render(game: Play, *, width: int, height: int) -> UInt8[np.ndarray, "T H W 3"]:
    """Every frame, averaged over 2 x 2 samples of a pixel."""
    side = min(width, height) / TILES
    x = ((np.arange(2 * width) + 0.5) / 2 - width / 2) / side + 0.5
    y = ((np.arange(2 * height) + 0.5) / 2 - height / 2) / side + 0.5
    tiles = game.tiles.copy()
    video = np.zeros((len(game.position), height, width, 3), np.uint8)
    for frame, (column, row) in enumerate(game.position):
        for when, i, j in game.broken:
            if when == frame:
                tiles[j, i] = 0
        fine = _tiles_seen(tiles, x=x + column, y=y + row, ground=game.ground)
        _draw_player(fine, x=x - 0.5, y=y - 0.5, colour=palette.COLOURS[game.player])
        small = fine.reshape(height, 2, width, 2, 3).mean((1, 3))
        video[frame] = np.clip(np.round(small), 0, 255).astype(np.uint8)
    return video


def _tiles_seen(
    tiles: np.ndarray, *, x: np.ndarray, y: np.ndarray, ground: str
) -> np.ndarray:
    """Colours of the map at samples, by tile and by the place in it."""
    i, j = np.floor(x).astype(int), np.floor(y).astype(int)
    kind = tiles[np.clip(j, 0, len(tiles) - 1)][:, np.clip(i, 0, len(tiles) - 1)]
    colours = np.array([GROUNDS[ground], *BLOCKS.values()], float)
    u, v = np.abs(x - i - 0.5)[None, :], np.abs(y - j - 0.5)[:, None]
    edge = np.maximum(u, v)
    # Blocks have a lighter middle; ground has a dot in every second tile.
    shade = np.where((kind > 0) & (edge < 0.28), 16.0, 0.0)
    shade = np.where((kind > 0) & (edge > 0.44), -14.0, shade)
    second = (i[None, :] + j[:, None]) % 2 == 0
    shade = np.where((kind == 0) & second & (edge < 0.14), -34.0, shade)
    return colours[kind] + shade[..., None]


def _draw_player(
    fine: np.ndarray, *, x: np.ndarray, y: np.ndarray, colour: tuple[int, int, int]
) -> None:
    """A body and a head in the middle tile, in place."""
    u, v = x[None, :], y[:, None]
    body = (np.abs(u) < 0.34) & (v > -0.16) & (v < 0.42)
    fine[body] = colour
    fine[np.hypot(u, v + 0.26) < 0.2] = (232, 190, 158)


VARIANTS = {
    "demo": BlocksConfig(),
    "full": BlocksConfig(
        sizes=((64, 64), (96, 64), (64, 96), (128, 96), (80, 112)),
        frames=(17, 33, 9),
        fps=(8.0, 12.0),
    ),
}
