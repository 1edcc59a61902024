"""Steps that take over what the blocks added before."""

import dataclasses

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from soraflax.diffusion import samplers
from soraflax.generation import caching
from soraflax.generation import generator as generators
from tests.generation import tiny

CONFIG = generators.SamplingConfig(steps=6, guidance=2.0)
ALWAYS = caching.StepCacheConfig(
    threshold=100.0, max_consecutive_skips=1, warmup_steps=1
)


@pytest.fixture(scope="module")
def generator():
    return generators.Generator(tiny.model())


def fill(generator, cache, **changes):
    config = dataclasses.replace(CONFIG, cache=cache, **changes)
    job = generator.prompt("a red circle moves right", size=(32, 32), frames=9, seed=3)
    return generator.fill([generator.canvas(job)], config)[0]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            caching.StepCacheConfig(0.2, max_consecutive_skips=2, warmup_steps=1),
            "0110100",
        ),
        (
            caching.StepCacheConfig(0.2, max_consecutive_skips=1, warmup_steps=1),
            "0101010",
        ),
        (
            caching.StepCacheConfig(0.2, max_consecutive_skips=2, warmup_steps=2),
            "0011000",
        ),
        (
            caching.StepCacheConfig(0.05, max_consecutive_skips=2, warmup_steps=1),
            "0000000",
        ),
        (
            caching.StepCacheConfig(9.0, max_consecutive_skips=9, warmup_steps=1),
            "0111110",
        ),
        (
            caching.StepCacheConfig(9.0, max_consecutive_skips=9, warmup_steps=3),
            "0001000",
        ),
        (
            caching.StepCacheConfig(9.0, max_consecutive_skips=9, warmup_steps=4),
            "0000000",
        ),
    ],
)
def test_skipped_on_a_literal_list(config, expected):
    changes = [5.0, 0.1, 0.1, 0.1, 0.1, 0.15, 0.1]
    found = caching.skipped(changes, config)
    assert "".join(str(int(skip)) for skip in found) == expected


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(
    changes=st.lists(st.floats(0, 1), min_size=1, max_size=40),
    threshold=st.floats(0, 2),
    most=st.integers(1, 5),
    ends=st.integers(1, 5),
)
def test_what_is_skipped_stays_within_its_limits(changes, threshold, most, ends):
    config = caching.StepCacheConfig(threshold, most, ends)
    found = caching.skipped(changes, config)
    assert len(found) == len(changes)
    assert not any(found[:ends]) and not any(found[-ends:])
    total, run = 0.0, 0
    for skip, change in zip(found, changes, strict=True):
        total, run = (total + change, run + 1) if skip else (0.0, 0)
        assert total <= threshold + 1e-9 and run <= most


def test_changes_are_distances_of_neighbours():
    model = tiny.model()
    params = jax.tree.map(np.asarray, model.params)
    found = caching.modulation_changes(
        params, model.config.transformer, shift=model.config.shift, steps=9
    )
    assert found.shape == (9,) and found[0] == 0
    assert np.isfinite(found).all() and (found[1:] > 0).all()
    fine = caching.modulation_changes(
        params, model.config.transformer, shift=model.config.shift, steps=90
    )
    assert fine[1:].mean() < found[1:].mean()


def test_a_threshold_of_nothing_is_no_cache(generator):
    none = caching.StepCacheConfig(threshold=0.0)
    np.testing.assert_array_equal(fill(generator, none), fill(generator, None))


def test_the_more_steps_the_less_skipping_changes(generator):
    errors = []
    for steps in (6, 24):
        plain, cached = (fill(generator, c, steps=steps) for c in (None, ALWAYS))
        errors.append(np.linalg.norm(cached - plain) / np.linalg.norm(plain))
    assert 1e-4 < errors[1] < 0.7 * errors[0]


def test_skipped_steps_do_not_run_the_blocks(generator):
    """Where the residual is handed over, `dit.DiT` leaves its blocks out."""
    chosen = generator.denoiser.skips(dataclasses.replace(CONFIG, cache=ALWAYS))
    assert chosen == [False, True, False, True, False, False]
    calls = []
    step = generator.denoiser._step
    try:
        generator.denoiser._step = lambda spec, params, *, state, **rest: (
            calls.append(state.residual is not None)
            or step(spec, params, state=state, **rest)
        )
        fill(generator, ALWAYS)
    finally:
        generator.denoiser._step = step
    assert calls == chosen


@pytest.mark.parametrize("sampler", ("euler", "ddim", "dpm++", "unipc"))
def test_every_sampler_of_one_call_can_skip(generator, sampler):
    found = fill(generator, ALWAYS, sampler=samplers.SAMPLERS[sampler], guidance=1.0)
    assert np.isfinite(found).all() and found.std() > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: dataclasses.replace(CONFIG, cache=ALWAYS, sampler=samplers.Heun()),
            "calls the model twice a step: use one that calls it once, such as UniPC",
        ),
        (
            lambda: caching.StepCacheConfig(threshold=-1.0),
            "threshold -1.0: use 0 or more",
        ),
        (lambda: caching.StepCacheConfig(threshold=float("nan")), "threshold nan"),
        (
            lambda: caching.StepCacheConfig(max_consecutive_skips=0),
            "use 1 step or more",
        ),
        (lambda: caching.StepCacheConfig(warmup_steps=0), "use 1 step or more"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_two_experts_are_refused():
    one = tiny.model()
    config = dataclasses.replace(one.config, boundary=0.5)
    params = {"high": one.params, "low": one.params}
    model = dataclasses.replace(one, config=config, params=params)
    with pytest.raises(ValueError, match="one transformer; this model has two"):
        fill(generators.Generator(model), ALWAYS)
