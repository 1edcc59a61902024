"""Causal in time, the same by any road, sharded as on one device.

`tests/golden/autoencoder_partition_specs.json` holds the PartitionSpec of every
parameter of the tiny model. Regenerate it when a parameter is added, renamed or
deliberately sharded otherwise, and read the difference:

    REGENERATE_GOLDEN=1 python -m pytest tests/nn/test_autoencoder.py -k golden
"""

import dataclasses
import functools
import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from jax.sharding import PartitionSpec as P

from soraflax import sharding
from soraflax.nn import autoencoder

GOLDEN = (
    pathlib.Path(__file__).parents[1] / "golden" / "autoencoder_partition_specs.json"
)
TINY = autoencoder.VARIANTS["tiny"]
WAN = autoencoder.AutoencoderConfig(
    latent_channels=4, width=8, multipliers=(1, 1, 1, 1), blocks=1
)
SMALL = dataclasses.replace(autoencoder.VARIANTS["small"], width=32)
CONFIGS = {"tiny": TINY, "wan": WAN, "small": SMALL}


@functools.cache
def _model(config, *, frames=9, size=(16, 24)):
    """A module with every parameter random: no convolution that starts at zero."""
    module = autoencoder.Autoencoder(config)
    rng = np.random.default_rng(0)
    video = rng.uniform(-1.0, 1.0, (2, frames, *size, 3)).astype(np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), video[:1, :1])["params"]

    def value(leaf):
        scale = max(np.prod(leaf.shape[:-1]), 1) ** -0.5
        return jnp.asarray(rng.normal(0.0, scale, leaf.shape), jnp.float32)

    return module, jax.tree.map(value, meta.unbox(shapes)), jnp.asarray(video)


@functools.partial(jax.jit, static_argnums=0)
def _encode(module, params, video):
    return module.apply({"params": params}, video, method="encode")[0]


@functools.partial(jax.jit, static_argnums=0)
def _decode(module, params, latent):
    return module.apply({"params": params}, latent, method="decode")


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_follow_the_grid(name):
    config = CONFIGS[name]
    module = autoencoder.Autoencoder(config)
    for frames, height, width in [(1, 16, 24), (5, 16, 16), (17, 24, 16)]:
        video = jax.ShapeDtypeStruct((2, frames, height, width, 3), jnp.float32)
        result = jax.eval_shape(
            lambda v, key: module.init_with_output(key, v, key)[0],
            video,
            jax.random.key(0),
        )
        grid = config.latent_grid(frames, height, width)
        assert grid == (1 + (frames - 1) // 4, height // 8, width // 8)
        assert result.mean.shape == (2, *grid, config.latent_channels)
        assert result.log_variance.shape == result.mean.shape
        assert result.video.shape == video.shape
        assert config.video_shape(*grid) == video.shape[1:4]


@pytest.mark.parametrize("name", CONFIGS)
def test_later_frames_never_change_earlier_latents(name):
    module, params, video = _model(CONFIGS[name])
    latent = _encode(module, params, video)
    other = _encode(module, params, video.at[:, 5:].add(1.0))
    np.testing.assert_allclose(other[:, :2], latent[:, :2], atol=1e-5)
    assert np.max(np.abs(other[:, 2] - latent[:, 2])) > 1e-3

    def early(video):
        return jnp.sum(jnp.square(_encode(module, params, video)[:, :2]))

    assert np.all(jax.jit(jax.grad(early))(video)[:, 5:] == 0.0)


@pytest.mark.parametrize("name", CONFIGS)
def test_later_latents_never_change_earlier_frames(name):
    config = CONFIGS[name]
    module, params, _ = _model(config)
    latent = jax.random.normal(jax.random.key(3), (1, 3, 2, 2, config.latent_channels))

    def early(latent):
        return jnp.sum(jnp.square(_decode(module, params, latent)[:, :5]))

    gradient = jax.jit(jax.grad(early))(latent)
    assert np.all(gradient[:, 2:] == 0.0)
    assert np.all(np.any(gradient[:, :2] != 0.0, axis=(2, 3, 4)))


@pytest.mark.parametrize("name", CONFIGS)
def test_an_image_is_the_first_frame_of_a_video(name):
    module, params, video = _model(CONFIGS[name])
    latent = _encode(module, params, video)
    image = _encode(module, params, video[:, :1])
    np.testing.assert_allclose(image, latent[:, :1], atol=1e-5)
    frames = _decode(module, params, latent)
    frame = _decode(module, params, image)
    np.testing.assert_allclose(frame, frames[:, :1], atol=1e-4)


def test_wan_shape_has_its_published_number_of_parameters():
    module = autoencoder.Autoencoder(autoencoder.VARIANTS["wan2_1"])
    video = jax.ShapeDtypeStruct((1, 1, 16, 16, 3), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), video)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 126_892_531


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((80, 64, 64), "80 frames: use 77 or 81"),
        ((17, 97, 64), "97 pixels: use 96 or 104"),
        ((17, 64, 1), "1 pixels: use 8"),
        ((0, 64, 64), "0 frames: use 1"),
    ],
)
def test_sizes_off_the_grid_are_refused(sizes, message):
    config = autoencoder.VARIANTS["small"]
    with pytest.raises(ValueError, match=message):
        config.latent_grid(*sizes)
    module = autoencoder.Autoencoder(config)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *sizes, 3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multipliers": (1, 2)}, "3 flags for 2 stages: give 1"),
        ({"latent_channels": 0}, "must be positive"),
        ({"width": 3, "multipliers": (1, 1, 1, 1)}, "3 channels do not halve: use 4"),
        ({"remat": "some"}, "known: 'none', 'full'"),
        ({"dtype": "half"}, "known: 'float32', 'bfloat16'"),
        ({"convolution": "fast"}, "known: None, 'reference', 'stacked'"),
    ],
)
def test_impossible_configs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        autoencoder.AutoencoderConfig(**change)


