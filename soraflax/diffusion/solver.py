"""One step of a sampler: state in, state out.

A sampler goes from level t to level s <= t. `SolverState` is the data on its way, and
what a step leaves to the next ones; its tree, shapes and types are the same whatever
the sampler and whatever the step. One compiled step can therefore be called from a host
loop, and a trajectory may be broken off and taken up again anywhere:

    state = init(x, levels[0])
    for i in range(steps):
        state, aux = step(sampler, state, process=process, denoise=denoise,
                          levels=(levels[i], levels[i + 1]))

The newest clean estimate, `state.clean[0]`, shows how far the trajectory has come: for
every sampler it is what the model took the clean data to be at the start of the last
step.

Levels differ from token to token. An entry of `levels` is whatever `expand` turns into
something that broadcasts against the data: a table with one level per segment becomes
one level per token. Where t = s nothing moves, bit for bit, and where t = 0 the data is
its own clean estimate, whatever the model says.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from soraflax.diffusion import process as process_lib

Data = Float[Array, "*shape"]
Level = Float[Array, "*#shape"]
# (data, entry of the levels) -> (prediction in the process's parameterisation,
# auxiliary output: any tree of arrays, or None).
Denoise = Callable[[Any, Any], tuple[Any, Any]]
Expand = Callable[[Any], Any]
# (steps taken since `init`) -> standard normal noise of the data's shape.
Noise = Callable[[Any], Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SolverState:
    """Data on its way from noise to clean, and the memory of its trajectory.

    Attributes:
      x: the data at the level that was reached last; float32.
      clean: the last two estimates of the clean data, newest first; float32 and shaped
        like the data; zeros where there is none yet.
      levels: the entries of `levels` that they were made at.
      previous: the data that the last step started from, at `levels[0]`; corrected,
        where the sampler corrects.
      count: steps taken so far, int32.
    """

    x: Any
    clean: tuple[Any, Any]
    levels: tuple[Any, Any]
    previous: Any
    count: Any

    def replace(self, **changes: Any) -> "SolverState":
        return dataclasses.replace(self, **changes)


@runtime_checkable
class Sampler(Protocol):
    """The update rule of a step."""

    @property
    def stochastic(self) -> bool:
        """Whether a step draws fresh noise."""
        ...

    @property
    def evaluations(self) -> int:
        """Calls of the model in a step."""
        ...

    def update(
        self,
        state: SolverState,
        *,
        process: process_lib.Process,
        denoise: Denoise,
        levels: tuple[Any, Any],
        expand: Expand,
        noise: Noise,
    ) -> tuple[SolverState, Any]:
        """The state at `levels[1]`, and the auxiliary output of the last evaluation.

        Args are those of `step`, which everyone but `step` calls.
        """
        ...


def init(x: Data, level: Any) -> SolverState:
    """The state before the first step.

    Args:
      x: data at the first level; clean where it is given.
      level: the first entry of the levels.
    """

    def zeros() -> Any:
        return jnp.zeros(x.shape, jnp.float32)

    def entry() -> Any:
        return jax.tree.map(jnp.array, level)

    # Buffers of their own, so that a caller may donate the whole state.
    return SolverState(
        x=jnp.array(x, jnp.float32),
        clean=(zeros(), zeros()),
        levels=(entry(), entry()),
        previous=zeros(),
        count=jnp.zeros((), jnp.int32),
    )


def step(
    sampler: Sampler,
    state: SolverState,
    *,
    process: process_lib.Process,
    denoise: Denoise,
    levels: tuple[Any, Any],
    expand: Expand = lambda level: level,
    noise: Noise | None = None,
    cond_mask: Bool[Array, "*#shape"] | None = None,
) -> tuple[SolverState, Any]:
    """One step of `sampler`, from the first of two levels to the second.

    Args:
      sampler: the update rule.
      state: from `init`, or the step before.
      process: the diffusion process that the model was trained on.
      denoise: `(x, entry of levels) -> (prediction, auxiliary output)`.
      levels: entries t and s <= t.
      expand: makes an entry broadcast against the data.
      noise: fresh noise of step `state.count`; needed by stochastic samplers.
      cond_mask: where the data is given, at level 0; it comes back unchanged.

    Returns:
      The state at s, and the auxiliary output of the step's last evaluation.

    Raises:
      ValueError: a stochastic sampler without `noise`.
    """
    if sampler.stochastic and noise is None:
        raise ValueError(f"{sampler} draws fresh noise: pass noise=")
    after, aux = sampler.update(
        state,
        process=process,
        denoise=denoise,
        levels=levels,
        expand=expand,
        noise=noise or _no_noise,
    )
    if cond_mask is not None:
        after = after.replace(x=jnp.where(cond_mask, state.x, after.x))
    return after, aux


def finish(
    state: SolverState,
    moved: Data,
    *,
    x: Data,
    clean: Data,
    levels: tuple[Any, Any],
    expand: Expand,
) -> SolverState:
    """The end of every `Sampler.update`: hold what must not move, remember the rest.

    Args:
      state: before the step.
      moved: the data at s.
      x: the data at t that it was moved from; `state.x`, or corrected.
      clean: the estimate of the clean data made at t.
      levels: entries t and s.
      expand: as in `step`.
    """
    t, s = (expand(level) for level in levels)
    return SolverState(
        x=jnp.where(s < t, moved, x),
        clean=(jnp.where(t > 0, clean, x), state.clean[0]),
        levels=(levels[0], state.levels[0]),
        previous=x,
        count=state.count + 1,
    )


def _no_noise(count: Any) -> Any:
    raise ValueError(f"step {count} draws noise of a sampler that is not stochastic")
