import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soraflax.diffusion import schedule


def test_logit_normal_has_the_moments_it_names(key):
    t = schedule.LogitNormal(0.5, 0.8)(key, (20_000,))
    logit = np.log(t / (1 - t))
    assert abs(logit.mean() - 0.5) < 0.03
    assert abs(logit.std() - 0.8) < 0.03
    assert t.min() > 0 and t.max() < 1


def test_an_even_share_reaches_the_ends(key):
    narrow = schedule.LogitNormal(std=0.1)(key, (20_000,))
    mixed = schedule.LogitNormal(std=0.1, even=0.25)(key, (20_000,))
    assert not np.any(narrow > 0.75)
    assert abs(np.mean(mixed > 0.75) - 0.25 * 0.25) < 0.01
    assert abs(np.mean(mixed < 0.25) - 0.25 * 0.25) < 0.01


def test_uniform_stays_in_its_range(key):
    t = schedule.Uniform(0.2, 0.6)(key, (1000,))
    assert t.min() >= 0.2 and t.max() < 0.6
    assert abs(float(t.mean()) - 0.4) < 0.02


shift_level = jax.jit(schedule.shift_level)
levels = st.floats(0, 1, width=32)
shifts = st.floats(0.25, 5, width=32)


@settings(max_examples=10, deadline=None)
@given(t=levels, a=shifts, b=shifts)
def test_shifts_compose_and_keep_the_ends(t, a, b):
    t, a, b = jnp.float32(t), jnp.float32(a), jnp.float32(b)
    twice = shift_level(shift_level(t, a), b)
    np.testing.assert_allclose(twice, shift_level(t, a * b), atol=1e-5)
    back = shift_level(shift_level(t, a), 1 / a)
    np.testing.assert_allclose(back, t, atol=1e-5)
    for end in (jnp.float32(0), jnp.float32(1)):
        assert shift_level(end, a) == end


def test_shift_grows_with_the_token_count():
    shift = schedule.TokenCountShift(base=1.0, base_tokens=256, exponent=0.5)
    found = shift(jnp.asarray([64.0, 256.0, 1024.0, 0.0]))
    np.testing.assert_allclose(found, [0.5, 1.0, 2.0, 1 / 16], rtol=1e-6)


def test_inference_levels_fall_to_zero_for_each_segment():
    shift = jnp.asarray([[0.5, 1.0], [2.0, 4.0]])
    times = schedule.inference_levels(10, shift, start=0.99)
    assert times.shape == (11, 2, 2)
    assert (times[-1] == 0).all()
    np.testing.assert_allclose(times[0], 0.99, atol=1e-6)
    assert (jnp.diff(times, axis=0) < 0).all()
    np.testing.assert_allclose(times[:, 0, 1], 0.99 * np.linspace(1, 0, 11), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedule.inference_levels(0, jnp.ones(())), "0 steps: use 1 or more"),
        (lambda: schedule.LogitNormal(0.0, 0.0), "std 0.0 must be above 0"),
        (lambda: schedule.LogitNormal(even=2.0), "use a share, 0 to 1"),
        (lambda: schedule.Uniform(0.5, 0.5), "low < high"),
        (lambda: schedule.TokenCountShift(base=0.0), "above 0"),
        (lambda: schedule.TrainedLevels(1), "1 levels of training: use 2 or more"),
        (
            lambda: schedule.TrainedLevels().inference_levels(0, np.ones(())),
            "0 steps: use 1 or more",
        ),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_level_sampling_is_a_function_of_the_key(key):
    sampler = schedule.LogitNormal()
    assert (sampler(key, (4,)) == sampler(key, (4,))).all()
    assert (sampler(key, (4,)) != sampler(jax.random.key(1), (4,))).all()


def test_levels_of_wan_s_unipc():
    """Even ones down to 1 / N, without it, then shifted; whole numbers are told."""
    trained = schedule.TrainedLevels()
    shifts = np.array([1.0, 3.0], np.float32)
    levels = trained.inference_levels(4, shifts)
    even = np.array([1.0, 0.75025, 0.5005, 0.25075])
    expected = np.stack([even, 3 * even / (1 + 2 * even)], axis=1)
    expected[0] -= 1e-6
    np.testing.assert_allclose(levels[:-1], expected, atol=1e-7)
    assert (levels[-1] == 0).all() and levels.dtype == np.float32
    told = trained.told(jnp.asarray(levels)) * 1000
    wanted = [[999, 999], [750, 900], [500, 750], [250, 500], [0, 0]]
    np.testing.assert_allclose(told, wanted, rtol=1e-6)
    whole = np.arange(1000, dtype=np.float32)
    again = trained.told(jnp.asarray(whole / np.float32(1000)))
    np.testing.assert_allclose(again * 1000, whole, rtol=1e-6)


def test_levels_of_euler_steps_in_diffusers():
    """From 1 to the shifted 1 / N, and shifted again."""
    trained = schedule.TrainedLevels(spacing="closed", whole=False)
    levels = trained.inference_levels(3, np.asarray(2.0, np.float32))
    last = 2 * 0.001 / (1 + 0.001)
    even = np.array([1.0, (1 + last) / 2, last])
    np.testing.assert_allclose(levels, [*(2 * even / (1 + even)), 0], atol=1e-7)
    assert (trained.told(jnp.asarray(levels)) == levels).all()


@pytest.mark.parametrize("spacing", ["open", "closed"])
def test_a_strength_scales_levels_before_the_shift(spacing):
    trained = schedule.TrainedLevels(spacing=spacing)
    strengths = np.array([1.0, 0.5, 0.0], np.float32)
    levels = trained.inference_levels(5, np.ones(3, np.float32), strength=strengths)
    np.testing.assert_allclose(levels[:, 1], levels[:, 0] / 2, atol=1e-6)
    assert (levels[:, 2] == 0).all()
    assert (np.diff(levels[:, :2], axis=0) < 0).all()