def test_linear_path_starts_as_the_lowest_frequencies():
    config = autoencoder.VARIANTS["small"]
    module = autoencoder.Autoencoder(config)
    params, _ = sharding.init(module, jax.random.key(0), jnp.zeros((1, 1, 8, 8, 3)))
    x = jnp.linspace(-1.0, 1.0, 32)
    ramp = jnp.broadcast_to(x[None, None, :, None, None], (1, 5, 32, 16, 3))
    result = jax.jit(module.apply)({"params": params}, ramp)
    assert np.max(np.abs(result.video - ramp)) < 0.1
    np.testing.assert_allclose(result.log_variance, autoencoder.LINEAR_LOG_VARIANCE)


def test_remat_changes_nothing():
    module, params, video = _model(SMALL)
    saved = autoencoder.Autoencoder(dataclasses.replace(SMALL, remat="full"))

    @functools.partial(jax.jit, static_argnums=1)
    @functools.partial(jax.grad, argnums=0)
    def gradient(params, module):
        return jnp.sum(jnp.square(module.apply({"params": params}, video).video))

    first, second = (gradient(params, m) for m in (module, saved))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-3),
        first,
        second,
    )


def test_bfloat16_computes_near_float32():
    module, params, video = _model(SMALL)
    half = autoencoder.Autoencoder(dataclasses.replace(SMALL, dtype="bfloat16"))
    full = _encode(module, params, video)
    latent = _encode(half, params, video)
    assert latent.dtype == jnp.float32
    assert np.mean(np.abs(latent - full)) < 0.05 * np.mean(np.abs(full))


def _boxed_shapes(module):
    video = jax.ShapeDtypeStruct((1, 5, 8, 8, 3), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), video)["params"]


@pytest.mark.parametrize("axis", ["data", "context"])
def test_sharded_equals_one_device_outputs_and_gradients(axis):
    module, params, _ = _model(TINY)
    first, second = jax.random.split(jax.random.key(4))
    video = jax.random.normal(first, (4, 5, 8, 8 if axis == "data" else 16, 3))
    weight = jax.random.normal(second, video.shape)

    def total(params, video, weight):
        result: Any = module.apply({"params": params}, video)
        return jnp.sum(result.video * weight) + jnp.sum(result.log_variance), result

    gradient = jax.grad(total, has_aux=True)
    expected = jax.jit(gradient)(params, video, weight)
    mesh = sharding.make_mesh(**{axis: 2}, fsdp=2, tensor=2)
    shardings = sharding.param_shardings(_boxed_shapes(module), mesh)
    rows = sharding.batch_sharding(mesh)
    step = jax.jit(gradient, out_shardings=(shardings, None))
    with jax.set_mesh(mesh):
        actual = step(
            jax.device_put(params, shardings),
            jax.device_put(video, rows),
            jax.device_put(weight, rows),
        )
    kernel = actual[0]["decoder"]["middle"]["block1"]["conv1"]["kernel"]
    fsdp = "fsdp" if axis == "data" else ("fsdp", "context")
    assert kernel.sharding.spec == P(None, None, None, fsdp, "tensor")
    shards = 4 if axis == "data" else 8
    assert kernel.addressable_shards[0].data.size * shards == kernel.size
    if axis == "data":
        assert actual[1].video.sharding.is_equivalent_to(rows, 5)

    def check(path, a, b):
        error = np.linalg.norm(np.subtract(a, b)) / np.linalg.norm(b)
        assert error <= 1e-4, (jax.tree_util.keystr(path), error)

    jax.tree_util.tree_map_with_path(check, jax.device_get(actual), expected)


