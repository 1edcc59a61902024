"""Batches of crops of one shape, for the autoencoder.

Batch `step` has one shape (frames, height, width), drawn from a mixture that holds
images as shapes of one frame; its clips are elements `step * batch + slot` of the
stream. A crop is taken at the clip's own scale (or that of `max_side`) or, half of the
time by default, from a smaller copy, down to where the crop just covers it. Nothing is
stretched.

A clip that is smaller or shorter than the shape is passed over for another one drawn
from the same stream; where a few draws find none that is large enough, the clip is
enlarged until it covers the crop and played back and forth until it is long enough.
"""

import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines import records, transforms
from soraflax import media

Shape = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class CropConfig:
    """What batches of crops look like.

    Attributes:
      shapes: `(frames, height, width)` to choose from; frames = 1 for images.
      weights: how often each is chosen; empty for equally.
      resize: share of crops that are taken from a smaller copy of the clip.
      fps: frame rate that faster clips are subsampled towards; 0 keeps the native one.
      max_side: clips with a longer side are first scaled down to it; 0 for no limit.
      memory: megabytes of decoded clips to keep; what does not fit is decoded anew.
      tries: draws for a clip that is large enough.
    """

    shapes: tuple[Shape, ...] = ((1, 64, 64), (17, 64, 64))
    weights: tuple[float, ...] = ()
    resize: float = 0.5
    fps: float = 0.0
    max_side: int = 0
    memory: int = 256
    tries: int = 8

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


@dataclasses.dataclass(frozen=True)
class CropBatches:
    """Random access to batches: item `step` is a pure function of (seed, step).

    Attributes:
      clips: the stream of clips.
      draws: clips at its start that a replacement is drawn from.
      config: shapes and scales.
      batch: crops per batch on this host.
      seed: of shapes, windows and crops.
      host: this host and how many there are; all draw the same shape.
      frames: decoded clips.
    """

    clips: Any
    draws: int
    config: CropConfig
    batch: int
    seed: int
    host: tuple[int, int] = (0, 1)
    frames: "FrameStore" = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", FrameStore(self.config))

    def __len__(self) -> int:
        return len(self.clips) // (self.batch * self.host[1])

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        shape = self.shape(index)
        host, count = self.host
        first = (index * count + host) * self.batch
        crops = [self._crop(first + slot, shape) for slot in range(self.batch)]
        return {"video": np.stack(crops)}

    def shape(self, step: int) -> Shape:
        """The shape of batch `step`."""
        weights = np.array(self.config.weights or (1.0,) * len(self.config.shapes))
        rng = np.random.default_rng((self.seed, step, 1))
        chosen = rng.choice(len(weights), p=weights / weights.sum())
        return self.config.shapes[int(chosen)]

    def _crop(self, place: int, shape: Shape) -> np.ndarray:
        rng = np.random.default_rng((self.seed, place, 2))
        own = clip = self.clips[place]
        for _ in range(self.config.tries):
            if large_enough(clip, shape, config=self.config):
                break
            clip = self.clips[int(rng.integers(self.draws))]
        else:
            clip = own
        return crop(clip, shape, frames=self.frames, rng=rng)


def sizes(clip: records.ClipRecord, config: CropConfig) -> Shape:
    """Frames, height and width of a clip at its reduced rate and scale."""
    stride = transforms.frame_stride(clip.fps, config.fps)
    longer = max(clip.height, clip.width)
    scale = min(1.0, config.max_side / longer) if config.max_side else 1.0
    height, width = (max(1, round(side * scale)) for side in (clip.height, clip.width))
    return -(-clip.frames // stride), height, width


def large_enough(clip: records.ClipRecord, shape: Shape, *, config: CropConfig) -> bool:
    """Can a crop of this shape be cut from the clip without enlarging it?"""
    have = sizes(clip, config)
    return all(size >= wanted for size, wanted in zip(have, shape, strict=True))


class FrameStore:
    """Decoded clips, kept while they fit in memory. What it returns never differs."""

    def __init__(self, config: CropConfig) -> None:
        self.config = config
        self._room = config.memory * 2**20
        self._kept: dict[Any, np.ndarray] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        return FrameStore, (self.config,)

    def window(self, clip: records.ClipRecord, start: int, *, count: int) -> np.ndarray:
        """At most `count` frames from `start` on, counted at the reduced rate."""
        key = (clip.id, hash(clip.video))
        whole = self._kept.get(key)
        if whole is None and self._reserve(3 * int(np.prod(sizes(clip, self.config)))):
            whole = self._kept[key] = self._decode(clip, 0, count=None)
        if whole is None:
            return self._decode(clip, start, count=count)
        return whole[start : start + count]

    def _reserve(self, size: int) -> bool:
        with self._lock:
            fits = size <= self._room
            self._room -= size if fits else 0
            return fits

    def _decode(
        self, clip: records.ClipRecord, start: int, *, count: int | None
    ) -> np.ndarray:
        stride = transforms.frame_stride(clip.fps, self.config.fps)
        _, height, width = sizes(clip, self.config)
        resized = (height, width) != (clip.height, clip.width)
        return media.decode(
            clip.video,
            name=clip.id,
            start=start * stride,
            max_frames=count,
            step=stride,
            size=(width, height) if resized else None,
        ).frames


def crop(
    clip: records.ClipRecord,
    shape: Shape,
    *,
    frames: FrameStore,
    rng: np.random.Generator,
) -> np.ndarray:
    """A random crop `[frames, height, width, 3]` uint8 of a clip."""
    length, height, width = shape
    spare = max(0, sizes(clip, frames.config)[0] - length)
    video = frames.window(clip, int(rng.integers(spare + 1)), count=length)
    share = frames.config.resize
    scale = _scale(video.shape[1:3], (height, width), share=share, rng=rng)
    box = [
        min(have, max(1, round(want / scale)))
        for have, want in zip(video.shape[1:3], (height, width), strict=True)
    ]
    top, left = (
        int(rng.integers(have - want + 1))
        for have, want in zip(video.shape[1:3], box, strict=True)
    )
    video = video[:, top : top + box[0], left : left + box[1]]
    video = video[_back_and_forth(len(video), length)]
    return transforms.resize(video, height, width=width)


def _scale(
    have: Sequence[int], want: Sequence[int], *, share: float, rng: np.random.Generator
) -> float:
    """Pixels of the crop per pixel of the clip: 1, or less, or what covers the crop."""
    cover = max(w / h for w, h in zip(want, have, strict=True))
    resized = rng.random() < share
    smaller = rng.uniform(min(cover, 1.0), 1.0)
    return max(cover, float(smaller) if resized else 1.0)


def _back_and_forth(have: int, want: int) -> Any:
    """Indices 0 .. have - 1, then back, and so on, `want` of them."""
    period = max(1, 2 * (have - 1))
    place = np.arange(want) % period
    return np.minimum(place, period - place) if have > 1 else np.zeros(want, int)
