"""Logits of patches: their number, what each of them sees, where parameters live."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from soraflax import sharding
from soraflax.nn import discriminator

TINY = discriminator.VARIANTS["tiny"]


@functools.cache
def _model(config=TINY):
    module = discriminator.Discriminator(config)
    example = jnp.zeros((1, 1, 8, 8, 3))
    params, _ = sharding.init(module, jax.random.key(0), example)
    return module, params


def _logits(video, config=TINY):
    module, params = _model(config)
    return jax.jit(module.apply)({"params": params}, video)


@pytest.mark.parametrize("name", discriminator.VARIANTS)
@pytest.mark.parametrize("sizes", [(1, 32, 32), (9, 32, 48), (5, 17, 33), (1, 1, 1)])
def test_shapes_of_clips_and_images(name, sizes):
    config = discriminator.VARIANTS[name]
    module = discriminator.Discriminator(config)
    video = jax.ShapeDtypeStruct((2, *sizes, 3), jnp.float32)
    logits, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), video)
    assert logits.shape == (2, *config.logit_grid(*sizes))
    assert logits.dtype == jnp.float32


def test_a_logit_depends_on_its_patch_alone(key):
    video = jax.random.normal(key, (1, 17, 48, 48, 3))
    module, params = _model()
    t, h, w = TINY.logit_grid(*video.shape[1:4])
    assert TINY.patch == (9, 18, 18)

    def middle(video):
        logits: Any = module.apply({"params": params}, video)
        return logits[0, t // 2, h // 2, w // 2]

    slope = jax.jit(jax.grad(middle))(video)[0].any(axis=-1)
    for axis, seen in enumerate(TINY.patch):
        others = tuple(a for a in range(3) if a != axis)
        actual = np.flatnonzero(np.asarray(slope).any(axis=others))
        assert np.ptp(actual) + 1 == seen


def test_later_frames_never_change_earlier_logits(key):
    video = jax.random.normal(key, (1, 9, 16, 16, 3))
    one, other = (_logits(v) for v in (video, video.at[:, 5:].add(1.0)))
    np.testing.assert_allclose(one[:, :3], other[:, :3], atol=1e-5)
    assert np.max(np.abs(one[:, 3] - other[:, 3])) > 1e-3


def test_logits_start_at_the_scale_of_the_hinge(key):
    config = discriminator.VARIANTS["base"]
    logits = _logits(jax.random.normal(key, (2, 9, 64, 64, 3)), config)
    assert 0.2 < np.sqrt(np.mean(np.square(logits))) < 2.0


@pytest.mark.parametrize(("side", "context"), [(96, 4), (64, 8), (64, 2)])
def test_a_split_side_changes_no_logit(side, context):
    """At 96 over 4 devices a piece of the last stage has no whole stride in it."""
    config = dataclasses.replace(discriminator.VARIANTS["base"], width=4)
    module = discriminator.Discriminator(config)
    video = jax.random.normal(jax.random.key(0), (1, 5, 16, side, 3))
    params, _ = sharding.init(module, jax.random.key(1), video)
    params = jax.device_get(params)
    expected = jax.jit(module.apply)({"params": params}, video)
    mesh = sharding.make_mesh(fsdp=1, context=context, devices=jax.devices()[:context])
    with jax.set_mesh(mesh):
        actual = jax.jit(module.apply)({"params": params}, video)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_parameters_are_sharded():
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    module = discriminator.Discriminator(TINY)
    with jax.set_mesh(mesh):
        params, _ = sharding.init(
            module, jax.random.key(0), jnp.zeros((4, 1, 8, 8, 3)), mesh=mesh
        )
    specs = jax.tree.map(lambda x: x.sharding.spec, params)
    assert specs["stage0"]["kernel"] == P(None, None, None, None, "tensor")
    assert specs["stage1"]["kernel"] == P(None, None, None, "fsdp", "tensor")
    assert specs["logits"]["kernel"] == P(None, None, None, "fsdp", None)


@pytest.mark.parametrize("name", discriminator.VARIANTS)
def test_layers_count_its_parameters(name):
    config = discriminator.VARIANTS[name]
    module = discriminator.Discriminator(config)
    video = jax.ShapeDtypeStruct((1, 5, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), video)
    layers = list(discriminator.layers(config, video.shape[1:4]))
    assert sum(layer.parameters for layer in layers) == sum(
        leaf.size for leaf in jax.tree.leaves(shapes)
    )
    assert layers[-1].positions == np.prod(config.logit_grid(*video.shape[1:4]))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"width": 0}, "must be positive"),
        ({"multipliers": ()}, "must be positive"),
        ({"multipliers": (1, 2)}, "temporal has 3 flags for 2 stages: give 2"),
    ],
)
def test_impossible_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        discriminator.DiscriminatorConfig(**sizes)
