"""Samplers that remember: second order from one evaluation a step.

With lambda = log(alpha / sigma), half the log signal-to-noise ratio, the probability
flow of any process has an exact solution from level t to level s < t
(arXiv:2211.01095, proposition 4.1, the integral taken over lambda):

    x_s = (sigma_s / sigma_t) x_t + sigma_s int exp(lambda) x0(lambda) dlambda  (1)

With h = lambda_s - lambda_t, and x0 standing still at D from t to s, this is

    x_s = (sigma_s / sigma_t) x_t + g D                                         (2)
    g   = alpha_s (1 - exp(-h)) = alpha_s - alpha_t sigma_s / sigma_t           (3)

which with D = x0(x_t, t) is DDIM with eta = 0. The second form of g has no logarithm in
it and holds at the ends too, where h is infinite. Let m0, m1, ... be the estimates of
x0 at t and at the levels u > t, ... visited before, and k = lambda_t - lambda_u.

DPM-Solver++(2M) (arXiv:2211.01095, algorithm 2), second order:

    D = m0 + h / (2 k) (m0 - m1)                                                (4)

UniPC (arXiv:2302.04867, data prediction, with its B2(h)). Its predictor of order two is
(2) with (4) again. Once the model has been called on the prediction, the step that led
there, from t to s with estimate m at s, is done over with

    D = m0 + r1 (h / k) (m0 - m1) + r2 (m - m0)                                 (5)
    r1 = (b1 - b2) / (1 + k / h),   r2 = b1 - r1                                (6)
    b1 = 1 / (1 - exp(-h)) - 1 / h                                              (7)
    b2 = 1 / (1 - exp(-h)) - 2 b1 / h                                           (8)

so the correction costs no further call. With m0 alone, r1 = 0 and r2 = 1/2.

A step falls back on first order, in (4) and in the correction alike, where the second
has no meaning: on the first step; on a step that ends at sigma = 0, for there h is
infinite; where u has alpha = 0, for there k is infinite; and where u = t. This is
decided token by token.

Where every h shrinks with the number n of steps, the error of (4) falls as n^-2 and
that of UniPC as n^-3. On even levels down to t = 0 the last few h never shrink, for
lambda has no end there: UniPC's error falls as n^-2, that of (4) as n^-2 log n.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from soraflax.diffusion import process as process_lib
from soraflax.diffusion import solver

# Below this h, (7) and (8) are summed as series: the differences lose their digits.
SMALL_STRIDE = 0.5
# In place of an alpha or sigma of 0, whose logarithm is then not used.
TINY = 1e-30


@dataclasses.dataclass(frozen=True)
class DPMSolver:
    """DPM-Solver++(2M), equations (2) and (4); second order, one evaluation a step."""

    stochastic = False
    evaluations = 1

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
        del noise
        x = state.x
        output, aux = denoise(x, levels[0])
        clean = process_lib.to_x0(process, output, x_t=x, t=expand(levels[0]))
        moved = _predict(
            state, x, clean=clean, process=process, levels=levels, expand=expand
        )
        after = solver.finish(
            state, moved, x=x, clean=clean, levels=levels, expand=expand
        )
        return after, aux


@dataclasses.dataclass(frozen=True)
class UniPC:
    """UniPC-2 with its corrector, equations (2) and (4)-(8); one evaluation a step.

    Second order or better. A step begins with the correction of the one before it, so
    the data that it starts from is not quite what the step before returned; the very
    last step stays uncorrected.
    """

    stochastic = False
    evaluations = 1

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
        del noise
        x = state.x
        output, aux = denoise(x, levels[0])
        clean = process_lib.to_x0(process, output, x_t=x, t=expand(levels[0]))
        x = _correct(state, clean, process=process, levels=levels, expand=expand)
        moved = _predict(
            state, x, clean=clean, process=process, levels=levels, expand=expand
        )
        after = solver.finish(
            state, moved, x=x, clean=clean, levels=levels, expand=expand
        )
        return after, aux


def _predict(
    state: solver.SolverState,
    x: solver.Data,
    *,
    clean: solver.Data,
    process: process_lib.Process,
    levels: tuple[Any, Any],
    expand: solver.Expand,
) -> solver.Data:
    """Equations (2) and (4): the data at s, from `x` at t."""
    t, s = (expand(level) for level in levels)
    ratio = _stride_ratio(process, expand(state.levels[0]), t=t, s=s)
    ratio = jnp.where(state.count > 0, ratio, 0.0)
    direction = clean + ratio / 2 * (clean - state.clean[0])
    return _transfer(process, x, clean=direction, t=t, s=s)


def _correct(
    state: solver.SolverState,
    clean: solver.Data,
    *,
    process: process_lib.Process,
    levels: tuple[Any, Any],
    expand: solver.Expand,
) -> solver.Data:
    """Equations (2) and (5): the data at t, its last step done over.

    The last step went from level `start` to t; the one before it began at `older`.
    Unchanged where there was no such step, and where this one goes nowhere.
    """
    t, s = (expand(level) for level in levels)
    start, older = (expand(level) for level in state.levels)
    ratio = _stride_ratio(process, older, t=start, s=t)
    ratio = jnp.where(state.count > 1, ratio, 0.0)
    b1, b2 = _moments(_stride(process, start, s=t))
    r1 = (b1 - b2) * ratio / (1.0 + ratio)
    r2 = jnp.where(ratio > 0, b1 - r1, 0.5)
    newest, earlier = state.clean
    direction = newest + r1 * ratio * (newest - earlier) + r2 * (clean - newest)
    corrected = _transfer(process, state.previous, clean=direction, t=start, s=t)
    usable = (state.count > 0) & (start > t) & (t > s)
    return jnp.where(usable, corrected, state.x)


def _transfer(
    process: process_lib.Process,
    x: solver.Data,
    *,
    clean: solver.Data,
    t: solver.Level,
    s: solver.Level,
) -> solver.Data:
    """Equations (2)-(3); of no meaning, but finite, where t = 0."""
    ratio = process.sigma(s) / jnp.maximum(process.sigma(t), TINY)
    return ratio * x + (process.alpha(s) - process.alpha(t) * ratio) * clean


def _stride(
    process: process_lib.Process, t: solver.Level, *, s: solver.Level
) -> solver.Level:
    """h from t to s, finite everywhere."""

    def log_ratio(level: solver.Level) -> solver.Level:
        alpha = jnp.maximum(process.alpha(level), TINY)
        return jnp.log(alpha) - jnp.log(jnp.maximum(process.sigma(level), TINY))

    return log_ratio(s) - log_ratio(t)


def _stride_ratio(
    process: process_lib.Process,
    u: solver.Level,
    *,
    t: solver.Level,
    s: solver.Level,
) -> solver.Level:
    """h / k of levels u > t > s; 0 where second order has no meaning."""
    usable = (u > t) & (t > s) & (s > 0) & (process.alpha(u) > 0)
    earlier = jnp.where(usable, _stride(process, u, s=t), 1.0)
    return jnp.where(usable, _stride(process, t, s=s) / earlier, 0.0)


def _moments(h: solver.Level) -> tuple[solver.Level, solver.Level]:
    """b1 and b2, equations (7) and (8); h above 0."""
    large = jnp.maximum(h, SMALL_STRIDE)
    common = -1.0 / jnp.expm1(-large)
    b1 = common - 1.0 / large
    b2 = common - 2.0 * b1 / large
    small = jnp.clip(h, 0.0, SMALL_STRIDE)
    square = small**2
    odd = small * (1 / 12 - square * (1 / 720 - square / 30240))
    series1 = 1 / 2 + odd
    series2 = 1 / 3 + odd + square * (1 / 360 - square / 15120)
    is_small = h < SMALL_STRIDE
    return jnp.where(is_small, series1, b1), jnp.where(is_small, series2, b2)
