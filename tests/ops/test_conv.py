import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax.ops import conv

BLOCKS = [(1, 1, 1), (1, 2, 2), (2, 1, 1), (2, 4, 4), (4, 8, 8)]


def _inputs(key, *, kernel=(3, 3, 3), frames=5):
    a, b = jax.random.split(key)
    x = jax.random.normal(a, (2, frames, 6, 8, 3))
    return x, jax.random.normal(b, (*kernel, 3, 4))


@pytest.mark.parametrize(
    ("kernel", "strides", "front"),
    [
        ((3, 3, 3), (1, 1, 1), None),
        ((1, 1, 1), (1, 1, 1), None),
        ((1, 3, 3), (1, 2, 2), None),
        ((3, 1, 1), (2, 1, 1), 0),
        ((3, 3, 3), (2, 2, 2), 2),
    ],
)
@pytest.mark.parametrize("channels", [1, conv.MIN_SUMMED_CHANNELS])
def test_stacked_equals_reference_forward_and_backward(
    key, monkeypatch, kernel, strides, front, channels
):
    monkeypatch.setattr(conv, "MIN_SUMMED_CHANNELS", channels)
    if channels == 1:
        monkeypatch.setattr(conv, "CACHED_POSITIONS", 100)
    x, weights = _inputs(key, kernel=kernel)

    def run(implementation):
        def total(x, weights):
            y = conv.causal_conv3d(
                x, weights, strides=strides, front=front, implementation=implementation
            )
            return jnp.sum(jnp.sin(y)), y

        grads, y = jax.jit(jax.grad(total, (0, 1), has_aux=True))(x, weights)
        return y, *grads

    for fast, slow in zip(run("stacked"), run("reference"), strict=True):
        np.testing.assert_allclose(fast, slow, atol=1e-4, rtol=1e-4)


def test_reference_is_the_sum_of_its_definition(key):
    x, weights = _inputs(key, frames=3)
    padded = np.pad(np.asarray(x), [(0, 0), (2, 0), (1, 1), (1, 1), (0, 0)])
    y = np.zeros((2, 3, 6, 8, 4))
    for t, h, w in np.ndindex(3, 6, 8):
        window = padded[:, t : t + 3, h : h + 3, w : w + 3]
        y[:, t, h, w] = np.einsum("bijkc,ijkco->bo", window, weights)
    np.testing.assert_allclose(
        conv.causal_conv3d(x, weights, implementation="reference"), y, atol=1e-4
    )


@pytest.mark.parametrize("implementation", ["reference", "stacked"])
def test_no_gradient_reaches_later_frames(key, implementation):
    x, weights = _inputs(key)

    def early(x):
        y = conv.causal_conv3d(x, weights, implementation=implementation)
        return jnp.sum(jnp.square(y[:, :2]))

    gradient = jax.grad(early)(x)
    assert np.all(gradient[:, 2:] == 0.0)
    assert np.all(np.any(gradient[:, :2] != 0.0, axis=(2, 3, 4)))


def test_impossible_convolutions_are_refused(key):
    x, weights = _inputs(key, frames=2)
    with pytest.raises(ValueError, match="needs at least 3"):
        conv.causal_conv3d(x, weights, front=0)
    with pytest.raises(ValueError, match="use 'reference' or 'stacked'"):
        conv.causal_conv3d(x, weights, implementation="fast")


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_have_inverses(key, block):
    x = jax.random.normal(key, (2, 4, 8, 16, 3))
    depth = conv.space_to_depth(x, block)
    sizes = [size // side for size, side in zip(x.shape[1:4], block, strict=True)]
    assert depth.shape == (2, *sizes, 3 * np.prod(block))
    np.testing.assert_array_equal(conv.depth_to_space(depth, block), x)
    waves = conv.block_cosine(x, block)
    assert waves.shape == depth.shape
    back = conv.block_cosine_inverse(waves, block)
    np.testing.assert_allclose(back, x, atol=1e-5)


def test_space_to_depth_orders_channels_as_the_block_then_the_colour():
    x = jnp.arange(2 * 2 * 4 * 3).reshape(2, 2, 4, 3).astype(jnp.float32)
    block = conv.space_to_depth(x, (2, 2, 2))[0, 0, 1]
    np.testing.assert_array_equal(block, np.asarray(x)[:, :, 2:4].reshape(-1))
    with pytest.raises(ValueError, match="4 is not a multiple of the block's 3"):
        conv.space_to_depth(x, (1, 1, 3))
    with pytest.raises(ValueError, match="3 channels are not a multiple of 2"):
        conv.depth_to_space(x, (2, 1, 1))


def test_first_cosine_coefficient_is_the_mean(key):
    x = jax.random.normal(key, (4, 8, 8, 3))
    waves = conv.block_cosine(x, (4, 4, 4))
    mean = conv.average_pool(x, (4, 4, 4))
    np.testing.assert_allclose(waves[..., :3], mean, atol=1e-6)
    flat = conv.block_cosine(jnp.ones((4, 8, 8, 3)), (4, 4, 4))
    np.testing.assert_allclose(flat[..., 3:], 0.0, atol=1e-5)


def test_average_undoes_repeat(key):
    x = jax.random.normal(key, (2, 3, 4, 5, 2))
    large = conv.repeat_nearest(x, (2, 3, 1))
    assert large.shape == (2, 6, 12, 5, 2)
    np.testing.assert_array_equal(large[:, ::2, ::3], x)
    np.testing.assert_allclose(conv.average_pool(large, (2, 3, 1)), x, rtol=1e-6)


@pytest.mark.parametrize("features", [2, 8])
def test_averages_and_duplicates_keep_constants_and_totals(key, features):
    x = jax.random.normal(key, (1, 4, 6, 8, 4))
    small = conv.average_down(x, (2, 2, 2), features=features)
    assert small.shape == (1, 2, 3, 4, features)
    np.testing.assert_allclose(jnp.mean(small), jnp.mean(x), atol=1e-6)
    large = conv.duplicate_up(small, (2, 2, 2), features=4)
    assert large.shape == x.shape
    np.testing.assert_allclose(jnp.mean(large), jnp.mean(x), atol=1e-6)
    np.testing.assert_allclose(
        conv.average_down(large, (2, 2, 2), features=features), small, atol=1e-6
    )


def test_values_that_do_not_average_or_repeat_are_refused(key):
    x = jax.random.normal(key, (1, 2, 2, 2, 3))
    with pytest.raises(ValueError, match="24 values do not average to 5 channels"):
        conv.average_down(x, (2, 2, 2), features=5)
    with pytest.raises(ValueError, match="3 channels do not repeat to 8 values"):
        conv.duplicate_up(x, (2, 2, 2), features=1)


@pytest.mark.parametrize("cosine", [True, False])
def test_blocks_of_chunks_are_blocks_of_the_whole(key, cosine):
    video = jax.random.normal(key, (1, 9, 4, 4, 3))
    whole = conv.to_blocks(video, (4, 2), cosine=cosine)
    first = conv.to_blocks(video[:, :5], (4, 2), cosine=cosine)
    later = conv.to_blocks(video[:, 5:], (4, 2), cosine=cosine, first=False)
    np.testing.assert_allclose(jnp.concatenate([first, later], 1), whole, atol=1e-6)
    back = [
        conv.from_blocks(first, (4, 2), cosine=cosine),
        conv.from_blocks(later, (4, 2), cosine=cosine, first=False),
    ]
    np.testing.assert_allclose(jnp.concatenate(back, 1), video, atol=1e-5)
