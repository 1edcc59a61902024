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
"""

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


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
