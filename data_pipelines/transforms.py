"""From a clip to what the model sees: fit, cut, resize, tokenise, patchify.

A clip keeps its aspect ratio. It is cut in time to a window, subsampled to a frame rate
and scaled down until its tokens fit a budget, then each side is rounded to the patch
grid: no side is further than one grid step from the native side times one common scale.
With r the temporal ratio, s the spatial multiple and p the frames of latent a patch
holds, a fitted clip has

    frames = 1 + r (p t - 1),   height = s h,   width = s w,   t h w <= max_tokens   (1)

`plan_fit` decides all this from four numbers and never refuses a clip: nothing is
dropped, and `fit_report` says what became of each.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from soraflax import media
from soraflax.ops import grid as grids
from soraflax.ops import packing, patch


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """Limits of a fitted clip.

    Attributes:
      max_tokens: patches that one clip may take.
      max_frames: frames it may keep.
      max_side: pixels of its longer side; 0 for no limit.
      min_side: a clip over budget gives up frames rather than shrink its shorter side
        below this many pixels.
      fps: frame rate that faster clips are subsampled towards (every k-th frame, so
        the result is native / k); 0 keeps the native rate.
    """

    max_tokens: int = 2048
    max_frames: int = 81
    max_side: int = 0
    min_side: int = 0
    fps: float = 0.0


@dataclasses.dataclass(frozen=True)
class Fit:
    """What becomes of one clip.

    Attributes:
      native: frames, height, width as stored.
      native_fps: frames per second as stored.
      frames, height, width: after fitting; legal on the grid.
      stride: every `stride`-th frame is kept.
      fps: `native_fps / stride`.
      grid: patches along time, height, width.
    """

    native: tuple[int, int, int]
    native_fps: float
    frames: int
    height: int
    width: int
    stride: int
    fps: float
    grid: tuple[int, int, int]

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def span(self) -> int:
        """Native frames from the first kept frame to the last."""
        return (self.frames - 1) * self.stride + 1

    @property
    def spare(self) -> int:
        """Native frames outside the window: it may start anywhere in 0..spare."""
        return max(0, self.native[0] - self.span)

    @property
    def held(self) -> int:
        """Frames repeated at the end, where a patch in time asks for more."""
        return max(0, self.frames - -(-self.native[0] // self.stride))

    @property
    def trimmed_seconds(self) -> float:
        """Native time that no kept frame covers."""
        covered = self.frames * self.stride
        return max(0, self.native[0] - covered) / self.native_fps


def plan_fit(
    frames: int,
    height: int,
    *,
    width: int,
    fps: float,
    grid: grids.Grid,
    config: FitConfig,
) -> Fit:
    """The legal size nearest to a clip's own, within the limits. Never refuses.

    Raises:
      ValueError: the clip is empty, or the limits admit no size at all.
    """
    if min(frames, height, width) < 1 or fps <= 0:
        raise ValueError(
            f"a clip of {frames} frames of {width}x{height} at {fps} frames/s is empty"
        )
    if config.max_tokens < 1 or config.max_frames < grid.min_frames:
        raise ValueError(
            f"limits of {config.max_tokens} tokens and {config.max_frames} frames "
            f"admit no clip: use at least 1 token and {grid.min_frames} frames"
        )
    rows, columns = grid.patch_sides
    stride = frame_stride(fps, config.fps)
    kept = grid.frames_below(min(-(-frames // stride), config.max_frames))
    sides = _fit_sides(height, width, grid=grid, limit=config.max_tokens, config=config)
    floor = min(config.min_side, sides[0] * rows, sides[1] * columns)
    while True:
        t = (1 + (kept - 1) // grid.temporal_ratio) // grid.patch[0]
        limit = config.max_tokens // t
        h, w = _fit_sides(height, width, grid=grid, limit=limit, config=config)
        short = min(h * rows, w * columns)
        if kept == grid.min_frames or (limit >= 1 and short >= floor):
            break
        kept = grid.frames_below(kept - 1)
    return Fit(
        native=(frames, height, width),
        native_fps=fps,
        frames=kept,
        height=h * rows,
        width=w * columns,
        stride=stride,
        fps=fps / stride,
        grid=(t, h, w),
    )


def frame_stride(fps: float, target: float) -> int:
    """Every how many frames one is kept to come near `target`; 1 if that is 0."""
    return max(1, round(fps / target)) if target > 0 else 1


def _fit_sides(
    height: int, width: int, *, grid: grids.Grid, limit: int, config: FitConfig
) -> tuple[int, int]:
    """Patches along height and width: at most `limit`, nearest to the aspect ratio."""
    rows, columns = grid.patch_sides
    side = config.max_side or max(height, width) + max(rows, columns)
    scale = min(1.0, side / max(height, width))
    h, w = height * scale / rows, width * scale / columns
    most = max(1, side // rows), max(1, side // columns)
    shape = min(max(1, round(h)), most[0]), min(max(1, round(w)), most[1])
    if shape[0] * shape[1] <= limit:
        return shape
    shrink = min(1.0, math.sqrt(limit / (h * w)))
    h, w = h * shrink, w * shrink
    if min(h, w) < 1:  # one patch wide: the budget is its length
        return (1, max(1, limit)) if h < w else (max(1, limit), 1)
    options = [
        (a, b)
        for a in (int(h), min(int(h) + 1, most[0]))
        for b in (int(w), min(int(w) + 1, most[1]))
        if a * b <= limit
    ]

    def cost(option: tuple[int, int]) -> float:
        """Area given up, and how far the aspect ratio moved, both as logarithms."""
        a, b = option
        return abs(math.log(a * w / (b * h))) - math.log(a * b)

    return min(options, key=cost)


def fit_report(
    clips: Iterable[tuple[str, Fit]],
) -> Iterator[dict[str, Any]]:
    """One line per clip, ready for JSON: native to fitted size, rate, time, tokens."""
    for name, fit in clips:
        frames, height, width = fit.native
        yield {
            "id": name,
            "native": {"frames": frames, "height": height, "width": width},
            "native_fps": round(fit.native_fps, 4),
            "fitted": {
                "frames": fit.frames,
                "height": fit.height,
                "width": fit.width,
            },
            "fps": round(fit.fps, 4),
            "trimmed_seconds": round(fit.trimmed_seconds, 4),
            "held_frames": fit.held,
            "tokens": fit.tokens,
        }


def decode_fitted(
    data: bytes, fit: Fit, *, start: int = 0, name: str = "video bytes"
) -> np.ndarray:
    """The fitted window of a clip: `[frames, height, width, 3]` uint8.

    Args:
      data: bytes of a video file.
      fit: what `plan_fit` made of it.
      start: first native frame, in 0..`fit.spare`.
      name: what errors call it.

    Raises:
      MediaError: the bytes cannot be decoded.
      ValueError: the clip is not the one that was planned for.
    """
    window = media.decode(
        data, name=name, start=start, max_frames=fit.frames, step=fit.stride
    ).frames
    expected = min(fit.frames, -(-(fit.native[0] - start) // fit.stride))
    if window.shape[:3] != (expected, *fit.native[1:]):
        raise ValueError(
            f"{name}: {_size((expected, *fit.native[1:]))} were announced, "
            f"{_size(window.shape)} decode; make the dataset again"
        )
    held = np.repeat(window[-1:], fit.frames - len(window), axis=0)
    return resize(np.concatenate([window, held]), fit.height, width=fit.width)


def _size(shape: Sequence[int]) -> str:
    return f"{shape[0]} frames of {shape[2]}x{shape[1]}"


def resize(video: np.ndarray, height: int, *, width: int) -> np.ndarray:
    """Antialiased bicubic, frame by frame; uint8 in and out."""
    if video.shape[1:3] == (height, width):
        return video
    out = np.empty((len(video), height, width, 3), np.uint8)
    for index, frame in enumerate(video):
        image = Image.fromarray(np.ascontiguousarray(frame))
        out[index] = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    return out


@dataclasses.dataclass(frozen=True)
class CaptionConfig:
    """Which caption a clip is given, drawn anew each time it is seen.

    Attributes:
      names: caption sources to choose from; empty for whatever the clip has.
      weights: how often each of `names` is chosen; empty for equally. A clip without
        a source falls back on those it has.
      dropout: probability of the empty caption, for classifier-free guidance.
      max_length: text tokens kept, the end-of-text token included.
    """

    names: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    dropout: float = 0.1
    max_length: int = 64

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.names):
            raise ValueError(
                f"{len(self.weights)} caption weights for {len(self.names)} caption "
                f"names: use {len(self.names)}"
            )
        if not 0 <= self.dropout <= 1:
            nearest = min(max(self.dropout, 0), 1)
            raise ValueError(f"caption dropout {self.dropout}: use {nearest}")


def choose_caption(
    captions: Mapping[str, str], config: CaptionConfig, *, rng: np.random.Generator
) -> str:
    """One caption of a clip, or the empty one."""
    if rng.random() < config.dropout or not captions:
        return ""
    weights = config.weights or (1.0,) * len(config.names)
    known = {n: w for n, w in zip(config.names, weights, strict=True) if n in captions}
    if not known:
        known = dict.fromkeys(sorted(captions), 1.0)
    share = np.array(list(known.values()))
    name = list(known)[int(rng.choice(len(known), p=share / share.sum()))]
    return captions[name]


@dataclasses.dataclass(frozen=True)
class LatentTransform:
    """A stored latent and its captions to a `Segment`.

    Attributes:
      patch: latent frames, rows and columns of a patch.
      mean, std: per latent channel; tokens are normalised by them.
      reference_fps: frame rate at which positions count latent frames.
      captions: which caption, and how long.
      encode: text to int32 ids, `[m]`, given the most ids to return; `m >= 1`.
      windows: probability that a clip enters as `middle` makes it.
    """

    patch: tuple[int, int, int]
    mean: np.ndarray
    std: np.ndarray
    reference_fps: float
    captions: CaptionConfig
    encode: Callable[[str, int], np.ndarray]
    windows: float = 0.0

    def __call__(
        self,
        latent: np.ndarray,
        *,
        fps: float,
        captions: Mapping[str, str],
        rng: np.random.Generator,
    ) -> packing.Segment:
        """Raises ValueError where the latent is not a whole number of patches."""
        normal = (latent.astype(np.float32) - self.mean) / self.std
        grid = patch.grid_of(normal.shape, self.patch)
        start, given = middle(grid[0], self.windows, rng=rng)
        normal = normal[start * self.patch[0] :]
        grid = (grid[0] - start, *grid[1:])
        caption = choose_caption(captions, self.captions, rng=rng)
        text = np.asarray(self.encode(caption, self.captions.max_length), np.int32)
        tokens = np.asarray(patch.patchify(normal, self.patch), np.float32)
        step = self.patch[0] * self.reference_fps / fps
        return packing.Segment(
            tokens=tokens,
            positions=patch.positions(grid, time_step=step),
            cond_mask=np.arange(len(tokens)) < given * grid[1] * grid[2],
            text=text,
        )


def middle(
    frames: int, probability: float, *, rng: np.random.Generator
) -> tuple[int, int]:
    """A window that begins inside a clip: its first latent frame, and how many of its
    own it is given, at least one and never all. (0, 0) is the clip as it is.

    A long video is made in such windows. The first latent frame of a clip holds one
    frame of video and the others r; as a window's first holds r, a model that has not
    met any would take it for another thing.
    """
    if not probability or rng.random() >= probability or frames < 3:
        return 0, 0
    start = int(rng.integers(1, frames - 1))
    return start, int(rng.integers(1, frames - start))
