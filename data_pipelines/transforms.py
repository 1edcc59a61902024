"""From a clip to what the model sees: fit, cut, resize, tokenise, patchify.

`ops.fit` decides the size, rate and window of every clip and never refuses one: nothing
is dropped, and `fit_report` has a line for each.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from soraflax import media
from soraflax.generation import prompts
from soraflax.media import pixels
from soraflax.ops import packing, patch
from soraflax.ops.fit import FitConfig as FitConfig
from soraflax.ops.fit import FitPlan as FitPlan
from soraflax.ops.fit import frame_stride as frame_stride
from soraflax.ops.fit import plan_fit as plan_fit


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
      MediaError: the bytes cannot be decoded, or to frames of another size.
      ValueError: the clip is not the one that was planned for.
    """
    frames, height, width = fit.native
    window = media.decode(
        data,
        name=name,
        start=start,
        max_frames=fit.frames,
        step=fit.stride,
        size=media.Fit((fit.width, fit.height), native=(width, height)),
    ).frames
    expected = min(fit.frames, -(-(frames - start) // fit.stride))
    if len(window) != expected:
        raise ValueError(
            f"{name}: {expected} frames of {width}x{height} were announced, "
            f"{len(window)} frames decode; make the dataset again"
        )
    repeated = np.repeat(window[-1:], fit.frames - len(window), axis=0)
    return np.concatenate([window, repeated]) if len(repeated) else window


def resize(
    video: UInt8[np.ndarray, "T H W 3"], height: int, *, width: int
) -> UInt8[np.ndarray, "T {height} {width} 3"]:
    """Antialiased bicubic resizing, frame by frame."""
    if video.shape[1:3] == (height, width):
        return video
    out = np.empty((len(video), height, width, 3), np.uint8)
    for index, frame in enumerate(video):
        out[index] = pixels.bicubic(frame, (width, height))
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
