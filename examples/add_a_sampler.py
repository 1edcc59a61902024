"""A sampler of your own: the midpoint rule, and a measurement of its order.

python examples/add_a_sampler.py
"""

# --8<-- [start:sampler]
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from soraflax.diffusion import process as process_lib
from soraflax.diffusion import samplers, solver


@dataclasses.dataclass(frozen=True)
class Midpoint:
    """x_s = x_t + (s - t) rate v(x_m, m), with x_m an Euler step to m = (t + s) / 2.

    Second order, two evaluations a step.
    """

    stochastic = False
    evaluations = 2

    def update(
        self,
        state: solver.SolverState,
        *,
        process: process_lib.Process,
        denoise: solver.Denoise,
        levels: tuple[Any, Any],
        expand: solver.Expand,
        noise: solver.Noise,
    ) -> tuple[solver.SolverState, Any]:
        del noise  # the rule is deterministic
        middle = jax.tree.map(lambda t, s: (t + s) / 2, *levels)
        x, t, m, s = state.x, *map(expand, (levels[0], middle, levels[1]))
        output, _ = denoise(x, levels[0])
        velocity = process_lib.to_velocity(process, output, x_t=x, t=t)
        clean = process_lib.to_x0(process, output, x_t=x, t=t)
        half = x + (m - t) * process.rate * velocity
        output, aux = denoise(half, middle)
        velocity = process_lib.to_velocity(process, output, x_t=half, t=m)
        moved = x + (s - t) * process.rate * velocity
        after = solver.finish(
            state, moved, x=x, clean=clean, levels=levels, expand=expand
        )
        return after, aux


# --8<-- [end:sampler]
# --8<-- [start:order]
def error(sampler: solver.Sampler, steps: int) -> float:
    """Distance from the exact end, for Gaussian data of standard deviation 1/2."""
    process, deviation = process_lib.make("variance_preserving"), 0.5

    def spread(t: jax.Array) -> jax.Array:
        """Standard deviation of x_t."""
        return jnp.sqrt((process.alpha(t) * deviation) ** 2 + process.sigma(t) ** 2)

    def denoise(x: jax.Array, t: jax.Array) -> tuple[jax.Array, None]:
        """The exact velocity; a model would stand here."""
        mean = process.alpha(t) * deviation**2 * x / spread(t) ** 2
        noise = process.sigma(t) * x / spread(t) ** 2
        a, b = process.velocity_of_data(t), process.velocity_of_noise(t)
        return a * mean + b * noise, None

    levels = jnp.linspace(1.0, 0.1, steps + 1)
    x = jnp.array([1.0, -0.3, 2.0])
    state = samplers.sample(
        sampler,
        solver.init(x, levels[0]),
        process=process,
        denoise=denoise,
        levels=levels,
    )
    exact = x * spread(levels[-1]) / spread(levels[0])
    return float(jnp.linalg.norm(state.x - exact))


for sampler in (samplers.Euler(), Midpoint()):
    errors = [error(sampler, steps) for steps in (64, 128)]
    order = float(jnp.log2(errors[0] / errors[1]))
    print(f"{sampler}: error {errors[1]:.1e} at 128 steps, order {order:.2f}")
# --8<-- [end:order]
