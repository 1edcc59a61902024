"""Batches of crops of one shape, for the autoencoder.

Batch `step` has one shape (frames, height, width), drawn from a mixture that holds
images as shapes of one frame; its clips are elements `step * batch + slot` of the
stream. A crop is taken at the clip's own scale (or that of `max_side`) or, half of the
time by default, from a smaller copy, down to where the crop just covers it. Nothing is
stretched.

A clip that is smaller or shorter than the shape is passed over for another one drawn
from the same stream; where a few draws find none that is large enough, the clip is
enlarged until it covers the crop and played back and forth until it is long enough. One
that cannot be decoded is replaced in the same way, said once, and too many end the run.
"""

import dataclasses
import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from data_pipelines import records, sources, transforms
from soraflax import media

Shape = tuple[int, int, int]
MAX_REPLACED = 16  # clips in a row that cannot be decoded, before the run ends


@dataclasses.dataclass(frozen=True)
class CropConfig:
    """Shapes and scales of crops, and the limits of looking for them.

    Attributes:
      shapes: `(frames, height, width)` to choose from; frames = 1 for images.
      weights: relative frequency of each shape; empty for equal ones.
      resize: probability that a crop is taken from a smaller copy of the clip.
      fps: target frame rate, to which faster clips are subsampled; 0 keeps the native.
      max_side: pixels; clips with a longer side are first scaled down; 0 for no limit.
      memory: cache of decoded clips in MiB; what does not fit is decoded anew.
      tries: most draws from the stream for a clip that covers the shape.
      places: places in the frame that are drawn for a crop, of which the one whose
        pixels vary most is taken: a body rather than the plain ground beside it.
    """

    shapes: tuple[Shape, ...] = ((1, 64, 64), (17, 64, 64))
    weights: tuple[float, ...] = ()
    resize: float = 0.5
    fps: float = 0.0
    max_side: int = 0
    memory: int = 256
    tries: int = 8
    places: int = 1

    def __post_init__(self) -> None:
        if not self.shapes or min(min(shape) for shape in self.shapes) < 1:
            raise ValueError(
                f"shapes {self.shapes}: give one or more, of positive sizes"
            )
        if self.weights and len(self.weights) != len(self.shapes):
            raise ValueError(
                f"{len(self.weights)} weights for {len(self.shapes)} shapes: "
                f"use {len(self.shapes)}"
            )
        if self.places < 1:
            raise ValueError(f"places {self.places}: use 1 or more")
        transforms.check_weights(self.weights, what="weights of shapes")


@dataclasses.dataclass(frozen=True)
class CropBatches:
    """Random access to batches: item `step` is a pure function of (seed, step).

    Attributes:
      clips: stream of clips.
      draws: number of clips at the start of the stream that replacements come from.
      config: shapes and scales.
      batch: crops per batch on this host.
      seed: PRNG seed of shapes, windows and crops.
      host: index of this host and number of hosts; all draw the same shape.
      frames: cache of decoded clips.
      damaged: clips that could not be decoded.
    """

    clips: Any
    draws: int
    config: CropConfig
    batch: int
    seed: int
    host: tuple[int, int] = (0, 1)
    frames: "FrameCache" = dataclasses.field(init=False)
    damaged: sources.DamageCount = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", FrameCache(self.config))
        count = sources.DamageCount(sources.max_damaged(self.draws))
        object.__setattr__(self, "damaged", count)

    def __len__(self) -> int:
        return len(self.clips) // (self.batch * self.host[1])

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        shape = self.shape(index)
        # Hosts take consecutive runs of `batch` elements, so that together they read
        # the stream without gaps, whatever their number.
        host, count = self.host
        first = (index * count + host) * self.batch
        crops = [self._crop(first + slot, shape) for slot in range(self.batch)]
        return {"video": np.stack(crops)}

    def ids(self, index: int) -> list[str]:
        """Ids of the clips of batch `index`; of one that is damaged, its own."""
        shape, (host, count) = self.shape(index), self.host
        first = (index * count + host) * self.batch
        return [self._drawn(first + slot, shape)[0].id for slot in range(self.batch)]

    def shape(self, step: int) -> Shape:
        """Shape of the crops of batch `step`."""
        weights = np.array(self.config.weights or (1.0,) * len(self.config.shapes))
        rng = np.random.default_rng((self.seed, step, 1))
        chosen = rng.choice(len(weights), p=weights / weights.sum())
        return self.config.shapes[int(chosen)]

    def _crop(self, position: int, shape: Shape) -> np.ndarray:
        """The crop of a place in the stream; of another clip where one is damaged."""
        clip, rng = self._drawn(position, shape)
        failure = None
        for _ in range(MAX_REPLACED):
            try:
                return random_crop(clip, shape, frames=self.frames, rng=rng)
            except media.MediaError as error:
                self.damaged.add(clip.id, error)
                failure = error
            other = self.clips[int(rng.integers(self.draws))]
            clip = self._covering(other, shape, rng=rng)
        raise records.DatasetError(f"{MAX_REPLACED} clips in a row: {failure}")

    def _drawn(
        self, position: int, shape: Shape
    ) -> tuple[records.ClipRecord, np.random.Generator]:
        """The clip of a place in the stream, and the random numbers of its crop."""
        rng = np.random.default_rng((self.seed, position, 2))
        return self._covering(self.clips[position], shape, rng=rng), rng

    def _covering(
        self, original: records.ClipRecord, shape: Shape, *, rng: np.random.Generator
    ) -> records.ClipRecord:
        """The clip, or another that covers the shape if a few draws find one."""
        clip = original
        for _ in range(self.config.tries):
            if covers(clip, shape, config=self.config):
                return clip
            clip = self.clips[int(rng.integers(self.draws))]
        return original


