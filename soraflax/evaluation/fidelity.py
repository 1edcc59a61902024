"""Errors of a reconstruction over time: frame by frame, and as flicker.

A causal autoencoder sees nothing before the first frame, so that frame is often the
worst; and where r frames share one latent frame, error repeats with period r. On a
static scene every change between frames was made by the autoencoder:

    flicker_t = mean |y_{t+1} - y_t|,    y the reconstruction of a still,         (1)

in levels of 8 bits, of which a video in [-1, 1] has 127.5 to the unit.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from soraflax.evaluation import metrics

AnyArray = Array | np.ndarray

LEVELS = 127.5


def frame_errors(
    a: Float[AnyArray, "*B T H W C"], b: Float[AnyArray, "..."]
) -> Float[Array, "*B T"]:
    """Mean squared error of each frame, float32.

    Raises:
      ValueError: videos of different shapes.
    """
    if a.shape != b.shape:
        raise ValueError(f"videos of different shapes: {a.shape} and {b.shape}")
    error = jnp.square(a.astype(jnp.float32) - b.astype(jnp.float32))
    return jnp.mean(error, axis=(-3, -2, -1))


def decibels(squared_error: Any) -> Any:
    """PSNR of a mean squared error of videos in [-1, 1]; infinite for none."""
    with np.errstate(divide="ignore"):
        return 10.0 * np.log10(metrics.RANGE**2 / np.asarray(squared_error, np.float64))


@dataclasses.dataclass(frozen=True)
class FrameProfile:
    """PSNR in dB by position in time, each of the mean squared error over clips.

    NaN stands where no clip has such a frame.

    Attributes:
      first, middle, last: frames 0, T // 2 and T - 1 of clips of two frames or more.
      images: clips of one frame.
      by_frame: frame 0, 1, ... of clips of two frames or more.
      by_phase: frames 1, 2, ..., by their phase 0..r-1 among the r frames that share
        one latent frame.
    """

    first: float
    middle: float
    last: float
    images: float
    by_frame: Float[np.ndarray, "T"]
    by_phase: Float[np.ndarray, "r"]


def frame_profile(errors: Iterable[Any], *, temporal_ratio: int) -> FrameProfile:
    """The profile of `frame_errors`, `[B, T]` each, in which T may differ.

    Raises:
      ValueError: no clips.
    """
    clips = [clip for batch in errors for clip in np.asarray(batch, np.float64)]
    if not clips:
        raise ValueError("no clips: a profile needs at least one")
    videos = [clip for clip in clips if len(clip) > 1]
    frames = range(max(map(len, videos), default=0))
    phases = range(temporal_ratio)
    return FrameProfile(
        first=_pooled(clip[:1] for clip in videos),
        middle=_pooled(clip[len(clip) // 2 :][:1] for clip in videos),
        last=_pooled(clip[-1:] for clip in videos),
        images=_pooled(clip for clip in clips if len(clip) == 1),
        by_frame=np.array(
            [_pooled(clip[t : t + 1] for clip in videos) for t in frames]
        ),
        by_phase=np.array(
            [_pooled(clip[1 + p :: temporal_ratio] for clip in videos) for p in phases]
        ),
    )


def _pooled(parts: Iterable[np.ndarray]) -> float:
    values = np.concatenate([np.empty(0), *parts])
    return float(decibels(values.mean())) if len(values) else float("nan")


def static_scene(
    images: Float[Array, "B H W C"], frames: int
) -> Float[Array, "B {frames} H W C"]:
    """A static scene: each image repeated."""
    return jnp.repeat(images[:, None], frames, axis=1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Flicker:
    """Flicker of reconstructions of static scenes, in 8-bit levels.

    Attributes:
      steps: `[B, T - 1]`, equation (1).
      peak: `[B]`, the largest change of any value between two frames.
      error: `[B]`, mean absolute error against the still.
    """

    steps: Any
    peak: Any
    error: Any

    @property
    def mean(self) -> Any:
        """`[B]`, over time."""
        return self.steps.mean(axis=-1)

    @property
    def relative(self) -> Any:
        """`[B]`, `mean` over `error`: 0 is a constant error; 0 where there is none.

        An error drawn anew in every frame from a normal distribution would have 1.41.
        """
        return jnp.where(self.error > 0, self.mean / jnp.maximum(self.error, 1e-9), 0.0)


def flicker(
    scene: Float[AnyArray, "B T H W C"], reconstruction: Float[AnyArray, "..."]
) -> Flicker:
    """Flicker of the reconstruction of a static scene; both in [-1, 1].

    Raises:
      ValueError: fewer than two frames, or different shapes.
    """
    if scene.shape != reconstruction.shape:
        raise ValueError(
            f"videos of different shapes: {scene.shape} and {reconstruction.shape}"
        )
    if scene.shape[1] < 2:
        raise ValueError(f"{scene.shape[1]} frames: flicker needs 2 or more")
    y = reconstruction.astype(jnp.float32)
    change = jnp.abs(jnp.diff(y, axis=1))
    error = jnp.abs(y - scene.astype(jnp.float32))
    return Flicker(
        steps=LEVELS * jnp.mean(change, axis=(2, 3, 4)),
        peak=LEVELS * jnp.max(change, axis=(1, 2, 3, 4)),
        error=LEVELS * jnp.mean(error, axis=(1, 2, 3, 4)),
    )
