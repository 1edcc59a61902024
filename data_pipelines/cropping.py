"""Batches of crops of one shape, for the autoencoder.

Batch `step` has one shape (frames, height, width), drawn from a mixture that holds
images as shapes of one frame; its clips are elements `step * batch + slot` of the
stream. A crop is taken at native scale or, half of the time by default, from a
smaller copy of the clip, down to where the crop just covers it. Nothing is stretched.

A clip that is smaller or shorter than the shape is passed over for another one drawn
from the same stream; where a few draws find none that is large enough, the clip is
enlarged until it covers the crop and played back and forth until it is long enough.
"""

import dataclasses
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
      tries: draws for a clip that is large enough.
    """

    shapes: tuple[Shape, ...] = ((1, 64, 64), (17, 64, 64))
    weights: tuple[float, ...] = ()
    resize: float = 0.5
    fps: float = 0.0
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
    """

    clips: Any
    draws: int
    config: CropConfig
    batch: int
    seed: int
    host: tuple[int, int] = (0, 1)

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
            if large_enough(clip, shape, fps=self.config.fps):
                break
            clip = self.clips[int(rng.integers(self.draws))]
        else:
            clip = own
        return crop(clip, shape, config=self.config, rng=rng)


def large_enough(clip: records.ClipRecord, shape: Shape, *, fps: float) -> bool:
    """Can a crop of this shape be cut from the clip without enlarging it?"""
    frames, height, width = shape
    kept = -(-clip.frames // transforms.frame_stride(clip.fps, fps))
    return kept >= frames and clip.height >= height and clip.width >= width


def crop(
    clip: records.ClipRecord,
    shape: Shape,
    *,
    config: CropConfig,
    rng: np.random.Generator,
) -> np.ndarray:
    """A random crop `[frames, height, width, 3]` uint8 of a clip."""
    frames, height, width = shape
    stride = transforms.frame_stride(clip.fps, config.fps)
    spare = max(0, clip.frames - 1 - (frames - 1) * stride)
    start = int(rng.integers(spare + 1))
    video = media.decode(
        clip.video, name=clip.id, start=start, max_frames=frames, step=stride
    ).frames
    scale = _scale(video.shape[1:3], (height, width), share=config.resize, rng=rng)
    box = [
        min(have, max(1, round(want / scale)))
        for have, want in zip(video.shape[1:3], (height, width), strict=True)
    ]
    top, left = (
        int(rng.integers(have - want + 1))
        for have, want in zip(video.shape[1:3], box, strict=True)
    )
    video = video[:, top : top + box[0], left : left + box[1]]
    return transforms.resize(
        video[_back_and_forth(len(video), frames)], height, width=width
    )


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
