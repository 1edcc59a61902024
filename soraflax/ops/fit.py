"""The size, rate and window at which a model sees a clip of any size.

A clip keeps its aspect ratio. It is cut in time to a window, subsampled to a frame rate
and scaled down until its tokens fit a budget, then each side is rounded to the patch
grid: no side is further than one grid step from the native side times one common scale.
With r the temporal ratio, s the spatial multiple and p the frames of latent a patch
holds, a fitted clip has

    frames = 1 + r (p t - 1),   height = s h,   width = s w,   t h w <= max_tokens   (1)

`plan_fit` decides all this from four numbers and never refuses a clip.
"""

import dataclasses
import math

from soraflax.ops import grid as grids


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
