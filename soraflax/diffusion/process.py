"""Diffusion processes: how data and noise mix, and what a model may predict.

A process mixes clean data x0 with standard normal noise at a level t in [0, 1],

    x_t = alpha(t) x0 + sigma(t) noise,                                         (1)

t = 0 being clean and t = 1 (almost) pure noise. Two are here:

    rectified flow       alpha = 1 - t,           sigma = t                     (2)
    variance preserving  alpha = cos(pi t / 2),   sigma = sin(pi t / 2)         (3)

(2) is arXiv:2209.03003 and arXiv:2210.02747; (3) is the cosine process of
arXiv:2102.09672 in the continuous form of arXiv:2202.00512. Their velocity is

    v = a(t) x0 + b(t) noise                                                    (4)
    rectified flow       a = -1,                  b = 1
    variance preserving  a = -sin(pi t / 2),      b = cos(pi t / 2)

which is the time derivative of (1) up to a constant, dx_t/dt = rate v, with rate 1 for
(2) and pi/2 for (3). Both have alpha b - sigma a = 1, so (1) and (4) invert to

    x0    = b x_t - sigma v                                                     (5)
    noise = alpha v - a x_t                                                     (6)

without a division. The other two predictions divide,

    noise = (x_t - alpha x0) / sigma        from an x0 prediction               (7)
    x0    = (x_t - sigma noise) / alpha     from an epsilon prediction          (8)

and say nothing at t = 0 and t = 1 respectively; the divisor is held at `MIN_DIVISOR`.
Everything is computed in float32. Levels broadcast against the data: `[B, N, 1]`
against tokens `[B, N, P]`.
"""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

Data = Float[Array, "*shape"]
Level = Float[Array, "*#shape"]

PREDICTIONS = ("velocity", "epsilon", "x0")
MIN_DIVISOR = 1e-4


@runtime_checkable
class Process(Protocol):
    """What samplers and losses need to know of a process; numbers as in (1)-(6)."""

    @property
    def prediction(self) -> str:
        """What the model outputs, one of `PREDICTIONS`."""
        ...

    @property
    def rate(self) -> float:
        """dx_t/dt over the velocity (4)."""
        ...

    def alpha(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]: ...

    def sigma(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]: ...

    def velocity_of_data(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """a(t) of equation (4)."""
        ...

    def velocity_of_noise(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """b(t) of equation (4)."""
        ...


@dataclasses.dataclass(frozen=True)
class RectifiedFlow:
    """Straight lines from data to noise, equation (2).

    Attributes:
      prediction: what the model outputs, one of `PREDICTIONS`.
    """

    prediction: str = "velocity"
    rate = 1.0

    def __post_init__(self) -> None:
        _check(self.prediction)

    def alpha(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        return 1.0 - t

    def sigma(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        return t

    def velocity_of_data(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        return -jnp.ones_like(t)

    def velocity_of_noise(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        return jnp.ones_like(t)


@dataclasses.dataclass(frozen=True)
class VariancePreserving:
    """A quarter circle from data to noise, equation (3).

    Attributes:
      prediction: what the model outputs, one of `PREDICTIONS`.
    """

    prediction: str = "velocity"
    rate = math.pi / 2

    def __post_init__(self) -> None:
        _check(self.prediction)

    def alpha(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        # The sine form is exactly zero at t = 1, and sigma exactly zero at t = 0.
        return jnp.sin((1.0 - t) * (jnp.pi / 2))

    def sigma(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        return jnp.sin(t * (jnp.pi / 2))

    def velocity_of_data(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        return -self.sigma(t)

    def velocity_of_noise(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        return self.alpha(t)


def make(name: str, prediction: str = "velocity") -> Process:
    """The process of this name.

    Raises:
      ValueError: an unknown process or prediction.
    """
    if name not in PROCESSES:
        raise ValueError(f"unknown process {name!r}; known: {', '.join(PROCESSES)}")
    return PROCESSES[name](prediction)


def start_level(process: Process) -> float:
    """The level sampling starts from; below 1 where (8) would divide by nothing."""
    return 0.99 if process.prediction == "epsilon" else 1.0


def add_noise(process: Process, x0: Data, *, noise: Data, t: Level) -> Data:
    """x_t, equation (1); exactly x0 where t is 0."""
    x0, noise = x0.astype(jnp.float32), noise.astype(jnp.float32)
    return process.alpha(t) * x0 + process.sigma(t) * noise


def target(process: Process, x0: Data, *, noise: Data, t: Level) -> Data:
    """What the model should predict for x_t, in the process's parameterisation."""
    x0, noise = x0.astype(jnp.float32), noise.astype(jnp.float32)
    if process.prediction == "x0":
        return x0
    if process.prediction == "epsilon":
        return noise
    return process.velocity_of_data(t) * x0 + process.velocity_of_noise(t) * noise


def split(process: Process, output: Data, *, x_t: Data, t: Level) -> tuple[Data, Data]:
    """`(x0, noise)` that a model's output at x_t means, equations (5)-(8)."""
    return _split(process, process.prediction, output=output, x_t=x_t, t=t)


def to_x0(process: Process, output: Data, *, x_t: Data, t: Level) -> Data:
    """The clean data that a model's output means."""
    return split(process, output, x_t=x_t, t=t)[0]


def to_noise(process: Process, output: Data, *, x_t: Data, t: Level) -> Data:
    """The noise that a model's output means."""
    return split(process, output, x_t=x_t, t=t)[1]


def to_velocity(process: Process, output: Data, *, x_t: Data, t: Level) -> Data:
    """The velocity (4) that a model's output means."""
    return convert(process, output, x_t=x_t, t=t, source=process.prediction)


def convert(
    process: Process,
    output: Data,
    *,
    x_t: Data,
    t: Level,
    source: str,
    destination: str = "velocity",
) -> Data:
    """One prediction of x_t expressed as another."""
    _check(destination)
    output = output.astype(jnp.float32)
    if source == destination:
        return output
    x0, noise = _split(process, source, output=output, x_t=x_t, t=t)
    if destination == "x0":
        return x0
    if destination == "epsilon":
        return noise
    return process.velocity_of_data(t) * x0 + process.velocity_of_noise(t) * noise


def _split(
    process: Process, source: str, *, output: Data, x_t: Data, t: Level
) -> tuple[Data, Data]:
    _check(source)
    output, x_t = output.astype(jnp.float32), x_t.astype(jnp.float32)
    alpha, sigma = process.alpha(t), process.sigma(t)
    if source == "x0":
        return output, (x_t - alpha * output) / jnp.maximum(sigma, MIN_DIVISOR)
    if source == "epsilon":
        return (x_t - sigma * output) / jnp.maximum(alpha, MIN_DIVISOR), output
    x0 = process.velocity_of_noise(t) * x_t - sigma * output
    return x0, alpha * output - process.velocity_of_data(t) * x_t


def _check(prediction: str) -> None:
    if prediction not in PREDICTIONS:
        names = ", ".join(PREDICTIONS)
        raise ValueError(f"unknown prediction {prediction!r}; known: {names}")


PROCESSES = {
    "rectified_flow": RectifiedFlow,
    "variance_preserving": VariancePreserving,
}
