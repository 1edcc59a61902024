"""The world `canvas`: what touches something leaves a trace on it.

A brush crosses a sheet and leaves a stroke of its colour; a mouth goes to the side of a
disc, bites and leaves a mark, three scallops wide. Both then leave the frame, so that
the last frames hold the trace alone. Lengths are in short sides, and every pixel is
covered by signed distances as in `draw`:

    a = clip(1/2 - d, 0, 1),      stroke: d = distance to the path so far - width / 2.
"""

import dataclasses
import hashlib
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from data_pipelines.worlds import bodies, palette

ACTIONS = ("stroke", "bite")
COLOURS = ("red", "yellow", "green", "cyan", "blue", "purple")
SHEETS = ("white", "gray", "black")
DIRECTIONS = ("left", "right", "up", "down")
WIDTHS = {"thin": (0.07, 0.09), "thick": (0.15, 0.18)}
TOOL = (104, 66, 38)
_TOUCH, _LEAVE = 0.12, 0.66  # parts of the clip at which a trace begins and is whole
_ATTEMPTS = 500


@dataclasses.dataclass(frozen=True)
class CanvasConfig:
    """The distribution of clips; tuples are drawn from evenly.

    Attributes:
      sizes: (width, height) in pixels.
      frames: lengths of clips, 9 or more, for a trace to be made and left.
      fps: frame rates.
      holdout: 'any', 'exclude' or 'only' combinations held out from training.
    """

    sizes: tuple[tuple[int, int], ...] = ((64, 64), (96, 64), (64, 96))
    frames: tuple[int, ...] = (17, 17, 13)
    fps: tuple[float, ...] = (8.0,)
    actions: tuple[str, ...] = ACTIONS
    colours: tuple[str, ...] = COLOURS
    sheets: tuple[str, ...] = SHEETS
    directions: tuple[str, ...] = DIRECTIONS
    widths: tuple[str, ...] = tuple(WIDTHS)
    holdout: str = "any"

    def __post_init__(self) -> None:
        palette.check_names(self.actions, ACTIONS, kind="action")
        palette.check_names(self.colours, COLOURS, kind="colour")
        palette.check_names(self.sheets, SHEETS, kind="sheet")
        palette.check_names(self.directions, DIRECTIONS, kind="direction")
        palette.check_names(self.widths, WIDTHS, kind="width")
        palette.check_names(
            [self.holdout], ("any", "exclude", "only"), kind="holdout mode"
        )
        if not self.sizes or min(min(size) for size in self.sizes) < 32:
            raise ValueError(f"sizes {self.sizes}: use sides of 32 pixels or more")
        if not self.frames or min(self.frames) < 9:
            raise ValueError(f"frames {self.frames}: use 9 or more")


@dataclasses.dataclass(frozen=True)
class Trace:
    """What a clip shows.

    Attributes:
      action: 'stroke' or 'bite'.
      colour, sheet: names of colours.
      direction: where the stroke goes, or the bitten side of the disc.
      width: of the stroke, or None.
      start, end: of the stroke, or middle of the disc and of the bite.
      radius: half the width of the stroke, or of the disc.
    """

    action: str
    colour: str
    sheet: str
    direction: str
    width: str | None
    start: tuple[float, float]
    end: tuple[float, float]
    radius: float


def render_clip(seed: int, index: int, *, config: CanvasConfig) -> bodies.RenderedClip:
    """Render clip `index` of stream `seed`; the same bytes whatever else is rendered.

    Raises:
      ValueError: negative seed or index, or a config that no scene satisfies.
    """
    draws = bodies.Draws(seed, index)
    for _ in range(_ATTEMPTS):
        width, height = draws.choice(config.sizes)
        frames, fps = draws.choice(config.frames), draws.choice(config.fps)
        extent = np.array([width, height]) / min(width, height)
        trace = _draw_trace(draws, config, extent=extent)
        held = is_held_out(
            trace.action, trace.colour, direction=trace.direction, sheet=trace.sheet
        )
        if config.holdout == "any" or held == (config.holdout == "only"):
            break
    else:
        raise ValueError(
            f"no clip fits this config with holdout={config.holdout!r}: give more "
            "colours, sheets or directions, or use holdout='any'"
        )
    video, mask = render(trace, width=width, height=height, frames=frames)
    named = attributes(trace)
    truth = {
        "attributes": named,
        "visible": dict.fromkeys(named, True),
        "trace": {
            "area": int(mask.sum()),
            "from": round(_TOUCH, 3),
            "whole": round(_LEAVE, 3),
        },
        "start": list(trace.start),
        "end": list(trace.end),
        "radius": trace.radius,
        "width": width,
        "height": height,
        "frames": frames,
        "fps": fps,
    }
    short = caption(trace, sheet=False)
    words = {"short": short, "detailed": caption(trace)}
    return bodies.RenderedClip(video, fps, words, truth)


