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

    name     class      order  evaluations a step
    euler    Euler      1      1
    heun     Heun       2      2
    ddim     DDIM       1      1
    dpm++    DPMSolver  2      1
    unipc    UniPC      2-3    1

Levels are whatever `times` holds one entry of per step. `expand` turns an entry into
something that broadcasts against the data: a table with one level per segment becomes
one level per token. Known tokens have level 0 and are put back, bit for bit, after each
step; other data at level 0 stays as it is too.

`sample` walks all the way. `walk` is the same with the memory handed in and out:

    past = begin(x, times[0])
    for i in range(steps):
        x, past = walk(sampler, denoise, x, times[i : i + 2], process=process,
                       past=past, first_step=i)
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from soraflax.diffusion import multistep, solver
from soraflax.diffusion import process as process_lib

Data = solver.Data
Denoise = solver.Denoise
Expand = solver.Expand
Past = solver.Past
Sampler = solver.Sampler
Step = solver.Step
begin = solver.begin
DPMSolver = multistep.DPMSolver
UniPC = multistep.UniPC


@dataclasses.dataclass(frozen=True)
class Euler:
    """Equation (2); first order, one evaluation a step."""

    @property
    def stochastic(self) -> bool:
        return False

    @property
    def evaluations(self) -> int:
        return 1

    def step(
        self,
        process: process_lib.Process,
        denoise: Denoise,
        x: Data,
        step: Step,
        past: Past,
    ) -> tuple[Data, Past]:
        t, s = step.expand(step.t), step.expand(step.s)
        output = denoise(x, step.t)
        velocity = process_lib.to_velocity(process, output, x_t=x, t=t)
        clean = process_lib.to_x0(process, output, x_t=x, t=t)
        moved = x + (s - t) * process.rate * velocity
        return solver.conclude(moved, x=x, clean=clean, step=step, past=past)


@dataclasses.dataclass(frozen=True)
class Heun:
    """Equation (3); second order, two evaluations a step."""

    @property
    def stochastic(self) -> bool:
        return False

    @property
    def evaluations(self) -> int:
        return 2

    def step(
        self,
        process: process_lib.Process,
        denoise: Denoise,
        x: Data,
        step: Step,
        past: Past,
    ) -> tuple[Data, Past]:
        t, s = step.expand(step.t), step.expand(step.s)
        output = denoise(x, step.t)
        first = process_lib.to_velocity(process, output, x_t=x, t=t)
        clean = process_lib.to_x0(process, output, x_t=x, t=t)
        ahead = x + (s - t) * process.rate * first
        second = process_lib.to_velocity(
            process, denoise(ahead, step.s), x_t=ahead, t=s
        )
        mean = (first + second) / 2
        moved = jnp.where(s > 0, x + (s - t) * process.rate * mean, ahead)
        return solver.conclude(moved, x=x, clean=clean, step=step, past=past)


@dataclasses.dataclass(frozen=True)
class DDIM:
    """Equation (4); first order, one evaluation a step.

    Attributes:
      eta: 0 draws no fresh noise, 1 as much as the ancestral sampler.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta {self.eta}: use a value in [0, 1]")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    @property
    def evaluations(self) -> int:
        return 1

    def step(
        self,
        process: process_lib.Process,
        denoise: Denoise,
        x: Data,
        step: Step,
        past: Past,
    ) -> tuple[Data, Past]:
        t, s = step.expand(step.t), step.expand(step.s)
        clean, noise = process_lib.split(process, denoise(x, step.t), x_t=x, t=t)
        alpha, sigma = process.alpha(s), process.sigma(s)
        if not self.stochastic:
            moved = alpha * clean + sigma * noise
            return solver.conclude(moved, x=x, clean=clean, step=step, past=past)
        divisor = process.alpha(s) * process.sigma(t)
        kept = process.alpha(t) * sigma / jnp.maximum(divisor, process_lib.SMALLEST)
        fresh = self.eta * sigma * jnp.sqrt(jnp.clip(1.0 - kept**2, 0.0))
        rest = jnp.sqrt(jnp.clip(sigma**2 - fresh**2, 0.0))
        moved = alpha * clean + rest * noise + fresh * step.noise()
        return solver.conclude(moved, x=x, clean=clean, step=step, past=past)


SAMPLERS: dict[str, Sampler] = {
    "euler": Euler(),
    "heun": Heun(),
    "ddim": DDIM(),
    "dpm++": DPMSolver(),
    "unipc": UniPC(),
}


def sample(
    sampler: Sampler,
    denoise: Denoise,
    *,
    x: Data,
    times: Any,
    process: process_lib.Process,
    known: Bool[Array, "*#shape"] | None = None,
    expand: Expand = lambda level: level,
    noise: Callable[[Int[Array, ""]], Any] | None = None,
    first_step: int | Int[Array, ""] = 0,
) -> Data:
    """Walk `x` down the levels `times`, in one `lax.scan`, without a memory before it.

    Args and errors as in `walk`.

    Returns:
      The data at the level of `times[-1]`.
    """
    return walk(
        sampler,
        denoise,
        x=x,
        times=times,
        process=process,
        known=known,
        expand=expand,
        noise=noise,
        first_step=first_step,
    )[0]


def walk(
    sampler: Sampler,
    denoise: Denoise,
    *,
    x: Data,
    times: Any,
    process: process_lib.Process,
    past: Past | None = None,
    known: Bool[Array, "*#shape"] | None = None,
    expand: Expand = lambda level: level,
    noise: Callable[[Int[Array, ""]], Any] | None = None,
    first_step: int | Int[Array, ""] = 0,
) -> tuple[Data, Past]:
    """`sample` with a memory: walks of two pieces equal one of both.

    Args:
      sampler: which rule.
      denoise: `(x, entry of times) -> prediction`, in the process's parameterisation.
      x: data at the level of `times[0]`; clean where known.
      times: `[steps + 1, ...]`, falling; or a pytree of such arrays.
      process: what the model was trained on.
      past: the memory of the walk that led here; None where this one begins.
      known: where the data is given, at level 0; it comes back unchanged.
      expand: makes an entry of `times` broadcast against `x`.
      noise: fresh noise of step `i`, shaped like `x`; needed by stochastic samplers.
      first_step: number of the first step, for a walk done in several pieces.

    Returns:
      The data at the level of `times[-1]`, and the memory to go on with.

    Raises:
      ValueError: a stochastic sampler without `noise`.
    """
    if sampler.stochastic and noise is None:
        raise ValueError(f"{sampler} draws fresh noise: pass noise=")
    steps = jax.tree.leaves(times)[0].shape[0] - 1
    given = x = x.astype(jnp.float32)

    def body(carry: Any, inputs: Any) -> tuple[Any, None]:
        index, t, s = inputs
        draw = functools.partial(noise, index) if noise else _no_noise
        step = Step(t=t, s=s, expand=expand, noise=draw)
        x, past = sampler.step(process, denoise, carry[0], step, carry[1])
        return (x if known is None else jnp.where(known, given, x), past), None

    index = first_step + jnp.arange(steps, dtype=jnp.int32)
    here = jax.tree.map(lambda a: a[:-1], times)
    there = jax.tree.map(lambda a: a[1:], times)
    past = begin(x, jax.tree.map(lambda a: a[0], times)) if past is None else past
    return jax.lax.scan(body, (x, past), (index, here, there))[0]


def _no_noise() -> Any:
    raise ValueError("this sampler was called without noise")
