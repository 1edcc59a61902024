"""Sizes of video that a model can take.

A causal autoencoder turns T = 1 + r (t - 1) frames into t latent frames, r being its
temporal ratio, and s x s pixels into one latent cell. The transformer cuts the latent
into patches of (pt, ph, pw) cells. Both together admit, with k, a, b = 1, 2, ...,

    frames  1 + r (pt k - 1),    height  s ph a,    width  s pw b.                (1)

A size off this grid is refused, and the nearest sizes on it are named.
"""

import dataclasses
import math

# Tokens of one canvas: 81 frames of 1280x720 take 75,600 in the shapes of Wan 2.1.
MAX_TOKENS = 2**17
# Of one video, all windows and tiles together: 45 minutes at 24 frames per second, 8K,
# and 2 GiB of latents, which are held in memory.
MAX_FRAMES, MAX_SIDE, MAX_VALUES = 2**16, 2**13, 2**29


def nearest_sizes(size: int | float, step: int, *, first: int) -> tuple[int, ...]:
    """The members of first, first + step, ... nearest to `size`, below and above.

    One, where `size` is a member or below them all.
    """
    if size <= first:
        return (first,)
    below = first + math.floor((size - first) / step) * step
    return (below,) if below == size else (below, below + step)


def check_size(
    size: int, step: int, *, first: int, unit: str, largest: int | None = None
) -> None:
    """Refuse a size that is not a member of first, first + step, ..., up to `largest`.

    Raises:
      ValueError: "80 frames: use 77 or 81", where the unit is "frames".
    """
    if largest is not None and size > largest:
        nearest = nearest_sizes(largest, step, first=first)[0]
        raise ValueError(f"{size} {unit}: use {nearest} or less")
    legal = nearest_sizes(size, step, first=first)
    if size not in legal:
        raise ValueError(f"{size} {unit}: use {' or '.join(map(str, legal))}")


def power_of_two(size: int) -> int:
    """The least power of two that is not below `size`."""
    return 1 << max(0, size - 1).bit_length()


def wanted_frames(seconds: float, fps: float) -> float:
    """How many frames last so long; not rounded.

    Raises:
      ValueError: no finite number of frames above 0, or more than `MAX_FRAMES`.
    """
    wanted = seconds * fps
    rate = f"{seconds:g} seconds at {fps:g} frames per second"
    if not (wanted > 0 and 0 < fps < math.inf and seconds < math.inf):
        raise ValueError(f"{rate}: use finite numbers above 0")
    if wanted > MAX_FRAMES:
        raise ValueError(f"{rate}: use at most {math.floor(MAX_FRAMES / fps)} seconds")
    return wanted


