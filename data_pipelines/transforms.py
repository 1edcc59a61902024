"""From a clip to what the model sees: fit, cut, resize, tokenise, patchify.

A clip keeps its aspect ratio. It is cut in time to a window, subsampled to a frame rate
and scaled down until its tokens fit a budget, then each side is rounded to the patch
grid: no side is further than one grid step from the native side times one common scale.
With r the temporal ratio, s the spatial multiple and p the frames of latent a patch
holds, a fitted clip has

    frames = 1 + r (p t - 1),   height = s h,   width = s w,   t h w <= max_tokens   (1)

`plan_fit` decides all this from four numbers and never refuses a clip: nothing is
dropped, and `fit_report` has a line for each.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from soraflax import media
from soraflax.generation import prompts
from soraflax.ops import grid as grids
from soraflax.ops import packing, patch


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """Limits of a fitted clip.

    Attributes:
      max_tokens: most patches of a clip.
      max_frames: most frames of a clip.
      max_side: most pixels of the longer side; 0 for no limit.
      min_side: pixels of the shorter side below which a clip over budget gives up
        frames rather than shrink further.
      fps: target frame rate, to which faster clips are subsampled (every k-th frame,
        so the result is native / k); 0 keeps the native rate.
    """

    max_tokens: int = 2048
    max_frames: int = 81
    max_side: int = 0
    min_side: int = 0
    fps: float = 0.0


@dataclasses.dataclass(frozen=True)
class FitPlan:
    """Fitted size, rate and window of one clip.

    Attributes:
      native: frames, height, width as stored.
      native_fps: frames per second as stored.
      frames, height, width: after fitting; legal on the grid.
      stride: native frames from one fitted frame to the next.
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
        """Native frames from the first fitted frame to the last, both counted."""
        return (self.frames - 1) * self.stride + 1

    @property
    def max_start(self) -> int:
        """Last native frame at which the window may start."""
        return max(0, self.native[0] - self.span)

    @property
    def repeated_frames(self) -> int:
        """Copies of the last frame at the end, where a patch in time needs more."""
        return max(0, self.frames - -(-self.native[0] // self.stride))

    @property
    def trimmed_seconds(self) -> float:
        """Native time in seconds that no fitted frame covers."""
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
) -> FitPlan:
    """The legal size nearest to a clip's own, within the limits. Never refuses.

    Raises:
      ValueError: the clip is empty, or the limits admit no size at all.
    """
    if min(frames, height, width) < 1 or not 0 < fps < math.inf:
        raise ValueError(
            f"a clip of {frames} frames of {width}x{height} at {fps} frames/s is empty"
        )
    if config.max_tokens < 1 or config.max_frames < grid.min_frames:
        raise ValueError(
            f"limits of {config.max_tokens} tokens and {config.max_frames} frames "
            f"admit no clip: use at least 1 token and {grid.min_frames} frames"
        )
    rows, columns = grid.patch_sides
    # Frames are given up one patch at a time, until the budget per patch in time
    # leaves the shorter side `min_side`, or as much of it as the clip has by itself.
    stride = frame_stride(fps, config.fps)
    fitted = grid.frames_below(min(-(-frames // stride), config.max_frames))
    sides = _fit_sides(height, width, grid=grid, limit=config.max_tokens, config=config)
    floor = min(config.min_side, sides[0] * rows, sides[1] * columns)
    while True:
        t = (1 + (fitted - 1) // grid.temporal_ratio) // grid.patch[0]
        limit = config.max_tokens // t
        h, w = _fit_sides(height, width, grid=grid, limit=limit, config=config)
        short = min(h * rows, w * columns)
        if fitted == grid.min_frames or (limit >= 1 and short >= floor):
            break
        fitted = grid.frames_below(fitted - 1)
    return FitPlan(
        native=(frames, height, width),
        native_fps=fps,
        frames=fitted,
        height=h * rows,
        width=w * columns,
        stride=stride,
        fps=fps / stride,
        grid=(t, h, w),
    )


def frame_stride(fps: float, target: float) -> int:
    """Stride in frames whose rate is nearest to `target`; 1 if `target` is 0."""
    return max(1, round(fps / target)) if target > 0 else 1


def _fit_sides(
    height: int, width: int, *, grid: grids.Grid, limit: int, config: FitConfig
) -> tuple[int, int]:
    """Patches along height and width: at most `limit`, nearest to the aspect ratio."""
    rows, columns = grid.patch_sides
    side = config.max_side or max(height, width) + max(rows, columns)
    scale = min(1.0, side / max(height, width))
    h, w = height * scale / rows, width * scale / columns
    max_patches = max(1, side // rows), max(1, side // columns)
    shape = min(max(1, round(h)), max_patches[0]), min(max(1, round(w)), max_patches[1])
    if shape[0] * shape[1] <= limit:
        return shape
    shrink = min(1.0, math.sqrt(limit / (h * w)))
    h, w = h * shrink, w * shrink
    if min(h, w) < 1:  # one patch wide: the budget is its length
        return (1, max(1, limit)) if h < w else (max(1, limit), 1)
    # Each side rounded down or up: the best of the four that the budget admits.
    options = [
        (a, b)
        for a in (int(h), min(int(h) + 1, max_patches[0]))
        for b in (int(w), min(int(w) + 1, max_patches[1]))
        if a * b <= limit
    ]

    def cost(option: tuple[int, int]) -> float:
        """Area given up, and how far the aspect ratio moved, both as logarithms."""
        a, b = option
        return abs(math.log(a * w / (b * h))) - math.log(a * b)

    return min(options, key=cost)


def fit_report(
    clips: Iterable[tuple[str, FitPlan]],
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
            "held_frames": fit.repeated_frames,
            "tokens": fit.tokens,
        }


def decode_fitted(
    data: bytes, fit: FitPlan, *, start: int = 0, name: str = "video bytes"
) -> UInt8[np.ndarray, "T H W 3"]:
    """The fitted window of a clip.

    Args:
      data: bytes of a video file.
      fit: the plan of this clip, by `plan_fit`.
      start: first native frame, in 0..`fit.max_start`.
      name: name of the clip in errors.

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
    repeated = np.repeat(window[-1:], fit.frames - len(window), axis=0)
    return resize(np.concatenate([window, repeated]), fit.height, width=fit.width)


def _size(shape: Sequence[int]) -> str:
    return f"{shape[0]} frames of {shape[2]}x{shape[1]}"


def resize(
    video: UInt8[np.ndarray, "T H W 3"], height: int, *, width: int
) -> UInt8[np.ndarray, "T {height} {width} 3"]:
    """Antialiased bicubic resizing, frame by frame."""
    if video.shape[1:3] == (height, width):
        return video
    out = np.empty((len(video), height, width, 3), np.uint8)
    for index, frame in enumerate(video):
        image = Image.fromarray(np.ascontiguousarray(frame))
        out[index] = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    return out


@dataclasses.dataclass(frozen=True)
class CaptionConfig:
    """Choice of a clip's caption, drawn anew each time the clip is seen.

    Attributes:
      names: caption sources to choose from; empty for all that the clip has.
      weights: relative frequency of each of `names`; empty for equal ones. A clip
        without a source falls back on those it has.
      dropout: probability of the empty caption, for classifier-free guidance.
      max_length: most text tokens, the end-of-text token included.
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
        check_weights(self.weights, what="caption weights")
        if not 0 <= self.dropout <= 1:
            nearest = min(max(self.dropout, 0), 1)
            raise ValueError(f"caption dropout {self.dropout}: use {nearest}")


def check_weights(weights: Sequence[float], *, what: str) -> None:
    """Refuse relative frequencies that are none; the empty ones are equal ones.

    Raises:
      ValueError: one is negative or not finite, or all are 0.
    """
    if weights and not (all(0 <= w < math.inf for w in weights) and sum(weights) > 0):
        raise ValueError(
            f"{what} {tuple(weights)}: use finite numbers of 0 or more, and one above 0"
        )


def choose_caption(
    captions: Mapping[str, str], config: CaptionConfig, *, rng: np.random.Generator
) -> str:
    """One caption of a clip, read as a prompt is, or the empty one."""
    if rng.random() < config.dropout or not captions:
        return ""
    weights = config.weights or (1.0,) * len(config.names)
    weight_of = dict(zip(config.names, weights, strict=True))
    candidates = shown_captions(captions, config)
    odds = np.array([weight_of.get(name, 1.0) for name in candidates])
    if not odds.any():  # it has only those of weight 0
        odds[:] = 1.0
    name = list(candidates)[int(rng.choice(len(candidates), p=odds / odds.sum()))]
    return prompts.readable(candidates[name])[0]


def shown_captions(
    captions: Mapping[str, str], config: CaptionConfig
) -> dict[str, str]:
    """Those of a clip's captions that training may show, by source."""
    chosen = {name: captions[name] for name in config.names if name in captions}
    return chosen or {name: captions[name] for name in sorted(captions)}


@dataclasses.dataclass(frozen=True)
class LatentTransform:
    """A stored latent and its captions to a `Segment`.

    Attributes:
      patch: latent frames, rows and columns of a patch.
      mean, std: statistics of each latent channel, by which tokens are normalised.
      reference_fps: frame rate at which positions count latent frames.
      captions: choice and length of the caption.
      encode: function of a text and the most ids to return; gives at least one, or
        features `[M, E]` of the text.
      windows: probability that a clip enters as a window (`sample_window`).
    """

    patch: tuple[int, int, int]
    mean: Float[np.ndarray, "z"]
    std: Float[np.ndarray, "z"]
    reference_fps: float
    captions: CaptionConfig
    encode: Callable[[str, int], Int[np.ndarray, "M"] | Float[np.ndarray, "M E"]]
    windows: float = 0.0

    def __call__(
        self,
        latent: Float[np.ndarray, "t h w z"],
        *,
        fps: float,
        captions: Mapping[str, str],
        rng: np.random.Generator,
    ) -> packing.Segment:
        """The segment of a latent.

        Raises:
          ValueError: the latent is not a whole number of patches.
        """
        normal = (latent.astype(np.float32) - self.mean) / self.std
        grid = patch.patch_grid(normal.shape, self.patch)
        start, known = sample_window(grid[0], self.windows, rng=rng)
        normal = normal[start * self.patch[0] :]
        grid = (grid[0] - start, *grid[1:])
        caption = choose_caption(captions, self.captions, rng=rng)
        text = np.asarray(self.encode(caption, self.captions.max_length))
        text = text.astype(np.int32 if text.ndim == 1 else np.float32, copy=False)
        tokens = np.asarray(patch.patchify(normal, self.patch), np.float32)
        # A patch spans `patch[0]` latent frames; at half the frame rate they are
        # twice as long in time.
        step = self.patch[0] * self.reference_fps / fps
        return packing.Segment(
            tokens=tokens,
            positions=patch.positions(grid, time_step=step),
            # Tokens are ordered by time first: the known ones come first.
            cond_mask=np.arange(len(tokens)) < known * grid[1] * grid[2],
            text=text,
        )


def sample_window(
    frames: int, probability: float, *, rng: np.random.Generator
) -> tuple[int, int]:
    """A window that begins inside a clip, as those in which long videos are made.

    The first latent frame of a clip holds one frame of video and the others r; as a
    window's first holds r, a model that was never trained on one would misread it.

    Args:
      frames: latent frames of the clip, in patches.
      probability: probability of a window rather than the clip as it is.
      rng: random numbers.

    Returns:
      First latent frame of the window, and how many of its own are known: at least one
      and never all. `(0, 0)` is the clip as it is.
    """
    if not probability or rng.random() >= probability or frames < 3:
        return 0, 0
    start = int(rng.integers(1, frames - 1))
    return start, int(rng.integers(1, frames - start))
