"""What a sampler is: one step down the noise levels, with a memory.

A sampler's step goes from level t to level s <= t. It is handed what earlier steps left
behind and hands on what later ones may use, so one compiled step can be called from a
host loop, and a walk may be broken off and taken up again anywhere.

The memory `Past` has the same tree, shapes and types whatever the sampler and whatever
the step. Its newest clean estimate, `past.clean[0]`, shows how far the walk has come:
for every sampler it is what the model took the clean data to be at the start of the
last step.

Levels differ from token to token. Where t = s nothing moves, bit for bit, and where
t = 0 the data is its own clean estimate, whatever the model says.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from soraflax.diffusion import process as process_lib

Data = Float[Array, "*shape"]
Level = Float[Array, "*#shape"]
Denoise = Callable[[Any, Any], Any]
Expand = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of a sampler: what it goes from, and to.

    Attributes:
      t: the entry of `times` it starts from.
      s: the entry it goes to.
      expand: makes either broadcast against the data.
      noise: draws fresh standard normal noise of the data's shape; at most once a step.
    """

    t: Any
    s: Any
    expand: Expand
    noise: Callable[[], Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Past:
    """What the steps so far leave to the next one.

    Attributes:
      clean: the last two estimates of the clean data, newest first; float32 and shaped
        like the data; zeros where there is none yet.
      levels: the entries of `times` that they were made at.
      before: the data that the last step started from, at `levels[0]`; corrected, where
        the sampler corrects.
      count: steps taken so far, int32.
    """

    clean: tuple[Any, Any]
    levels: tuple[Any, Any]
    before: Any
    count: Any


@runtime_checkable
class Sampler(Protocol):
    """Moves data from one level to a lower one."""

    @property
    def stochastic(self) -> bool:
        """Whether it draws fresh noise."""
        ...

    @property
    def evaluations(self) -> int:
        """Calls of the model in a step."""
        ...

    def step(
        self,
        process: process_lib.Process,
        denoise: Denoise,
        x: Data,
        step: Step,
        past: Past,
    ) -> tuple[Data, Past]: ...


def begin(x: Data, level: Any) -> Past:
    """The memory before the first step.

    Args:
      x: data, for its shape.
      level: the first entry of `times`, for its shapes and types.
    """

    def nothing() -> Any:
        return jnp.zeros(x.shape, jnp.float32)

    def entry() -> Any:
        return jax.tree.map(jnp.array, level)

    # Buffers of their own, so that a caller may donate the whole memory.
    return Past(
        clean=(nothing(), nothing()),
        levels=(entry(), entry()),
        before=nothing(),
        count=jnp.zeros((), jnp.int32),
    )


def conclude(
    moved: Data, *, x: Data, clean: Data, step: Step, past: Past
) -> tuple[Data, Past]:
    """The end of every step: hold what must not move, and remember the rest.

    Args:
      moved: the data at `step.s`.
      x: the data at `step.t` that it was moved from; as it came where t = s.
      clean: the estimate of the clean data made at `step.t`.
      step: the step.
      past: the memory before it.
    """
    t, s = step.expand(step.t), step.expand(step.s)
    after = Past(
        clean=(jnp.where(t > 0, clean, x), past.clean[0]),
        levels=(step.t, past.levels[0]),
        before=x,
        count=past.count + 1,
    )
    return jnp.where(s < t, moved, x), after