def caption(trace: Trace, *, sheet: bool = True) -> str:
    """ "a brush paints a thick red stroke to the right on a white background"."""
    if trace.action == "stroke":
        way = {"left": "to the left", "right": "to the right"}
        text = (
            f"a brush paints a {trace.width} {trace.colour} stroke "
            f"{way.get(trace.direction, f'{trace.direction}ward')}"
        )
    else:
        side = {"up": "top", "down": "bottom"}.get(trace.direction, trace.direction)
        text = f"a mouth bites the {side} side of a large {trace.colour} circle"
    return f"{text} on a {trace.sheet} background" if sheet else text


def attributes(trace: Trace) -> dict[str, Any]:
    """`action`, `colour`, `direction`, `background`, and `width` of a stroke."""
    found = {
        "action": trace.action,
        "colour": trace.colour,
        "direction": trace.direction,
        "background": trace.sheet,
        "width": trace.width,
    }
    return {key: value for key, value in found.items() if value is not None}


def parse(text: str) -> dict[str, Any]:
    """The attributes a caption names, in the form of `attributes`.

    Raises:
      ValueError: the text names neither a stroke nor a bite.
    """
    words = text.lower().replace("ward", "").split()
    action = "stroke" if "stroke" in words else "bite" if "bites" in words else None
    if action is None:
        raise ValueError(
            f"no stroke and no bite in {text!r}: try 'a brush paints a thick red "
            "stroke to the right'"
        )
    sides = {"top": "up", "bottom": "down"}
    words = [sides.get(word, word) for word in words]
    found: dict[str, Any] = {"action": action}
    kinds = {"colour": COLOURS, "direction": DIRECTIONS, "width": tuple(WIDTHS)}
    for key, names in kinds.items():
        named = [name for name in names if name in words]
        found |= {key: named[0]} if named else {}
    if "background" in words:
        found["background"] = words[words.index("background") - 1]
    return found


def is_held_out(action: str, colour: str, *, direction: str, sheet: str) -> bool:
    """Whether training with `holdout='exclude'` never shows this combination."""
    name = f"{action}/{colour}/{direction}/{sheet}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % 10 == 0


def _draw_trace(
    draws: bodies.Draws, config: CanvasConfig, *, extent: np.ndarray
) -> Trace:
    """A random trace on a sheet of `extent` short sides."""
    action, colour = draws.choice(config.actions), draws.choice(config.colours)
    sheet, direction = draws.choice(config.sheets), draws.choice(config.directions)
    heading = np.array(palette.DIRECTIONS[direction])
    if action == "bite":
        radius = draws.uniform(0.24, 0.28)
        middle = extent / 2 + [draws.uniform(-0.04, 0.04), draws.uniform(-0.04, 0.04)]
        end = middle + heading * radius * 0.95
        return Trace(
            action, colour, sheet, direction, None, _pair(middle), _pair(end), radius
        )
    width = draws.choice(config.widths)
    radius = draws.uniform(*WIDTHS[width]) / 2
    length = draws.uniform(0.5, 0.62)
    slant = draws.uniform(-0.12, 0.12) * heading[::-1]
    travel = heading * length + slant
    low = np.maximum(-travel, 0) + 0.16
    high = extent - np.maximum(travel, 0) - 0.16
    start = np.array(
        [draws.uniform(min(a, b), max(a, b)) for a, b in zip(low, high, strict=True)]
    )
    return Trace(
        action,
        colour,
        sheet,
        direction,
        width,
        _pair(start),
        _pair(start + travel),
        radius,
    )


def _pair(point: np.ndarray) -> tuple[float, float]:
    return float(point[0]), float(point[1])


