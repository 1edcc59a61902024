import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax.diffusion import guidance, samplers
from soraflax.diffusion import process as process_lib
from tests.diffusion import sampling


def test_ends_and_extrapolation(key):
    a, b = (jax.random.normal(k, (2, 4, 3)) for k in jax.random.split(key))

    def combine(scale):
        return guidance.classifier_free(a, b, scale=jnp.float32(scale))

    np.testing.assert_allclose(combine(1.0), a, atol=1e-6)
    np.testing.assert_allclose(combine(0.0), b, atol=1e-6)
    np.testing.assert_allclose(combine(3.0), b + 3 * (a - b), atol=1e-5)


def test_scale_per_token(key):
    a, b = (jax.random.normal(k, (2, 4, 3)) for k in jax.random.split(key))
    scale = jnp.asarray([[1.0, 1, 0, 0], [0, 0, 1, 1]])[..., None]
    found = guidance.classifier_free(a, b, scale=scale)
    np.testing.assert_allclose(found, jnp.where(scale == 1, a, b), atol=1e-6)


@pytest.mark.parametrize("prediction", ("epsilon", "x0"))
def test_guides_every_prediction_alike(prediction, key):
    process = process_lib.VariancePreserving()
    a, b, x = (jax.random.normal(k, (2, 4, 3)) for k in jax.random.split(key, 3))
    t, scale = jnp.full((2, 4, 1), 0.4), jnp.float32(2.5)

    def convert(v):
        return process_lib.convert(
            process, v, x_t=x, t=t, source="velocity", destination=prediction
        )

    np.testing.assert_allclose(
        convert(guidance.classifier_free(a, b, scale=scale)),
        guidance.classifier_free(convert(a), convert(b), scale=scale),
        atol=1e-4,
    )


SEGMENTS = jnp.asarray([[0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1, 1]])
KNOWN = jnp.asarray([[True] + [False] * 7, [False] * 7 + [True]])


def deviation(x):
    """Of the unknown tokens of a token's segment."""
    unknown = jnp.broadcast_to(~KNOWN[..., None], x.shape)
    found = jnp.zeros((2, 8, 1))
    for segment in (0, 1):
        inside = np.equal(segment, SEGMENTS)[..., None]
        std = jnp.std(x, axis=(1, 2), keepdims=True, where=inside & unknown)
        found = jnp.where(inside, std, found)
    return found


def draw(key):
    keys = jax.random.split(key, 4)
    a, b, x = (jax.random.normal(k, (2, 8, 3)) for k in keys[:3])
    level = jnp.where(KNOWN, 0.0, jnp.where(SEGMENTS == 1, 0.7, 0.3))[..., None]
    return a, b, x, level


def guide(
    a,
    b,
    x,
    level,
    *,
    process=None,
    step=0,
    deviation=deviation,
    skipped=None,
    **numbers,
):
    return guidance.guide(
        guidance.Predictions(a, b, skipped),
        settings=guidance.GuidanceConfig(**numbers).arrays(),
        process=process or process_lib.RectifiedFlow(),
        x=x,
        level=level,
        step=jnp.int32(step),
        deviation=deviation,
    )


@pytest.mark.parametrize("rescale", (0.0, 0.5, 1.0))
def test_scale_one_is_the_conditional(rescale, key):
    a, b, x, level = draw(key)
    found = guide(a, b, x, level, scale=1.0, rescale=rescale)
    np.testing.assert_allclose(found, a, atol=1e-5)


def test_plain_settings_are_equation_one(key):
    a, b, x, level = draw(key)
    found = guide(a, b, x, level, scale=3.0)
    np.testing.assert_allclose(
        found, guidance.classifier_free(a, b, scale=jnp.float32(3.0)), atol=1e-6
    )


