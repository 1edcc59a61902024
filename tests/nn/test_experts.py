"""Two experts: each segment is denoised by the one of its level, and nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax import flops, sharding
from soraflax.nn import dit, experts
from soraflax.ops import packing, patch
from soraflax.pretrained import abstract

SIZES = dataclasses.replace(
    dit.VARIANTS["tiny"], text=None, depth=1, attention_block=32
)
FORM = experts.ExpertsConfig(SIZES, 0.5)
SHAPE = packing.RowShape(tokens=48, text=8, segments=3)
ROWS = 2


def segment(rng, grid):
    n = int(np.prod(grid))
    return packing.Segment(
        tokens=rng.normal(size=(n, SIZES.patch_size)).astype(np.float32),
        positions=patch.positions(grid),
        cond_mask=np.arange(n) < n // 3,
        text=rng.normal(size=(2, SIZES.text_width)).astype(np.float32),
    )


def rows(levels):
    """`levels[row][segment]`."""
    rng = np.random.default_rng(0)
    grids = [(3, 2, 2), (1, 3, 4), (4, 1, 3)]
    segments = [[segment(rng, grids[at]) for at in range(len(row))] for row in levels]
    packed = packing.assemble(segments, SHAPE)
    table = np.zeros((ROWS, SHAPE.segments + 1), np.float32)
    for index, row in enumerate(levels):
        table[index, 1 : len(row) + 1] = row
    return packed.replace(levels=packing.level_table(jnp.asarray(table)))


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(1)
    shapes = abstract.transformer_shapes(SIZES)
    return {
        name: jax.tree.map(
            lambda a: (0.3 * rng.normal(size=a.shape)).astype(np.float32), shapes
        )
        for name in experts.NAMES
    }


@pytest.fixture(scope="module")
def predict():
    return jax.jit(lambda params, packed: experts.predict(params, packed, config=FORM))


@pytest.fixture(scope="module")
def apart(params):
    apply = jax.jit(
        lambda params, packed: dit.DiT(SIZES).apply({"params": params}, packed)
    )
    return lambda packed: {name: apply(params[name], packed) for name in experts.NAMES}


@pytest.mark.parametrize(
    "levels",
    [
        [[0.9, 0.2, 0.7], [0.1, 0.5]],
        [[0.9, 0.8, 0.7], [0.6, 0.5]],
        [[0.4, 0.3, 0.2], [0.1, 0.0]],
    ],
    ids=["both", "high", "low"],
)
def test_each_segment_has_the_expert_of_its_level(predict, apart, params, levels):
    packed = rows(levels)
    actual, one = predict(params, packed), apart(packed)
    for r, row in enumerate(levels):
        for s, level in enumerate(row, start=1):
            mine = packed.segments[r] == s
            assert (
                packed.cond_mask[r][mine].any() and not packed.cond_mask[r][mine].all()
            )
            name = "high" if level >= 0.5 else "low"
            other = "low" if level >= 0.5 else "high"
            np.testing.assert_allclose(actual[r][mine], one[name][r][mine], atol=1e-5)
            assert np.abs(actual[r][mine] - one[other][r][mine]).max() > 1e-2
    assert not np.any(actual[packed.segments == 0])


@pytest.mark.parametrize(
    ("levels", "used"), [([[0.9, 0.8], [0.6]], "high"), ([[0.4], [0.1, 0.2]], "low")]
)
def test_the_other_expert_does_not_run(predict, params, levels, used):
    """Whatever it holds reaches nothing, and it learns nothing."""
    (unused,) = set(experts.NAMES) - {used}
    broken = params | {unused: jax.tree.map(lambda a: np.nan * a, params[unused])}
    packed = rows(levels)
    np.testing.assert_array_equal(predict(broken, packed), predict(params, packed))
    grads = jax.grad(lambda p: jnp.sum(predict(p, packed)))(params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads[unused]))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(grads[used]))


def test_both_experts_go_around_the_same_blocks(params):
    packed = rows([[0.9, 0.2, 0.7], [0.1, 0.5]])
    config = experts.ExpertsConfig(SIZES, 0.5)
    predict = jax.jit(
        lambda kept: experts.predict(params, packed, config=config, kept=kept)
    )
    kept = np.ones((2, SIZES.depth), bool)
    whole = predict(jnp.asarray(kept))
    kept[1, 0] = False
    fewer = predict(jnp.asarray(kept))
    np.testing.assert_array_equal(fewer[0], whole[0])
    assert np.abs(fewer[1] - whole[1]).max() > 1e-2


def test_a_mesh_changes_nothing(predict, params):
    packed = rows([[0.9, 0.2, 0.7], [0.1, 0.5]])
    mesh = sharding.make_mesh(fsdp=2, tensor=2, devices=jax.devices()[:4])
    shardings = dict.fromkeys(
        experts.NAMES, abstract.transformer_shardings(SIZES, mesh)
    )
    with jax.set_mesh(mesh):
        actual = predict(
            jax.device_put(params, shardings),
            jax.device_put(packed, sharding.batch_sharding(mesh)),
        )
    np.testing.assert_allclose(actual, predict(params, packed), atol=1e-4)


def test_the_published_pair():
    form = experts.VARIANTS["wan2_2_t2v_a14b"]
    assert form.boundary == 0.875
    assert form.transformer == dit.VARIANTS["wan2_1_t2v_14b"]
    assert 2 * flops.transformer_parameters(form.transformer) == 28_576_983_168


@pytest.mark.parametrize("boundary", [0.0, 1.0, -1.0])
def test_an_impossible_boundary_is_refused(boundary):
    with pytest.raises(ValueError, match="use one between 0 and 1"):
        experts.ExpertsConfig(SIZES, boundary)