@pytest.mark.parametrize("size", [(32, 16), (16, 64)])
def test_a_split_side_exchanges_halos_and_gathers_nothing(size):
    config = dataclasses.replace(WAN, attention=False)
    module, params, _ = _model(config)
    video = jax.random.normal(jax.random.key(5), (2, 5, *size, 3))

    def total(params, video):
        result: Any = module.apply({"params": params}, video)
        return jnp.sum(jnp.square(result.video)), result.mean

    gradient = jax.grad(total, has_aux=True)
    expected = jax.jit(gradient)(params, video)
    devices = jax.devices()[:2]
    mesh = sharding.make_mesh(fsdp=1, context=2, devices=devices)
    with jax.set_mesh(mesh):
        step = jax.jit(gradient).lower(params, video).compile()
        text, actual = step.as_text(), step(params, video)
    assert text is not None
    assert "collective-permute" in text and "all-gather" not in text
    assert actual[1].addressable_shards[0].data.size * 2 == actual[1].size
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(b)


@pytest.mark.parametrize("size", [(1080, 1920), (1920, 1080)])
def test_high_definition_splits_over_eight_devices(size):
    module = autoencoder.Autoencoder(autoencoder.VARIANTS["wan2_1"])
    video = jax.ShapeDtypeStruct((1, 5, *size, 3), jnp.float32)
    with jax.set_mesh(sharding.make_mesh(fsdp=1, context=8)):
        result = jax.eval_shape(
            lambda v: module.init_with_output(jax.random.key(0), v)[0], video
        )
    assert result.mean.shape == (1, 2, size[0] // 8, size[1] // 8, 16)
    assert result.video.shape == video.shape


def test_a_side_that_splits_inside_a_cell_is_refused():
    module, params, _ = _model(TINY)
    with (
        jax.set_mesh(sharding.make_mesh(fsdp=1, data=4, context=2)),
        pytest.raises(ValueError, match="3 latent cells does not divide over 2"),
    ):
        module.apply({"params": params}, jnp.zeros((4, 1, 16, 24, 3)))


def test_a_later_chunk_needs_a_stream():
    module, params, _ = _model(TINY)
    with pytest.raises(ValueError, match="make 'stream' mutable"):
        module.apply(
            {"params": params}, jnp.zeros((1, 4, 8, 8, 3)), first=False, method="encode"
        )


def test_partition_specs_match_golden():
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    boxed = _boxed_shapes(autoencoder.Autoencoder(TINY))
    actual = {
        "/".join(part.key for part in path): str(leaf.spec)
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            sharding.param_shardings(boxed, mesh)
        )
    }
    if os.environ.get("REGENERATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(actual, indent=2, sort_keys=True) + "\n")
    assert actual == json.loads(GOLDEN.read_text())


def test_width_that_does_not_divide_is_refused():
    config = dataclasses.replace(TINY, width=18)
    mesh = sharding.make_mesh(fsdp=2, tensor=4)
    with pytest.raises(ValueError, match="size 18 does not divide over 4 shards"):
        sharding.init(
            autoencoder.Autoencoder(config),
            jax.random.key(0),
            jnp.zeros((2, 1, 8, 8, 3)),
            mesh=mesh,
        )


def test_latent_statistics_of_batches_equal_those_of_the_whole():
    rng = np.random.default_rng(0)
    latents = [rng.normal(2.0, 3.0, (t, 4, 5, 6)).astype(np.float32) for t in (1, 3)]
    statistics = autoencoder.latent_statistics(latents)
    whole = np.concatenate(latents).reshape(-1, 6)
    np.testing.assert_allclose(statistics.mean, whole.mean(0), rtol=1e-5)
    np.testing.assert_allclose(statistics.std, whole.std(0), rtol=1e-5)
    normal = statistics.normalize(whole)
    np.testing.assert_allclose(normal.std(0), 1.0, rtol=1e-5)
    np.testing.assert_allclose(statistics.denormalize(normal), whole, rtol=1e-5)
    with pytest.raises(ValueError, match="no latents"):
        autoencoder.latent_statistics([])
    with pytest.raises(ValueError, match="does not vary"):
        autoencoder.latent_statistics([np.zeros((2, 3))])