def test_outside_the_interval_is_the_conditional(key):
    a, b, x, level = draw(key)
    plain = guide(a, b, x, level, scale=4.0, rescale=0.5)
    found = guide(a, b, x, level, scale=4.0, rescale=0.5, low=0.3, high=0.6)
    inside = jnp.broadcast_to(level == jnp.float32(0.3), a.shape)
    assert inside.any() and not inside.all()
    assert (found[inside] == plain[inside]).all()
    assert (found[~inside] == a[~inside]).all()
    assert (plain != a).all()


def test_full_rescale_has_the_deviation_of_the_conditional(key):
    a, b, x, level = draw(key)
    plain = guide(a, b, x, level, scale=5.0)
    half, full = (guide(a, b, x, level, scale=5.0, rescale=r) for r in (0.5, 1.0))
    np.testing.assert_allclose(deviation(full), deviation(a), rtol=1e-5)
    assert (deviation(plain) > 1.5 * deviation(a)).all()
    np.testing.assert_allclose(half, (plain + full) / 2, atol=1e-5)


def test_a_segment_without_deviation_is_not_rescaled(key):
    a, b, x, level = draw(key)
    found = guide(
        a, b, x, level, scale=3.0, rescale=1.0, deviation=lambda x: jnp.zeros((2, 8, 1))
    )
    np.testing.assert_allclose(found, guide(a, b, x, level, scale=3.0), atol=1e-6)


@pytest.mark.parametrize("prediction", process_lib.PREDICTIONS)
@pytest.mark.parametrize("name", tuple(process_lib.PROCESSES))
def test_zero_init_stands_still(name, prediction, key):
    a, b, x, _ = draw(key)
    process = process_lib.make(name, prediction)
    levels = jnp.linspace(0.9, 0.3, 4)

    @jax.jit
    def move(settings, step):
        def denoise(x, t):
            return guidance.guide(
                guidance.Predictions(a, b),
                settings=settings,
                process=process,
                x=x,
                level=t,
                step=step,
                deviation=deviation,
            )

        pair = jax.lax.dynamic_slice_in_dim(levels, step, 2)
        return sampling.sample(
            samplers.Euler(), denoise, x=x, levels=pair, process=process
        ).x

    early, plain = (
        [move(guidance.GuidanceConfig(3.0, zero_init=k).arrays(), i) for i in range(3)]
        for k in (2, 0)
    )
    np.testing.assert_allclose(early[:2], [x, x], atol=1e-5)
    assert (early[2] == plain[2]).all()
    assert all((found != x).all() for found in plain)


def test_zero_init_alone(key):
    a, _, x, level = draw(key)
    settings = guidance.GuidanceConfig(zero_init=1).arrays()
    process = process_lib.RectifiedFlow()

    def early(step):
        return guidance.zero_init(
            a,
            settings=settings,
            process=process,
            x=x,
            level=level,
            step=jnp.int32(step),
        )

    assert (early(0) == 0).all() and (early(1) == a).all()


def test_other_numbers_compile_nothing(key):
    a, b, x, level = draw(key)

    @jax.jit
    def run(settings, step):
        return guidance.guide(
            guidance.Predictions(a, b),
            settings=settings,
            process=process_lib.RectifiedFlow(),
            x=x,
            level=level,
            step=step,
            deviation=deviation,
        )

    for step, config in enumerate(
        (
            guidance.GuidanceConfig(),
            guidance.GuidanceConfig(7.0, low=0.2, high=0.5, rescale=0.7, zero_init=2),
        )
    ):
        run(config.arrays(), np.int32(step))
    assert run._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]


def test_skip_guidance_adds_what_the_blocks_do(key):
    a, b, x, level = draw(key)
    skipped = a + jax.random.normal(jax.random.key(7), a.shape)
    skip = guidance.SkipGuidance((1,), 0.5, interval=(0.5, 0.8))
    found = guide(a, b, x, level, scale=3.0, skip=skip, skipped=skipped)
    plain = guide(a, b, x, level, scale=3.0)
    inside = (level >= 0.5) & (level <= 0.8)
    expected = jnp.where(inside, plain + 0.5 * (a - skipped), plain)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    alone = guide(a, None, x, level, scale=3.0, skip=skip, skipped=skipped)
    expected = jnp.where(inside, a + 0.5 * (a - skipped), a)
    np.testing.assert_allclose(alone, expected, atol=1e-5)


