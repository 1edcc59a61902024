"""Guidance: two predictions, with and without the caption, made into one.

Classifier-free guidance (arXiv:2207.12598, equation 6, with w + 1 as the scale) is

    guided = unconditional + scale (conditional - unconditional).               (1)

Scale 1 is the conditional prediction alone, 0 the unconditional one. A negative prompt
takes the place of the empty caption. (1) is linear, so it may be applied to velocity,
epsilon or x0 predictions alike, with the same result. Three refinements:

Interval (arXiv:2404.07724): (1) only at levels from `low` to `high`, both included; the
conditional prediction at all others.

Rescale (arXiv:2305.08891, section 3.4): with d the standard deviation of a prediction
over the unknown tokens of its segment, the result of (1) is multiplied by

    rescale d(conditional) / d(guided) + 1 - rescale,                           (2)

which keeps large scales from burning the colours.

Zero-init (arXiv:2503.18886): in the first `zero_init` steps the velocity is 0, the
model's least certain answers being worse than none. For an epsilon or x0 prediction
this is what equations (5) and (6) of `process` say of v = 0. A sampler that remembers
should begin anew after these steps, for their x0 is no estimate.

Skip guidance (arXiv:2411.18664) adds what some blocks contribute, once more:

    guided + skip (conditional - skipped),                                      (3)

where `skipped` is the conditional prediction without these blocks, and (2) is of the
sum. A block of the middle serves what belongs together in a picture: bodies keep their
shapes and their paths.

`guide` does all of it. Its numbers are arguments, so changing them compiles nothing
anew.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from soraflax.diffusion import process as process_lib

Data = Float[Array, "*shape"]
Level = Float[Array, "*#shape"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GuidanceArrays:
    """The numbers of a `GuidanceConfig` as float32 scalars, to be traced."""

    scale: Any
    low: Any
    high: Any
    rescale: Any
    zero_init: Any
    low_scale: Any
    skip: Any
    skip_low: Any
    skip_high: Any

    def at(self, level: Level, *, boundary: float | None) -> "GuidanceArrays":
        """With the scale of each level, where two experts share them.

        Args:
          level: of every token, `[B, N, 1]`.
          boundary: the level between the experts; None leaves one scale for all.
        """
        if boundary is None:
            return self
        scale = jnp.where(level >= boundary, self.scale, self.low_scale)
        return dataclasses.replace(self, scale=scale)


@dataclasses.dataclass(frozen=True)
class SkipGuidance:
    """Equation (3).

    Attributes:
      blocks: indices of the blocks that `skipped` goes around, from 0.
      scale: `skip`, more than 0.
      interval: lowest and highest level at which it is added, 0 to 1.

    Raises:
      ValueError: no block, one twice or below 0, or a number out of its range.
    """

    blocks: tuple[int, ...]
    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not self.blocks or len(set(self.blocks)) < len(self.blocks):
            raise ValueError(
                f"skipped blocks {self.blocks}: name one or more, each once"
            )
        if min(self.blocks) < 0:
            raise ValueError(
                f"skipped block {min(self.blocks)}: they are numbered from 0"
            )
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"skip guidance {self.scale}: use a number above 0")
        _check_interval(self.interval, what="skip guidance")

    def kept(self, depth: int) -> Bool[np.ndarray, "depth"]:
        """Whether `skipped` goes through each block of a transformer.

        Raises:
          ValueError: it has no such block.
        """
        if (last := max(self.blocks)) >= depth:
            raise ValueError(f"skipped block {last}: the model has 0 to {depth - 1}")
        return ~np.isin(np.arange(depth), self.blocks)


@dataclasses.dataclass(frozen=True)
class GuidanceConfig:
    """How two predictions become one.

    Attributes:
      scale: guidance scale of equation (1); 1 is no guidance.
      low, high: the interval of guided levels, 0 to 1.
      rescale: weight of the rescaled result in equation (2), 0 to 1.
      zero_init: number of steps at the start that leave the data where it is.
      low_scale: scale of levels below the boundary of two experts (`nn.experts`); None
        for `scale` at all levels.
      skip: equation (3); None for none.

    Raises:
      ValueError: a number out of its range.
    """

    scale: float = 4.0
    low: float = 0.0
    high: float = 1.0
    rescale: float = 0.0
    zero_init: int = 0
    low_scale: float | None = None
    skip: SkipGuidance | None = None

    def __post_init__(self) -> None:
        for scale in (self.scale, self.low_scale or 0.0):
            if not np.isfinite(scale):
                raise ValueError(f"guidance scale {scale}: use a finite number")
        _check_interval((self.low, self.high), what="guidance")
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"guidance rescale {self.rescale}: use a share, 0 to 1")
        if self.zero_init < 0 or self.zero_init != int(self.zero_init):
            raise ValueError(f"zero-init {self.zero_init}: use 0 steps or more")

    @property
    def is_enabled(self) -> bool:
        """Whether a scale asks for an unconditional prediction at all."""
        return self.scale != 1 or self.low_scale not in (None, 1)

    def is_active(self, levels: Float[np.ndarray, "*shape"]) -> bool:
        """Whether any of these levels is guided; if not, the step can go without."""
        return self.is_enabled and _any_inside(levels, (self.low, self.high))

    def is_skipping(self, levels: Float[np.ndarray, "*shape"]) -> bool:
        """Whether equation (3) is added at any of these levels."""
        return self.skip is not None and _any_inside(levels, self.skip.interval)

    def arrays(self) -> GuidanceArrays:
        """The same numbers, for `guide`."""
        skip = self.skip or SkipGuidance((0,))
        return GuidanceArrays(
            scale=np.float32(self.scale),
            low=np.float32(self.low),
            high=np.float32(self.high),
            rescale=np.float32(self.rescale),
            zero_init=np.float32(self.zero_init),
            low_scale=np.float32(
                self.scale if self.low_scale is None else self.low_scale
            ),
            skip=np.float32(skip.scale),
            skip_low=np.float32(skip.interval[0]),
            skip_high=np.float32(skip.interval[1]),
        )


def _check_interval(interval: tuple[float, float], *, what: str) -> None:
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise ValueError(f"{what} interval {low} to {high}: need 0 <= low <= high <= 1")


def _any_inside(
    levels: Float[np.ndarray, "*shape"], interval: tuple[float, float]
) -> bool:
    levels = np.asarray(levels, np.float32)
    low, high = map(np.float32, interval)
    return bool(np.any((low <= levels) & (levels <= high)))


def classifier_free(
    conditional: Data, unconditional: Data, *, scale: Float[Array, "*#shape"]
) -> Data:
    """Equation (1) in float32; `scale` is one number or broadcasts, `[B, N, 1]`."""
    conditional = conditional.astype(jnp.float32)
    unconditional = unconditional.astype(jnp.float32)
    return unconditional + scale * (conditional - unconditional)


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What guidance goes by: predictions of x in the process's parameterisation.

    Attributes:
      conditional: with the caption.
      unconditional: without it; None leaves out (1).
      skipped: the conditional one without some blocks; None leaves out (3).
    """

    conditional: Any
    unconditional: Any = None
    skipped: Any = None


