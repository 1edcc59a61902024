"""Adapters: nothing at first, the same merged and apart, and a frozen base."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from soraflax import sharding
from soraflax.nn import dit, lora
from soraflax.ops import packing, patch
from soraflax.pretrained import abstract
from soraflax.pretrained import io as model_io

SIZES = dataclasses.replace(dit.VARIANTS["tiny"], text=None, attention_block=32)
CONFIG = lora.LoraConfig(
    rank=3,
    alpha=5.0,
    targets=("stack/*/self_attention/*/kernel", "stack/*/mlp/*", "head/*"),
)


def rows():
    rng = np.random.default_rng(0)
    n, grid = 24, (2, 3, 4)
    segment = packing.Segment(
        tokens=rng.normal(size=(n, SIZES.patch_size)).astype(np.float32),
        positions=patch.positions(grid),
        cond_mask=np.arange(n) < 6,
        text=rng.normal(size=(5, SIZES.text_width)).astype(np.float32),
    )
    packed = packing.assemble([[segment], [segment]], packing.RowShape(32, 8, 1))
    levels = packing.level_table(jnp.asarray([[0.0, 0.6], [0.0, 0.9]]))
    return packed.replace(levels=levels)


def drawn(shapes, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda a: (0.3 * rng.normal(size=a.shape)).astype(np.float32), shapes
    )


@pytest.fixture(scope="module")
def boxed():
    module, packed = dit.DiT(SIZES), rows()
    return jax.eval_shape(module.init, jax.random.key(0), packed)["params"]


@pytest.fixture(scope="module")
def base(boxed):
    return drawn(meta.unbox(boxed), 1)


@pytest.fixture(scope="module")
def adapters(boxed):
    return drawn(meta.unbox(lora.shapes(boxed, CONFIG)), 2)


@pytest.fixture(scope="module")
def apply():
    return jax.jit(lambda params: dit.DiT(SIZES).apply({"params": params}, rows()))


def relative(a, b):
    return float(np.linalg.norm(np.subtract(a, b)) / np.linalg.norm(b))


def test_fresh_adapters_change_nothing(apply, boxed, base):
    mesh = sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])
    fresh, _ = lora.init(jax.random.key(0), boxed, config=CONFIG, mesh=mesh)
    np.testing.assert_array_equal(
        apply(lora.attach(base, fresh, config=CONFIG)), apply(base)
    )
    a = fresh["stack"]["blocks"]["mlp"]["up"][lora.A]
    assert abs(float(jnp.std(a)) * a.shape[-2] ** 0.5 - 1) < 0.2
    assert np.any(a[0] != a[1])


def test_apart_equals_merged(apply, base, adapters):
    merged = lora.merge(base, adapters, config=CONFIG)
    shapes = jax.tree.map(lambda a: (a.shape, a.dtype), base)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), merged) == shapes
    apart = apply(lora.attach(base, adapters, config=CONFIG))
    assert relative(apart, apply(merged)) <= 1e-5
    assert relative(apart, apply(base)) > 0.1


def test_a_merged_kernel_is_the_formula(base, adapters):
    def at(tree, name):
        return np.asarray(tree["stack"]["blocks"]["mlp"]["up"][name], np.float64)

    merged = at(lora.merge(base, adapters, config=CONFIG), "kernel")
    a, b = at(adapters, lora.A), at(adapters, lora.B)
    expected = at(base, "kernel") + 5 / 3 * np.stack([a[0] @ b[0], a[1] @ b[1]])
    np.testing.assert_allclose(merged, expected, atol=1e-6)


def test_every_adapter_learns_and_the_gradient_is_that_of_the_merged(base, adapters):
    weight = np.random.default_rng(3).normal(size=rows().tokens.shape)

    def loss(join):
        def total(adapters, base):
            params = join(base, adapters, config=CONFIG)
            out = dit.DiT(SIZES).apply({"params": params}, rows())
            return jnp.sum(out * weight.astype(np.float32))

        return jax.jit(jax.grad(total))(adapters, base)

    apart, merged = (model_io.flatten(loss(f)) for f in (lora.attach, lora.merge))
    for name, leaf in apart.items():
        assert np.any(leaf), name
        assert relative(leaf, merged[name]) <= 1e-4, name


def test_only_what_matches_is_adapted(boxed, adapters):
    actual = lora.targets(boxed, CONFIG)
    assert actual == lora.targets(meta.unbox(boxed), CONFIG)
    assert "head/out/kernel" in actual and "stack/blocks/mlp/up/kernel" in actual
    with_text = abstract.transformer_shapes(dit.VARIANTS["tiny"])
    assert lora.targets(with_text, CONFIG) == actual
    assert not any("cross_attention" in path for path in actual)
    layers = {name.rpartition("/")[0] for name in model_io.flatten(adapters)}
    assert layers == {name.removesuffix("/kernel") for name in actual}
    every = lora.targets(boxed, dataclasses.replace(CONFIG, rank=1, targets=("*",)))
    kernels = [n for n in model_io.flat_shapes(meta.unbox(boxed)) if "kernel" in n]
    assert every == sorted(kernels)


@pytest.mark.parametrize("name", sorted(dit.VARIANTS))
def test_every_variant_has_the_default_targets(name):
    config = dit.VARIANTS[name]
    shapes = abstract.transformer_shapes(config)
    actual = lora.targets(shapes, lora.LoraConfig())
    assert len(actual) == 8  # q, k, v, out of two attentions; layers are stacked


def test_adapters_are_sharded_as_their_kernels(boxed, base, adapters, apply):
    mesh = sharding.make_mesh(fsdp=2, tensor=2, devices=jax.devices()[:4])
    fresh, shardings = lora.init(jax.random.key(0), boxed, config=CONFIG, mesh=mesh)
    kernels = sharding.param_shardings(boxed, mesh)
    up, q = shardings["stack"]["blocks"]["mlp"]["up"], kernels["stack"]["blocks"]["mlp"]
    depth, rows_, columns = q["up"]["kernel"].spec
    assert tuple(up[lora.A].spec) == (depth, rows_, None)
    assert tuple(up[lora.B].spec) == (depth, None, columns)
    actual = jax.tree.map(lambda a: a.sharding, fresh)
    assert jax.tree.all(jax.tree.map(lambda a, b: a == b, actual, shardings))
    with jax.set_mesh(mesh):
        params = lora.attach(
            jax.device_put(base, kernels),
            jax.device_put(adapters, shardings),
            config=CONFIG,
        )
        out = apply(params)
    assert relative(out, apply(lora.attach(base, adapters, config=CONFIG))) <= 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "rank 0: use 1 or more"),
        ({"alpha": 0.0}, "alpha 0.0: use a number above 0"),
        ({"targets": ()}, "targets are empty"),
        (
            {"targets": ("stack/*/sel_attention/*",)},
            "matches no kernel; there are head",
        ),
        ({"targets": ("*/bias",)}, "matches no kernel"),
        ({"rank": 17}, "rank 17: head/out/kernel has 16 at most; use 16 or less"),
    ],
)
def test_impossible_adapters_are_refused(boxed, change, message):
    with pytest.raises(ValueError, match=message):
        lora.targets(boxed, dataclasses.replace(CONFIG, **change))


def test_adapters_of_another_model_are_refused(base, adapters):
    for join in (lora.attach, lora.merge):
        with pytest.raises(ValueError, match="there is no head/more/kernel"):
            more = {"head": {"more": adapters["head"]["out"]}}
            join(base, adapters | more, config=CONFIG)
        with pytest.raises(ValueError, match="come in pairs"):
            join(
                base,
                {"head": {"out": {lora.A: adapters["head"]["out"][lora.A]}}},
                config=CONFIG,
            )
        pair = adapters["head"]["out"]
        wide = {lora.A: pair[lora.A], lora.B: np.zeros((3, 17), np.float32)}
        with pytest.raises(ValueError, match=r"lora_b has shape \(3, 17\); head/out"):
            join(base, {"head": {"out": wide}}, config=CONFIG)
