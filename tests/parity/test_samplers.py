"""Our samplers against diffusers', on a flow whose velocity is known in closed form.

Both are fed the same levels. Where conventions differ:

    first level   diffusers' UniPC moves a sigma of 1 to 1 - 1e-6, and its second step
                  then is of second order where ours is of first, the limit. Its levels
                  start below 1; those of the others start at 1 too.
    last level    0, which diffusers appends (`final_sigmas_type='zero'`); its last step
                  then is of first order, as ours is.
    DPM++ levels  cannot be handed over, and are put in the place of its own.
    timesteps     are sigma levels 1,000, rounded by the multistep schedulers, and only
                  name the step. The velocity is taken at sigma itself.
"""

import diffusers
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from soraflax.diffusion import process as process_lib
from soraflax.diffusion import samplers
from tests.diffusion import sampling

MEANS, SPREADS = np.asarray([[-1.0, 0.8], [0.5, 0.4]], np.float32)
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


def flow_velocity(xp, x, t):
    """Of an even mixture of two normal distributions; `xp` is jax.numpy or numpy."""
    variance = (1 - t) ** 2 * SPREADS**2 + t**2
    away = x[..., None] - (1 - t) * MEANS
    share = xp.exp(-(away**2) / variance / 2) / xp.sqrt(variance)
    share = share / share.sum(-1, keepdims=True)
    slope = (t - (1 - t) * SPREADS**2) * away / variance - MEANS
    return (share * slope).sum(-1)


def theirs(scheduler, x):
    """The data at the last level of a diffusers scheduler whose levels are set."""
    x = torch.from_numpy(x)
    for sigma, timestep in zip(scheduler.sigmas, scheduler.timesteps, strict=False):
        velocity = flow_velocity(np, x.numpy(), np.float32(sigma))
        x = scheduler.step(torch.from_numpy(velocity), timestep, x).prev_sample
    return x.numpy()


def ours(rule, sigmas, x):
    return sampling.sample(
        samplers.SAMPLERS[rule],
        lambda x, t: flow_velocity(jnp, x, t),
        x=jnp.asarray(x),
        levels=jnp.asarray(sigmas),
        process=process_lib.RectifiedFlow(),
    ).x


def scheduler_of(rule, sigmas):
    """The scheduler of diffusers that our sampler `rule` should equal."""
    if rule == "euler":
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(sigmas=sigmas[:-1])
    elif rule == "unipc":
        scheduler = diffusers.UniPCMultistepScheduler(**FLOW, solver_order=2)
        scheduler.set_timesteps(sigmas=sigmas[:-1].copy())
    else:
        scheduler = diffusers.DPMSolverMultistepScheduler(**FLOW)
        scheduler.set_timesteps(len(sigmas) - 1)
        scheduler.sigmas = torch.from_numpy(sigmas)
    return scheduler


# diffusers hands torch tensors to np.array, which numpy 2 frowns at.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("steps", (1, 2, 3, 10, 30))
@pytest.mark.parametrize(
    ("rule", "start"),
    [("euler", 0.98), ("euler", 1), ("dpm++", 0.98), ("dpm++", 1), ("unipc", 0.98)],
)
def test_same_steps_as_diffusers(rule, start, steps):
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    sigmas = np.linspace(start, 0, steps + 1, dtype=np.float32)
    scheduler = scheduler_of(rule, sigmas)
    np.testing.assert_allclose(scheduler.sigmas.numpy(), sigmas, atol=1e-7)
    a, b = np.asarray(ours(rule, sigmas, x)), theirs(scheduler, x)
    assert np.abs(a - b).max() <= 1e-4 * np.abs(b).max()
    if steps > 2:
        other = np.asarray(ours("heun", sigmas, x))
        assert np.abs(other - b).max() > 1e-3 * np.abs(b).max()