def guide(
    predictions: Predictions,
    *,
    settings: GuidanceArrays,
    process: process_lib.Process,
    x: Data,
    level: Level,
    step: Int[Array, ""],
    deviation: Callable[[Any], Any],
) -> Data:
    """One prediction from up to three: all that the module's docstring says.

    Args:
      predictions: of x.
      settings: from `GuidanceConfig.arrays`.
      process: what the model was trained on.
      x: the data that they predict from.
      level: its noise level, `[B, N, 1]` for tokens `[B, N, P]`.
      step: index of the sampler's step, from 0.
      deviation: standard deviation of data shaped like `x`, over the unknown tokens of
        each segment; broadcasts against `x`. (2) is 1 where it is 0.

    Returns:
      The guided prediction, float32, in the same parameterisation.
    """
    conditional = predictions.conditional.astype(jnp.float32)
    guided, inside = conditional, jnp.zeros((), bool)
    if (unconditional := predictions.unconditional) is not None:
        inside = (settings.low <= level) & (level <= settings.high)
        free = classifier_free(
            conditional, unconditional, scale=jnp.asarray(settings.scale)
        )
        guided = jnp.where(inside, free, conditional)
    if (skipped := predictions.skipped) is not None:
        added = (settings.skip_low <= level) & (level <= settings.skip_high)
        more = settings.skip * (conditional - skipped.astype(jnp.float32))
        guided = jnp.where(added, guided + more, guided)
        inside = inside | added
    factor = _rescale_factor(
        deviation(conditional), deviation(guided), rescale=jnp.asarray(settings.rescale)
    )
    guided = jnp.where(inside, guided * factor, guided)
    return zero_init(
        guided, process=process, x=x, level=level, step=step, settings=settings
    )


def zero_init(
    prediction: Data,
    *,
    settings: GuidanceArrays,
    process: process_lib.Process,
    x: Data,
    level: Level,
    step: Int[Array, ""],
) -> Data:
    """Zero-init alone: `prediction`, or in the first steps what velocity 0 means.

    For predictions that are not guided; `guide` has done it already. Args are those of
    `guide`.
    """
    standstill = process_lib.convert(
        process,
        jnp.zeros_like(prediction, jnp.float32),
        x_t=x,
        t=level,
        source="velocity",
        destination=process.prediction,
    )
    early = jnp.asarray(step).astype(jnp.float32) < settings.zero_init
    return jnp.where(early, standstill, prediction)


def _rescale_factor(conditional: Any, guided: Any, *, rescale: Any) -> Any:
    """Equation (2), from the two deviations."""
    ratio = jnp.where(guided > 0, conditional / jnp.where(guided > 0, guided, 1.0), 1.0)
    return rescale * ratio + (1.0 - rescale)
