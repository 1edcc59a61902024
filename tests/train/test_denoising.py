"""The objective on packed rows: who is noised, who counts, and independence."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from soraflax import config as config_lib
from soraflax.diffusion import process as process_lib
from soraflax.diffusion import schedule
from soraflax.ops import packing, patch
from soraflax.train import denoising, mask_sampling

GRIDS = ((5, 2, 3), (1, 3, 3), (3, 2, 2))
STEPS = (1.0, 1.0, 2.5)
SHAPE = packing.RowShape(tokens=64, text=12, segments=4, align=4)


class Pointwise(nn.Module):
    """A model in which every token looks only at itself and its level."""

    @nn.compact
    def __call__(self, packed):
        level = packed.noise_levels[..., None]
        x = jnp.concatenate([packed.tokens, level], axis=-1)
        return nn.Dense(packed.tokens.shape[-1])(x)


def clip(grid, step=1.0, seed=0, width=16):
    rng = np.random.default_rng(seed)
    n = int(np.prod(grid))
    return packing.Segment(
        tokens=rng.normal(size=(n, width)).astype(np.float32),
        positions=patch.positions(grid, time_step=step),
        cond_mask=np.zeros(n, bool),
        text=rng.integers(1, 30, 3).astype(np.int32),
    )


def rows():
    first = [clip(g, s, i) for i, (g, s) in enumerate(zip(GRIDS, STEPS, strict=True))]
    return [first, [clip((5, 2, 3), seed=7)]]


@pytest.fixture
def packed():
    return jax.tree.map(jnp.asarray, packing.assemble(rows(), SHAPE))


@pytest.fixture
def model(packed, key):
    module = Pointwise()
    return denoising.predict_with(module), module.init(key, packed)["params"]


def test_known_tokens_enter_clean_and_do_not_count(packed, key):
    config = denoising.DenoisingConfig()
    known = packed.replace(level_ids=packed.level_ids.at[0, :6].add(1))
    noise = jax.random.normal(key, packed.tokens.shape)
    levels = jnp.full((2, 5), 0.7)
    noisy = denoising.corrupt(
        known, levels=levels, noise=noise, process=process_lib.RectifiedFlow()
    )
    given = known.cond_mask | (known.segments == 0)
    assert (noisy.tokens[given] == packed.tokens[given]).all()
    assert (noisy.noise_levels[known.cond_mask] == 0).all()
    np.testing.assert_allclose(
        noisy.tokens[~given], (0.3 * packed.tokens + 0.7 * noise)[~given], atol=1e-6
    )

    def value(wrong):
        return denoising.loss_at(
            {},
            known,
            levels=levels,
            noise=noise,
            predict=lambda _, p: noise - packed.tokens + wrong,
            config=config,
        )

    assert value(jnp.zeros_like(noise)) == 0
    gradient = jax.grad(value)(jnp.ones_like(noise))
    assert (gradient[given] == 0).all() and (gradient[~given] != 0).all()


@pytest.mark.parametrize("weighting", ("segment", "token"))
def test_weighting(packed, weighting):
    """An error in one clip of size n costs 1/4 of the loss, or n/sum(n)."""
    config = denoising.DenoisingConfig(weighting=weighting)
    for number, grid in enumerate(GRIDS, start=1):
        wrong = (packed.segments[0] == number).astype(jnp.float32)[None, :, None]
        wrong = wrong * jnp.asarray([1.0, 0.0])[:, None, None]
        value = denoising.loss_at(
            {},
            packed,
            levels=jnp.full((2, 5), 0.5),
            noise=jnp.zeros_like(packed.tokens),
            predict=lambda _, p, wrong=wrong: wrong - packed.tokens,
            config=config,
        )
        expected = 0.25 if weighting == "segment" else np.prod(grid) / 81
        np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_draws_do_not_depend_on_neighbours(packed, key):
    config = denoising.DenoisingConfig(
        mask_rates=mask_sampling.MaskRates(0.3, 0.3, 0.3),
        shift=schedule.TokenCountShift(base=2.0),
    )
    alone = jax.tree.map(jnp.asarray, packing.assemble([rows()[0][:1]], SHAPE))
    n = len(rows()[0][0])
    for draw in (
        lambda p: denoising.sample_levels(p, key, config=config)[0, 1],
        lambda p: mask_sampling.sample_masks(p, key, rates=config.mask_rates).cond_mask[
            0, :n
        ],
    ):
        compiled = jax.jit(draw)
        np.testing.assert_array_equal(compiled(packed), compiled(alone))


def test_larger_clips_get_noisier_levels(packed, key):
    plain = denoising.DenoisingConfig(shift=schedule.TokenCountShift(exponent=0.0))
    shifted = denoising.DenoisingConfig(shift=schedule.TokenCountShift(base_tokens=9))
    a = denoising.sample_levels(packed, key, config=plain)
    b = denoising.sample_levels(packed, key, config=shifted)
    ratio = (b / (1 - b)) / (a / (1 - a))
    np.testing.assert_allclose(
        ratio[0, 1:4], [(30 / 9) ** 0.5, 1.0, (12 / 9) ** 0.5], rtol=1e-4
    )


def test_padding_contents_do_not_matter(packed, model, key):
    predict, params = model
    config = denoising.DenoisingConfig(
        mask_rates=mask_sampling.MaskRates(0.3, 0.3, 0.3)
    )

    def value(packed):
        def call(p):
            return denoising.loss(p, packed, key, predict=predict, config=config)[0]

        return jax.value_and_grad(call)(params)

    empty = (packed.segments == 0)[..., None]
    dirty = packed.replace(tokens=jnp.where(empty, jnp.nan, packed.tokens))
    jax.tree.map(np.testing.assert_array_equal, value(packed), value(dirty))


def test_metrics(packed, model, key):
    predict, params = model
    value, metrics = denoising.loss(
        params, packed, key, predict=predict, config=denoising.DenoisingConfig()
    )
    assert value.shape == () and jnp.isfinite(value)
    assert metrics["useful_tokens"] == 81
    assert metrics["segments"] == 4
    np.testing.assert_allclose(metrics["packing"], 81 / 128)
    assert metrics["known"] == 0
    assert 0 < metrics["level"] < 1


@pytest.mark.parametrize("prediction", process_lib.PREDICTIONS)
def test_gradient_descent_lowers_the_loss(packed, model, key, prediction):
    predict, params = model
    config = denoising.DenoisingConfig(
        process="variance_preserving", prediction=prediction, min_snr=5.0
    )

    @jax.jit
    def step(params):
        def call(p):
            return denoising.loss(p, packed, key, predict=predict, config=config)[0]

        value, gradient = jax.value_and_grad(call)(params)
        return value, jax.tree.map(lambda p, g: p - 0.05 * g, params, gradient)

    first, params = step(params)
    for _ in range(10):
        last, params = step(params)
    assert last < first


def test_packed_loss_equals_its_clips_alone(packed, model, key):
    """One row of three clips against three rows of one, gradients included."""
    predict, params = model
    together = jax.tree.map(lambda a: a[:1], packed)
    apart = packing.assemble([[c] for c in rows()[0]], SHAPE)
    levels = jnp.asarray([[0.0, 0.2, 0.5, 0.9, 0.0]])
    noise = jax.random.normal(key, (64, 16))
    where = packing.segment_slices(rows()[:1], SHAPE)[0]
    apart_noise = jnp.stack([jnp.roll(noise, -s.start, axis=0) for s in where])
    apart_levels = jnp.broadcast_to(levels[0, 1:4, None], (3, 5))

    @jax.jit
    @jax.value_and_grad
    def value(params, packed, levels, noise):
        return denoising.loss_at(
            params,
            packed,
            levels=levels,
            noise=noise,
            predict=predict,
            config=denoising.DenoisingConfig(),
        )

    a = value(params, together, levels, noise[None])
    b = value(params, jax.tree.map(jnp.asarray, apart), apart_levels, apart_noise)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), a, b
    )


@pytest.mark.parametrize("foreground", [0.0, 2.0])
@pytest.mark.parametrize("weighting", ["segment", "token"])
def test_rows_by_their_weight_are_the_loss_of_all(model, key, weighting, foreground):
    """Three clips in one row and one in the other, some of it known."""
    predict, params = model
    first, second = rows()
    known = np.arange(len(first[0].tokens)) < 12
    first[0] = dataclasses.replace(first[0], cond_mask=known)
    packed = jax.tree.map(jnp.asarray, packing.assemble([first, second], SHAPE))
    config = denoising.DenoisingConfig(weighting=weighting, foreground=foreground)
    levels = denoising.sample_levels(packed, key, config=config)
    noise = jax.random.normal(key, packed.tokens.shape)

    def loss(params, rows):
        part = jax.tree.map(lambda x: x[rows], packed)
        made = {"predict": predict, "config": config}
        value = denoising.loss_at(
            params, part, levels=levels[rows], noise=noise[rows], **made
        )
        return value, denoising.total_weight(part, config)

    grad = jax.value_and_grad(loss, has_aux=True)
    whole, first, second = (
        grad(params, rows) for rows in (slice(2), slice(1), slice(1, 2))
    )
    weights = [first[0][1], second[0][1]]
    np.testing.assert_allclose(sum(weights), whole[0][1], rtol=1e-6)
    if weighting == "segment" and not foreground:
        np.testing.assert_allclose(weights, [3, 1], rtol=1e-6)
    shares = [weight / sum(weights) for weight in weights]
    parts = ((first[0][0], first[1]), (second[0][0], second[1]))
    mean = jax.tree.map(lambda a, b: shares[0] * a + shares[1] * b, *parts)
    for a, b in zip(
        jax.tree.leaves(mean), jax.tree.leaves((whole[0][0], whole[1])), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_config_survives_json():
    config = denoising.DenoisingConfig(
        levels=schedule.Uniform(0.1, 0.9),
        mask_rates=mask_sampling.MaskRates(first_frame=0.1),
    )
    back = config_lib.to_dataclass(
        config_lib.to_dict(config), denoising.DenoisingConfig
    )
    assert back == config
    plain = dataclasses.replace(config, levels=schedule.LogitNormal(0.5))
    assert (
        config_lib.to_dataclass(config_lib.to_dict(plain), denoising.DenoisingConfig)
        == plain
    )
    with pytest.raises(ValueError, match="unknown weighting 'clips'"):
        denoising.DenoisingConfig(weighting="clips")