def reduced_size(clip: records.ClipRecord, config: CropConfig) -> Shape:
    """Frames, height and width of a clip at its reduced rate and scale."""
    stride = transforms.frame_stride(clip.fps, config.fps)
    longer = max(clip.height, clip.width)
    scale = min(1.0, config.max_side / longer) if config.max_side else 1.0
    height, width = (max(1, round(side * scale)) for side in (clip.height, clip.width))
    return -(-clip.frames // stride), height, width


def covers(clip: records.ClipRecord, shape: Shape, *, config: CropConfig) -> bool:
    """Whether the clip has a crop of this shape without being enlarged."""
    available = reduced_size(clip, config)
    return all(
        size >= required for size, required in zip(available, shape, strict=True)
    )


class FrameCache:
    """A cache of decoded clips; its size changes speed, never what is returned."""

    def __init__(self, config: CropConfig) -> None:
        self.config = config
        self._free_bytes = config.memory * 2**20
        self._videos: dict[Any, np.ndarray] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        return FrameCache, (self.config,)

    def window(
        self, clip: records.ClipRecord, start: int, *, count: int
    ) -> UInt8[np.ndarray, "T H W 3"]:
        """At most `count` frames from `start` on, counted at the reduced rate."""
        key = (clip.id, hash(clip.video))
        video = self._videos.get(key)
        size = 3 * math.prod(reduced_size(clip, self.config))
        if video is None and self._reserve(size):
            video = self._videos[key] = self._decode(clip, 0, count=None)
        if video is None:
            return self._decode(clip, start, count=count)
        return video[start : start + count]

    def _reserve(self, size: int) -> bool:
        with self._lock:
            fits = size <= self._free_bytes
            self._free_bytes -= size if fits else 0
            return fits

    def _decode(
        self, clip: records.ClipRecord, start: int, *, count: int | None
    ) -> UInt8[np.ndarray, "T H W 3"]:
        stride = transforms.frame_stride(clip.fps, self.config.fps)
        _, height, width = reduced_size(clip, self.config)
        resized = (height, width) != (clip.height, clip.width)
        return media.decode(
            clip.video,
            name=clip.id,
            start=start * stride,
            max_frames=count,
            step=stride,
            size=(width, height) if resized else None,
        ).frames


def random_crop(
    clip: records.ClipRecord,
    shape: Shape,
    *,
    frames: FrameCache,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "T H W 3"]:
    """A random crop of a clip: of its window, its scale and its place in the frame."""
    length, height, width = shape
    last_start = max(0, reduced_size(clip, frames.config)[0] - length)
    video = frames.window(clip, int(rng.integers(last_start + 1)), count=length)
    scale = _random_scale(
        video.shape[1:3],
        (height, width),
        probability=frames.config.resize,
        rng=rng,
    )
    # Cut first, then resize: the box is the part of the clip that becomes the crop.
    box = [
        min(side, max(1, round(target / scale)))
        for side, target in zip(video.shape[1:3], (height, width), strict=True)
    ]
    cuts = [_random_cut(video, box, rng=rng) for _ in range(frames.config.places)]
    video = max(cuts, key=_variance) if len(cuts) > 1 else cuts[0]
    video = video[_back_and_forth(len(video), length)]
    return transforms.resize(video, height, width=width)


def _random_cut(
    video: UInt8[np.ndarray, "T H W 3"],
    box: Sequence[int],
    *,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "T h w 3"]:
    """A part of `box` pixels, height and width, of all frames."""
    top, left = (
        int(rng.integers(side - target + 1))
        for side, target in zip(video.shape[1:3], box, strict=True)
    )
    return video[:, top : top + box[0], left : left + box[1]]


def _variance(video: UInt8[np.ndarray, "T h w 3"]) -> float:
    """Of the pixels, over places and time."""
    return float(np.var(video.reshape(-1, 3), axis=0).sum())


def _random_scale(
    sides: Sequence[int],
    targets: Sequence[int],
    *,
    probability: float,
    rng: np.random.Generator,
) -> float:
    """Pixels of the crop per pixel of the clip: 1, or less, or what covers the crop."""
    cover = max(w / h for w, h in zip(targets, sides, strict=True))
    resized = rng.random() < probability
    smaller = rng.uniform(min(cover, 1.0), 1.0)
    return max(cover, float(smaller) if resized else 1.0)


def _back_and_forth(frames: int, count: int) -> Int[np.ndarray, "count"]:
    """`count` indices: 0 .. frames - 1, back to 0, and so on; no end comes twice."""
    period = max(1, 2 * (frames - 1))
    phase = np.arange(count) % period
    return np.minimum(phase, period - phase) if frames > 1 else np.zeros(count, int)
