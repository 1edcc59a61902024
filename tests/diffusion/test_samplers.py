"""Samplers against data whose score is known in closed form.

For data that is Normal(mean, spread^2) the best prediction of noise from x_t is

    noise = sigma (x_t - alpha mean) / (alpha^2 spread^2 + sigma^2)             (1)

and the probability-flow equation carries x_t to

    x_0 = mean + spread (x_t - alpha mean) / sqrt(alpha^2 spread^2 + sigma^2).  (2)
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax.diffusion import process as process_lib
from soraflax.diffusion import samplers, schedule, solver
from tests.diffusion import sampling

MEAN, SPREAD = 0.7, 0.5
RULES = (*samplers.SAMPLERS.values(), samplers.DDIM(1.0))
PREDICTIONS = ("velocity", "epsilon", "x0")
PROCESSES = tuple(process_lib.PROCESSES)


def gaussian(process):
    """The ideal model of Normal(MEAN, SPREAD^2), equation (1)."""

    def denoise(x, t):
        alpha, sigma = process.alpha(t), process.sigma(t)
        variance = alpha**2 * SPREAD**2 + sigma**2
        noise = sigma * (x - alpha * MEAN) / variance
        x0 = MEAN + alpha * SPREAD**2 * (x - alpha * MEAN) / variance
        return process_lib.target(process, x0, noise=noise, t=t)

    return denoise


def run(sampler, process, steps, *, x, **options):
    levels = schedule.inference_levels(steps, jnp.ones(()))
    return sampling.sample(
        sampler, gaussian(process), x=x, levels=levels, process=process, **options
    ).x


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", (0.0, 1.0))
def test_ddim_recovers_a_point_mass_exactly(name, prediction, eta, key):
    process = process_lib.make(name, prediction)
    point = jnp.asarray([0.3, -1.2, 0.9])

    def denoise(x, t):
        sigma = jnp.maximum(process.sigma(t), process_lib.MIN_DIVISOR)
        noise = (x - process.alpha(t) * point) / sigma
        return process_lib.target(process, point, noise=noise, t=t)

    levels = schedule.inference_levels(
        7, jnp.ones(()), start=process_lib.start_level(process)
    )
    found = sampling.sample(
        samplers.DDIM(eta),
        denoise,
        x=jax.random.normal(key, (3,)),
        levels=levels,
        process=process,
        noise=lambda i: jax.random.normal(jax.random.fold_in(key, i), (3,)),
    ).x
    np.testing.assert_allclose(found, point, atol=2e-3)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", (samplers.Euler(), samplers.Heun()))
def test_flow_recovers_a_point_mass_exactly(sampler, prediction, key):
    """Straight paths: any number of steps lands on the point."""
    process = process_lib.RectifiedFlow(prediction)
    point = jnp.asarray([0.3, -1.2, 0.9])

    def denoise(x, t):
        sigma = jnp.maximum(process.sigma(t), process_lib.MIN_DIVISOR)
        noise = (x - process.alpha(t) * point) / sigma
        return process_lib.target(process, point, noise=noise, t=t)

    start = process_lib.start_level(process)
    x = process_lib.add_noise(
        process, point, noise=jax.random.normal(key, (3,)), t=jnp.float32(start)
    )
    levels = schedule.inference_levels(3, jnp.ones(()), start=start)
    found = sampling.sample(sampler, denoise, x=x, levels=levels, process=process).x
    np.testing.assert_allclose(found, point, atol=1e-4)


@pytest.mark.parametrize("name", PROCESSES)
def test_ancestral_sampling_keeps_the_distribution(name, key):
    process = process_lib.make(name)
    x = jax.random.normal(key, (20_000,))
    found = run(
        samplers.DDIM(eta=1.0),
        process,
        100,
        x=x,
        noise=lambda i: jax.random.normal(jax.random.fold_in(key, i + 1), x.shape),
    )
    assert abs(float(found.mean()) - MEAN) < 0.03
    assert abs(float(found.std()) - SPREAD) < 0.03
    assert abs(float(jnp.corrcoef(x, found)[0, 1])) < 0.5


@pytest.mark.parametrize("sampler", RULES, ids=str)
def test_known_tokens_come_back_bit_for_bit(sampler, key):
    process = process_lib.RectifiedFlow()
    x = jax.random.normal(key, (2, 6, 3))
    known = jnp.asarray([[True, True, False, False, False, False], [False] * 6])
    levels = schedule.inference_levels(5, jnp.ones((2, 1, 1)))
    seen = []

    def denoise(x, t):
        seen.append(t.shape)
        return gaussian(process)(x, jnp.where(known[..., None], 0.0, t))

    found = sampling.sample(
        sampler,
        denoise,
        x=x,
        levels=levels,
        process=process,
        cond_mask=known[..., None],
        expand=lambda t: jnp.where(known[..., None], 0.0, t),
        noise=lambda i: jax.random.normal(jax.random.fold_in(key, i), x.shape),
    ).x
    assert (found[known] == x[known]).all()
    assert (found[~known] != x[~known]).all()
    assert jnp.isfinite(found).all()
    assert set(seen) == {(2, 1, 1)}


@pytest.mark.parametrize("sampler", RULES, ids=str)
def test_a_trajectory_in_pieces_is_the_same(sampler, key):
    """Step by step from a host loop, by one program, or in pieces of any lengths."""
    process = process_lib.RectifiedFlow()
    x = jax.random.normal(key, (5,))
    levels = schedule.inference_levels(6, jnp.ones(()))
    arguments = {
        "process": process,
        "noise": lambda i: jax.random.normal(jax.random.fold_in(key, i), (5,)),
    }

    @functools.partial(jax.jit, donate_argnames="state")
    def sample(state, levels):
        return sampling.sample(
            sampler, gaussian(process), levels=levels, state=state, **arguments
        )

    @functools.partial(jax.jit, donate_argnames="state")
    def step(state, pair):
        def denoise(x, t):
            return gaussian(process)(x, t), t

        return solver.step(sampler, state, denoise=denoise, levels=pair, **arguments)

    def pieces(*cuts):
        state = samplers.init(x, levels[0])
        for start, stop in itertools.pairwise(cuts):
            state = sample(state, levels[start : stop + 1])
        return state

    whole = pieces(0, 6)
    single = samplers.init(x, levels[0])
    for pair in itertools.pairwise(levels):
        single, aux = step(single, pair)
        assert aux == pair[sampler.evaluations - 1]
    assert step._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]
    for cut in (single, pieces(*range(7)), pieces(0, 2, 6)):
        for a, b in zip(*map(jax.tree.leaves, (cut, whole)), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_state_looks_alike_whatever_the_sampler_and_the_step(key):
    process = process_lib.RectifiedFlow()
    x = jax.random.normal(key, (2, 3, 4))
    levels = schedule.inference_levels(3, jnp.ones((2, 1, 1)))

    def form(state):
        return jax.tree.structure(state), jax.tree.map(jnp.shape, state), dtypes(state)

    def dtypes(state):
        return [leaf.dtype for leaf in jax.tree.leaves(state)]

    first = samplers.init(x, levels[0])
    assert first.count == 0
    for sampler in RULES:
        state = sampling.sample(
            sampler,
            gaussian(process),
            x=x,
            levels=levels[:3],
            process=process,
            noise=lambda i: jax.random.normal(jax.random.fold_in(key, i), x.shape),
        )
        assert form(state) == form(first)
        assert state.count == 2
        assert (state.levels[0] == levels[1]).all()
        assert (state.levels[1] == levels[0]).all()
        assert (state.previous != state.x).any()


@pytest.mark.parametrize("sampler", RULES, ids=str)
def test_the_state_shows_the_clean_estimate(sampler, key):
    """A model certain of one point: that point is what the state shows."""
    process = process_lib.VariancePreserving("x0")
    x = jax.random.normal(key, (3,))
    point = jnp.asarray([0.3, -1.2, 0.9])
    levels = schedule.inference_levels(5, jnp.ones(()))
    state = sampling.sample(
        sampler,
        lambda x, t: point,
        x=x,
        levels=levels[:3],
        process=process,
        noise=lambda i: jax.random.normal(jax.random.fold_in(key, i), x.shape),
    )
    np.testing.assert_allclose(state.clean[0], point, atol=1e-6)
    np.testing.assert_allclose(state.clean[1], point, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "prediction"),
    [
        ("rectified_flow", "velocity"),
        ("variance_preserving", "epsilon"),
        ("variance_preserving", "x0"),
    ],
)
@pytest.mark.parametrize("sampler", RULES, ids=str)
def test_segments_at_level_zero_do_not_move(sampler, prediction, name, key):
    """Strength 0, strength 1/2, full noise, and one that waits: in one call."""
    process = process_lib.make(name, prediction)
    start = process_lib.start_level(process)
    waits = jnp.asarray([0.5, 0.5, 0.5, 0.25, 0.0, 0.0])
    full = schedule.inference_levels(5, jnp.ones(()), start=start)
    levels = jnp.stack([jnp.zeros(6), full / 2, full, waits], axis=-1)
    x = jax.random.normal(key, (4, 3))

    state = sampling.sample(
        sampler,
        lambda x, t: gaussian(process)(x, t[:, None]),
        x=x,
        levels=levels,
        process=process,
        expand=lambda t: t[:, None],
        noise=lambda i: jax.random.normal(jax.random.fold_in(key, i), x.shape),
    )
    found = state.x
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert (found[0] == x[0]).all() and (state.clean[0][0] == x[0]).all()
    assert (found[1:] != x[1:]).all()
    if not sampler.stochastic:
        short = jnp.asarray([0.5, 0.25, 0.0])
        alone = sampling.sample(
            sampler, gaussian(process), x=x[3], levels=short, process=process
        ).x
        np.testing.assert_allclose(found[3], alone, atol=1e-5)


def test_nothing_is_ever_nan(key):
    """Not even in a branch that is not taken."""
    process = process_lib.VariancePreserving()
    levels = jnp.asarray(
        [[1, 1, 0.5, 0], [1, 0.6, 0.5, 0], [0.5, 0, 0, 0], [0, 0, 0, 0]]
    )
    with jax.debug_nans(True):
        for sampler in samplers.SAMPLERS.values():
            found = sampling.sample(
                sampler,
                gaussian(process),
                x=jax.random.normal(key, (4,)),
                levels=levels.astype(jnp.float32),
                process=process,
                noise=lambda _: jnp.float32(0.3),
            ).x
            assert jnp.isfinite(found).all()


@pytest.mark.parametrize("sampler", RULES, ids=str)
def test_evaluations_are_counted(sampler, key):
    calls = []

    def denoise(x, t):
        calls.append(t)
        return jnp.zeros_like(x), None

    levels = jnp.float32(0.5), jnp.float32(0.25)
    solver.step(
        sampler,
        samplers.init(jnp.ones(3), levels[0]),
        process=process_lib.RectifiedFlow(),
        denoise=denoise,
        levels=levels,
        noise=lambda count: jnp.zeros(3),
    )
    assert len(calls) == sampler.evaluations


@pytest.mark.parametrize("sampler", samplers.SAMPLERS.values(), ids=str)
def test_levels_of_their_own(sampler):
    """Two segments with different grids in one call match two calls."""
    process = process_lib.RectifiedFlow()
    x = jnp.asarray([1.0, 1.0])
    levels = schedule.inference_levels(4, jnp.asarray([0.5, 3.0]))
    sample = functools.partial(
        sampling.sample,
        sampler,
        gaussian(process),
        process=process,
        noise=lambda _: jnp.float32(0.3),
    )
    together = sample(x=x, levels=levels).x
    for i in range(2):
        alone = sample(x=x[i], levels=levels[:, i]).x
        np.testing.assert_allclose(together[i], alone, atol=1e-6)
    assert together[0] != together[1]


def test_stochastic_needs_noise():
    with pytest.raises(ValueError, match="draws fresh noise"):
        run(samplers.DDIM(1.0), process_lib.RectifiedFlow(), 2, x=jnp.zeros(3))
    with pytest.raises(ValueError, match=r"eta 2.0: use a value in \[0, 1\]"):
        samplers.DDIM(eta=2.0)