@dataclasses.dataclass(frozen=True)
class Grid:
    """The sizes (1) of an autoencoder and a patch.

    Attributes:
      temporal_ratio: r, frames per latent frame after the first.
      spatial_ratio: s, pixels per latent cell.
      patch: latent frames, rows and columns of a token; (1, 1, 1) for the autoencoder
        alone.
      channels: z of the latent; 0 where only sizes matter.
    """

    temporal_ratio: int
    spatial_ratio: int
    patch: tuple[int, int, int] = (1, 1, 1)
    channels: int = 0

    @property
    def frame_step(self) -> int:
        """Frames between two legal frame counts: those of a patch after the first."""
        return self.temporal_ratio * self.patch[0]

    @property
    def min_frames(self) -> int:
        """The least legal frame count: 1, unless a patch spans latent frames."""
        return self.video_frames(self.patch[0])

    @property
    def patch_sides(self) -> tuple[int, int]:
        """Height and width of a patch in pixels, the steps of legal sides."""
        return self.spatial_ratio * self.patch[1], self.spatial_ratio * self.patch[2]

    def video_frames(self, latent_frames: int) -> int:
        """Frames of video that so many latent frames are, from the first on."""
        return 1 + self.temporal_ratio * (latent_frames - 1)

    def video_size(self, time: int, height: int, width: int) -> tuple[int, int, int]:
        """`(frames, height, width)` of what a latent of these sizes decodes to."""
        s = self.spatial_ratio
        return self.video_frames(time), height * s, width * s

    def latent_size(
        self,
        frames: int,
        height: int,
        width: int,
        *,
        first: bool = True,
        sides: tuple[str, str] = ("pixels high", "pixels wide"),
    ) -> tuple[int, int, int]:
        """`(t, h, w)` of the latent of a video, or of a chunk of one.

        Args:
          frames, height, width: in pixels.
          first: whether the chunk begins the video; one that does not has r t frames.
          sides: what errors call height and width.

        Raises:
          ValueError: a size off the grid, with the nearest sizes on it.
        """
        least = self.min_frames if first else self.frame_step
        check_size(frames, self.frame_step, first=least, unit="frames")
        for name, side, step in zip(
            sides, (height, width), self.patch_sides, strict=True
        ):
            check_size(side, step, first=step, unit=name)
        t = 1 + (frames - 1) // self.temporal_ratio
        if not first:
            t = frames // self.temporal_ratio
        return t, height // self.spatial_ratio, width // self.spatial_ratio

    def latent_shape(
        self, frames: int, height: int, width: int
    ) -> tuple[int, int, int, int]:
        """`(t, h, w, z)` of the latent of a video that is to be made.

        Raises:
          ValueError: a size off the grid or above the limits of this module, with the
            nearest sizes on it.
        """
        step, least = self.frame_step, self.min_frames
        check_size(frames, step, first=least, unit="frames", largest=MAX_FRAMES)
        self.check_frame((width, height))
        t, h, w = self.latent_size(frames, height, width)
        # Values of the latent frames of one patch, and how many such fit the limit.
        values = h * w * max(1, self.channels) * self.patch[0]
        longest = least + (MAX_VALUES // values - 1) * step
        if frames > longest:
            raise ValueError(
                f"{frames} frames of {width}x{height} pixels: use {longest} or less"
            )
        return t, h, w, self.channels

    def check_frame(self, size: tuple[int, int]) -> None:
        """Refuse a width and height that no frame of a video can have.

        Raises:
          ValueError: off the grid or above the limits of this module, with the nearest
            sizes on it; both sides are named where both are wrong.
        """
        steps = self.patch_sides[::-1]
        legal = [
            nearest_sizes(side, step, first=step)
            for side, step in zip(size, steps, strict=True)
        ]
        both_off = all(side not in near for side, near in zip(size, legal, strict=True))
        if both_off and max(size) <= MAX_SIDE:
            sizes = dict.fromkeys(
                f"{width}x{height}"
                for width, height in (
                    (legal[0][0], legal[1][0]),
                    (legal[0][-1], legal[1][-1]),
                )
            )
            raise ValueError(f"{size[0]}x{size[1]} pixels: use {' or '.join(sizes)}")
        for index, way in ((1, "high"), (0, "wide")):
            step, unit = steps[index], f"pixels {way}"
            check_size(size[index], step, first=step, unit=unit, largest=MAX_SIDE)

    def nearest_frames(self, seconds: float, fps: float) -> int:
        """The legal frame count that lasts nearest to `seconds`.

        Raises:
          ValueError: no finite number of frames above 0, or too many.
        """
        wanted = wanted_frames(seconds, fps)
        legal = nearest_sizes(wanted, self.frame_step, first=self.min_frames)
        return min(legal, key=lambda frames: abs(frames - wanted))

    def frames_below(self, frames: int) -> int:
        """The greatest legal frame count not above `frames`; else `min_frames`."""
        return nearest_sizes(frames, self.frame_step, first=self.min_frames)[0]

    def frames_above(self, frames: int) -> int:
        """The least legal frame count not below `frames`."""
        return nearest_sizes(frames, self.frame_step, first=self.min_frames)[-1]

    def check_tokens(self, latent_shape: tuple[int, ...]) -> None:
        """Refuse a latent `(t, h, w, z)` on the grid of more than `MAX_TOKENS` tokens.

        Raises:
          ValueError: with the longest video of its size that is allowed.
        """
        t, h, w = (n // p for n, p in zip(latent_shape, self.patch, strict=False))
        if t * h * w <= MAX_TOKENS:
            return
        if h * w <= MAX_TOKENS:
            frames = self.min_frames + (MAX_TOKENS // (h * w) - 1) * self.frame_step
            use = f"at this size use at most {frames} frames"
        else:
            scale = math.sqrt(MAX_TOKENS / (t * h * w))
            down, across = (
                max(1, math.floor(side * scale)) * step
                for side, step in zip((h, w), self.patch_sides, strict=True)
            )
            use = f"use {across}x{down} pixels or less, or tiles"
        raise ValueError(f"{t * h * w} tokens, more than {MAX_TOKENS}: {use}")
