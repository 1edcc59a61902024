"""Noise levels: which are trained on, and which a sampler visits.

Training draws a level per segment. The logit-normal density of arXiv:2403.03206
(equation 19) puts weight on the middle levels:

    t = sigmoid(u),   u ~ Normal(mean, std),                                    (1)

and next to none on levels close to 1, where sampling starts; a share of even draws
mends that.

A large clip keeps more of its structure than a small one under the same noise, for its
tokens are redundant, so its levels are shifted towards noise (arXiv:2403.03206,
equation 23):

    t' = shift t / (1 + (shift - 1) t) = shift t / (shift t + 1 - t),            (2)
    shift = base (n / n0) ** exponent,                                          (3)

with n the segment's own token count; exponent 1/2 is the choice of that paper, exponent
0 the same shift for every size. (2) moves log((1 - t) / t) by -log(shift).

A sampler visits n levels, even before (2), and then 0: those down to 0 without its end,
or, of models that were trained on N levels k / N (`TrainedLevels`), those down to 1 / N
or to (2) of it. Published weights are best asked what their authors ask them.
"""

import dataclasses
from typing import Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

FIRST_OFFSET = 1e-6  # from 1, where the second step of UniPC would be of first order
ROUNDING = 1e-4  # of 1000 levels in float32


@runtime_checkable
class LevelSampler(Protocol):
    """Draws training levels in (0, 1)."""

    def __call__(
        self, key: PRNGKeyArray, shape: tuple[int, ...] = ()
    ) -> Float[Array, "..."]: ...


@dataclasses.dataclass(frozen=True)
class LogitNormal:
    """Equation (1).

    Attributes:
      mean: mean of the logit; above 0 favours noise.
      std: standard deviation of the logit.
      even: fraction of levels that are drawn uniformly from (0, 1) instead.
    """

    mean: float = 0.0
    std: float = 1.0
    even: float = 0.0

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise ValueError(f"std {self.std} must be above 0")
        if not 0 <= self.even <= 1:
            raise ValueError(f"even {self.even}: use a share, 0 to 1")

    def __call__(
        self, key: PRNGKeyArray, shape: tuple[int, ...] = ()
    ) -> Float[Array, "..."]:
        normal = jax.random.normal(key, shape, jnp.float32)
        t = jax.nn.sigmoid(self.mean + self.std * normal)
        if not self.even:
            return t
        chance, level = jax.random.split(jax.random.fold_in(key, 1))
        uniform = jax.random.uniform(level, shape, jnp.float32)
        return jnp.where(jax.random.uniform(chance, shape) < self.even, uniform, t)


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Every level between `low` and `high` alike."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"need 0 <= low < high <= 1, not {self.low}, {self.high}")

    def __call__(
        self, key: PRNGKeyArray, shape: tuple[int, ...] = ()
    ) -> Float[Array, "..."]:
        return jax.random.uniform(
            key, shape, jnp.float32, minval=self.low, maxval=self.high
        )


@dataclasses.dataclass(frozen=True)
class TokenCountShift:
    """Equation (3).

    Attributes:
      base: the shift at `base_tokens`; 1 leaves levels alone there.
      base_tokens: n0.
      exponent: how fast the shift grows with the token count.
    """

    base: float = 1.0
    base_tokens: int = 256
    exponent: float = 0.5

    def __post_init__(self) -> None:
        if self.base <= 0 or self.base_tokens < 1:
            raise ValueError(
                f"base {self.base} and base_tokens {self.base_tokens} must be above 0"
            )

    def __call__(self, tokens: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The shift of segments of this many tokens; an empty one counts as one."""
        return self.base * (jnp.maximum(tokens, 1) / self.base_tokens) ** self.exponent


def shift_level(
    t: Float[Array, "*#shape"], shift: Float[Array, "*#shape"]
) -> Float[Array, "..."]:
    """Equation (2); 0 and 1 stay where they are."""
    return shift * t / (shift * t + (1.0 - t))


def inference_levels(
    steps: int,
    shift: Float[Array, "*shape"],
    *,
    start: float = 1.0,
    strength: Float[Array, "*#shape"] | float = 1.0,
) -> Float[Array, "steps1 *shape"]:
    """Levels a sampler visits, falling to exactly 0, evenly spaced before (2).

    Args:
      steps: number of steps, at least 1.
      shift: shift of each segment (or any shape), from `TokenCountShift`.
      start: the first level at full strength, after the shift.
      strength: the first level before the shift, in [0, 1]: one per segment, or one.

    Returns:
      `[steps + 1, *shape]`.

    Raises:
      ValueError: fewer than one step, or a start outside (0, 1].
    """
    if steps < 1:
        raise ValueError(f"{steps} steps: use 1 or more")
    if not 0 < start <= 1:
        raise ValueError(f"start level {start}: use a value in (0, 1]")
    even = jnp.linspace(1.0, 0.0, steps + 1, dtype=jnp.float32)
    even = even.reshape(-1, *(1 for _ in shift.shape)) * strength
    return start * shift_level(even, shift[None])


@dataclasses.dataclass(frozen=True)
class TrainedLevels:
    """The levels k / count of a model's training, and which of them a sampler visits.

    Attributes:
      count: N, levels of training.
      spacing: 'open' for levels from 1 down to 1 / N, of which the last is left out, as
        Wan's own UniPC takes them (its first is 1 - 1e-6); 'closed' for levels from 1
        down to (2) of 1 / N, both shifted again, as Euler steps are taken in diffusers.
      whole: whether the model is told k / N, rounded down, in the place of a level.
    """

    count: int = 1000
    spacing: Literal["open", "closed"] = "open"
    whole: bool = True

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ValueError(f"{self.count} levels of training: use 2 or more")

    def inference_levels(
        self,
        steps: int,
        shift: Float[np.ndarray, "*shape"],
        *,
        strength: Float[np.ndarray, "*#shape"] | float = 1.0,
    ) -> Float[np.ndarray, "steps1 *shape"]:
        """Levels that a sampler visits, float32; arguments as of `inference_levels`."""
        if steps < 1:
            raise ValueError(f"{steps} steps: use 1 or more")
        shift = np.asarray(shift, np.float64)
        if self.spacing == "open":
            even = np.linspace(1.0, 1.0 / self.count, steps + 1)[:-1]
            even = even.reshape(-1, *(1 for _ in shift.shape))
        else:
            last = shift / self.count
            last = last / (last + 1.0 - 1.0 / self.count)
            even = np.linspace(np.ones_like(last), last, steps)
        even = even * np.asarray(strength, np.float64)
        levels = shift * even / (shift * even + (1.0 - even))
        if self.spacing == "open":
            levels = np.minimum(levels, 1.0 - FIRST_OFFSET)
        end = np.zeros((1, *levels.shape[1:]))
        return np.concatenate([levels, end]).astype(np.float32)

    def told(self, levels: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """What the model is told of these levels."""
        if not self.whole:
            return levels
        # Levels are float32: k / N may be a little less than it was.
        return jnp.floor(levels * self.count + ROUNDING) / self.count