def test_rescale_is_of_all_guidance(key):
    a, b, x, level = draw(key)
    skip = guidance.SkipGuidance((1,), 4.0)
    skipped = a + jax.random.normal(jax.random.key(7), a.shape)
    found = guide(a, b, x, level, scale=3.0, rescale=1.0, skip=skip, skipped=skipped)
    np.testing.assert_allclose(deviation(found), deviation(a), rtol=1e-4)


def test_skipped_blocks_are_those_of_the_model():
    skip = guidance.SkipGuidance((3, 1))
    assert skip.kept(5).tolist() == [True, False, True, False, True]
    with pytest.raises(ValueError, match="skipped block 3: the model has 0 to 2"):
        skip.kept(3)
    config = guidance.GuidanceConfig(skip=guidance.SkipGuidance((0,), 1.0, (0.2, 0.8)))
    assert config.is_skipping(np.asarray([0.0, 0.5]))
    assert not config.is_skipping(np.asarray([0.1, 0.9]))
    assert not guidance.GuidanceConfig().is_skipping(np.asarray([0.5]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks": ()}, "name one or more, each once"),
        ({"blocks": (1, 1)}, "name one or more, each once"),
        ({"blocks": (-1,)}, "skipped block -1: they are numbered from 0"),
        ({"blocks": (1,), "scale": 0.0}, "skip guidance 0.0: use a number above 0"),
        ({"blocks": (1,), "interval": (0.6, 0.4)}, "skip guidance interval 0.6 to 0.4"),
    ],
)
def test_impossible_skip_guidance_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        guidance.SkipGuidance(**arguments)


def test_what_needs_an_unconditional_prediction():
    config = guidance.GuidanceConfig(3.0, low=0.2, high=0.8)
    assert config.is_active(np.asarray([[0.0, 0.5]]))
    assert config.is_active(np.asarray([0.8]))
    assert not config.is_active(np.asarray([0.0, 0.1, 0.9]))
    assert not guidance.GuidanceConfig(1.0).is_active(np.asarray([0.5]))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"scale": float("nan")}, "guidance scale nan: use a finite number"),
        ({"low": 0.6, "high": 0.4}, r"interval 0.6 to 0.4: need 0 <= low <= high"),
        ({"high": 1.5}, r"interval 0.0 to 1.5: need 0 <= low <= high <= 1"),
        ({"rescale": 1.2}, "rescale 1.2: use a share, 0 to 1"),
        ({"zero_init": -1}, "zero-init -1: use 0 steps or more"),
    ],
)
def test_impossible_settings_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        guidance.GuidanceConfig(**numbers)


def test_two_experts_have_a_scale_each():
    config = guidance.GuidanceConfig(scale=4.0, low_scale=3.0)
    levels = jnp.asarray([[[0.9], [0.875], [0.5], [0.0]]])
    found = config.arrays().at(levels, boundary=0.875).scale
    np.testing.assert_array_equal(found[0, :, 0], [4, 4, 3, 3])
    assert config.arrays().at(levels, boundary=None).scale == 4
    one = guidance.GuidanceConfig(scale=4.0).arrays().at(levels, boundary=0.875)
    assert (jnp.asarray(one.scale) == 4).all()
    assert guidance.GuidanceConfig(scale=1.0, low_scale=2.0).is_enabled
    assert not guidance.GuidanceConfig(scale=1.0, low_scale=1.0).is_enabled
    with pytest.raises(ValueError, match="use a finite number"):
        guidance.GuidanceConfig(low_scale=float("inf"))
