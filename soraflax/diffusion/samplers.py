"""Samplers: from noise to data, knowing nothing of the model.

With v the velocity that the model's output means (equation (4) of `process`), a sampler
follows the probability-flow equation from level t to level s < t:

    dx/dt = rate v(x, t)                                                        (1)

    Euler   x_s = x_t + (s - t) rate v(x_t, t)                                  (2)
    Heun    x_s = x_t + (s - t) rate (v(x_t, t) + v(x', s)) / 2                 (3)

with x' the result of (2); where s = 0 only (2) is used, as in arXiv:2206.00364,
algorithm 1. DDIM (arXiv:2010.02502, equations 12 and 16) draws fresh noise too:

    x_s = alpha_s x0 + sqrt(sigma_s^2 - d^2) noise + d fresh                    (4)
    d   = eta sigma_s sqrt(1 - (alpha_t sigma_s / (alpha_s sigma_t))^2)         (5)

(5) is the standard deviation of x_s given x_t and x0 in the Markov chain that has the
process's marginals, for any process (1); for a variance-preserving one it is equation
16 of the paper. eta = 0 is deterministic, eta = 1 ancestral.

These forget each step as soon as it is done. Those of `multistep` remember, and reach
second order with one evaluation a step:

    name       class      order  evaluations a step
    euler      Euler      1      1
    heun       Heun       2      2
    ddim       DDIM       1      1
    ancestral  DDIM, eta 1  1    1
    dpm++      DPMSolver  2      1
    unipc      UniPC      2-3    1

`solver.step` makes one step, for a host loop; `sample` makes all of them in one
`lax.scan`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from soraflax.diffusion import multistep, solver
from soraflax.diffusion import process as process_lib

Data = solver.Data
Denoise = solver.Denoise
Sampler = solver.Sampler
SolverState = solver.SolverState
init = solver.init
DPMSolver = multistep.DPMSolver
UniPC = multistep.UniPC


@dataclasses.dataclass(frozen=True)
class Euler:
    """Equation (2); first order, one evaluation a step."""

    stochastic = False
    evaluations = 1

    def update(
        self,
        state: SolverState,
        *,
        process: process_lib.Process,
        denoise: Denoise,
        levels: tuple[Any, Any],
        expand: solver.Expand,
        noise: solver.Noise,
    ) -> tuple[SolverState, Any]:
        del noise
        x, (t, s) = state.x, map(expand, levels)
        output, aux = denoise(x, levels[0])
        velocity = process_lib.to_velocity(process, output, x_t=x, t=t)
        clean = process_lib.to_x0(process, output, x_t=x, t=t)
        moved = x + (s - t) * process.rate * velocity
        after = solver.finish(
            state, moved, x=x, clean=clean, levels=levels, expand=expand
        )
        return after, aux


@dataclasses.dataclass(frozen=True)
class Heun:
    """Equation (3); second order, two evaluations a step."""

    stochastic = False
    evaluations = 2

    def update(
        self,
        state: SolverState,
        *,
        process: process_lib.Process,
        denoise: Denoise,
        levels: tuple[Any, Any],
        expand: solver.Expand,
        noise: solver.Noise,
    ) -> tuple[SolverState, Any]:
        del noise
        x, (t, s) = state.x, map(expand, levels)
        output, _ = denoise(x, levels[0])
        first = process_lib.to_velocity(process, output, x_t=x, t=t)
        clean = process_lib.to_x0(process, output, x_t=x, t=t)
        ahead = x + (s - t) * process.rate * first
        output, aux = denoise(ahead, levels[1])
        second = process_lib.to_velocity(process, output, x_t=ahead, t=s)
        mean = (first + second) / 2
        moved = jnp.where(s > 0, x + (s - t) * process.rate * mean, ahead)
        after = solver.finish(
            state, moved, x=x, clean=clean, levels=levels, expand=expand
        )
        return after, aux


@dataclasses.dataclass(frozen=True)
class DDIM:
    """Equation (4); first order, one evaluation a step.

    Attributes:
      eta: 0 draws no fresh noise, 1 as much as the ancestral sampler.
    """

    eta: float = 0.0
    evaluations = 1

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta {self.eta}: use a value in [0, 1]")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def update(
        self,
        state: SolverState,
        *,
        process: process_lib.Process,
        denoise: Denoise,
        levels: tuple[Any, Any],
        expand: solver.Expand,
        noise: solver.Noise,
    ) -> tuple[SolverState, Any]:
        x, (t, s) = state.x, map(expand, levels)
        output, aux = denoise(x, levels[0])
        clean, direction = process_lib.split(process, output, x_t=x, t=t)
        alpha, sigma = process.alpha(s), process.sigma(s)
        if self.stochastic:
            divisor = process.alpha(s) * process.sigma(t)
            ratio = (
                process.alpha(t) * sigma / jnp.maximum(divisor, process_lib.MIN_DIVISOR)
            )
            fresh = self.eta * sigma * jnp.sqrt(jnp.clip(1.0 - ratio**2, 0.0))
            rest = jnp.sqrt(jnp.clip(sigma**2 - fresh**2, 0.0))
            moved = alpha * clean + rest * direction + fresh * noise(state.count)
        else:
            moved = alpha * clean + sigma * direction
        after = solver.finish(
            state, moved, x=x, clean=clean, levels=levels, expand=expand
        )
        return after, aux


SAMPLERS: dict[str, Sampler] = {
    "euler": Euler(),
    "heun": Heun(),
    "ddim": DDIM(),
    "ancestral": DDIM(eta=1.0),
    "dpm++": DPMSolver(),
    "unipc": UniPC(),
}


def sample(
    sampler: Sampler,
    state: SolverState,
    *,
    process: process_lib.Process,
    denoise: Denoise,
    levels: Any,
    expand: solver.Expand = lambda level: level,
    noise: solver.Noise | None = None,
    cond_mask: Bool[Array, "*#shape"] | None = None,
) -> SolverState:
    """All steps down `levels`: `solver.step` under one `lax.scan`.

    Two calls, the second with the state that the first returned, equal one.

    Args:
      sampler, process, denoise, expand, noise, cond_mask: as in `solver.step`.
      state: `init(x, levels[0])`, or where an earlier call ended.
      levels: `[steps + 1, ...]`, falling; or a pytree of such arrays.

    Returns:
      The state at `levels[-1]`; its `x` is the data. Auxiliary outputs are dropped.

    Raises:
      ValueError: a stochastic sampler without `noise`.
    """

    def body(state: SolverState, pair: Any) -> tuple[SolverState, None]:
        state, _ = solver.step(
            sampler,
            state,
            process=process,
            denoise=denoise,
            levels=pair,
            expand=expand,
            noise=noise,
            cond_mask=cond_mask,
        )
        return state, None

    starts = jax.tree.map(lambda a: a[:-1], levels)
    ends = jax.tree.map(lambda a: a[1:], levels)
    return jax.lax.scan(body, state, (starts, ends))[0]