def render(
    trace: Trace, *, width: int, height: int, frames: int
) -> tuple[UInt8[np.ndarray, "T H W 3"], Bool[np.ndarray, "H W"]]:
    """Every frame, and the pixels of the whole trace."""
    short = min(width, height)
    x = (np.arange(width) + 0.5)[None, :] / short
    y = (np.arange(height) + 0.5)[:, None] / short
    sheet = np.asarray(palette.BACKGROUNDS[trace.sheet], float)
    paint = np.asarray(palette.COLOURS[trace.colour], float)
    start, end = np.array(trace.start), np.array(trace.end)
    video = np.zeros((frames, height, width, 3), np.uint8)
    for frame in range(frames):
        part = frame / (frames - 1)
        done = float(np.clip((part - _TOUCH) / (_LEAVE - _TOUCH), 0, 1))
        image = np.broadcast_to(sheet, (height, width, 3)).copy()
        if trace.action == "stroke":
            if part >= _TOUCH:
                painted = _capsule(x, y, start=start, end=start + done * (end - start))
                image = _blend(image, (trace.radius - painted) * short, colour=paint)
        else:
            disc = trace.radius - np.hypot(x - start[0], y - start[1])
            bitten = _bite(trace, x=x, y=y) if done >= 1 else np.full_like(disc, -1.0)
            image = _blend(image, np.minimum(disc, -bitten) * short, colour=paint)
        tool = _tool(
            trace, part=part, done=done, extent=(width / short, height / short)
        )
        reach = 0.075 if trace.action == "stroke" else 0.13
        cover = reach - np.hypot(x - tool[0], y - tool[1])
        image = _blend(image, cover * short, colour=np.asarray(TOOL, float))
        video[frame] = np.clip(np.round(image), 0, 255).astype(np.uint8)
    if trace.action == "stroke":
        return video, _capsule(x, y, start=start, end=end) < trace.radius
    disc = np.hypot(x - start[0], y - start[1]) < trace.radius
    return video, disc & (_bite(trace, x=x, y=y) > 0)


def _blend(image: np.ndarray, inside: np.ndarray, *, colour: np.ndarray) -> np.ndarray:
    alpha = np.clip(0.5 + inside, 0, 1)[..., None]
    return (1 - alpha) * image + alpha * colour


def _capsule(
    x: np.ndarray, y: np.ndarray, *, start: np.ndarray, end: np.ndarray
) -> Float[np.ndarray, "H W"]:
    """Distance to the segment from start to end."""
    way = end - start
    along = (x - start[0]) * way[0] + (y - start[1]) * way[1]
    part = np.clip(along / max(float(way @ way), 1e-9), 0, 1)
    return np.hypot(x - start[0] - part * way[0], y - start[1] - part * way[1])


def _bite(trace: Trace, *, x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, "H W"]:
    """How deep a pixel is in the bite: three scallops across the bitten side."""
    heading = np.array(palette.DIRECTIONS[trace.direction])
    across = heading[::-1]
    depth = np.full(np.broadcast_shapes(x.shape, y.shape), -1.0)
    for place in (-0.45, 0.0, 0.45):
        middle = np.array(trace.end) + place * trace.radius * across
        middle = middle - heading * trace.radius * (0.12 if place == 0 else 0.0)
        scallop = 0.4 * trace.radius - np.hypot(x - middle[0], y - middle[1])
        depth = np.maximum(depth, scallop)
    return depth


def _tool(
    trace: Trace, *, part: float, done: float, extent: tuple[float, float]
) -> np.ndarray:
    """Where the brush or the mouth is: it comes, works, and leaves the frame."""
    start, end = np.array(trace.start), np.array(trace.end)
    heading = np.array(palette.DIRECTIONS[trace.direction])
    gone = float(np.clip((part - _LEAVE) / (0.9 - _LEAVE), 0, 1))
    if trace.action == "stroke":
        side = np.array([heading[1], heading[0]])
        side = side if side @ (end - np.array(extent) / 2) >= 0 else -side
        at = start + done * (end - start)
        coming = float(np.clip(1 - part / _TOUCH, 0, 1))
        return at - 0.12 * coming * heading + side * (extent[0] + extent[1]) * gone
    outside = end + heading * 0.9
    return outside + (end - outside) * done + heading * 1.6 * gone


VARIANTS = {
    "demo": CanvasConfig(),
    "full": CanvasConfig(
        sizes=((64, 64), (96, 64), (64, 96), (128, 96), (80, 112)),
        frames=(17, 33),
        fps=(8.0, 12.0),
    ),
}
