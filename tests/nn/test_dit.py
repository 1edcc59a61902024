"""Packed rows compute what their clips compute alone; sharded equals one device.

`tests/golden/partition_specs.json` holds the PartitionSpec of every parameter of the
tiny model. Regenerate it when a parameter is added, renamed or deliberately sharded
otherwise, and read the difference:

    REGENERATE_GOLDEN=1 python -m pytest tests/nn/test_dit.py -k golden
"""

import dataclasses
import functools
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from jax.sharding import PartitionSpec as P

from soraflax import sharding
from soraflax.nn import dit, transformer
from soraflax.ops import attention, packing, patch

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "partition_specs.json"
TINY = dataclasses.replace(
    dit.VARIANTS["tiny"],
    attention="blocks",
    attention_block=32,
    qk_bias_init=1.0,
    input_skip=True,
    pooled_text=True,
)
SHAPE = packing.RowShape(tokens=96, text=32, segments=5)
# Six rows in every batch, some of them empty: everything compiles once.
ROWS = 6
QUICK = {"xla_backend_optimization_level": 0}
# Images and clips, (time, height, width) in patches.
GRIDS = [(1, 4, 4), (3, 2, 4), (1, 2, 3), (2, 5, 2), (4, 2, 2), (1, 1, 1)]


def random_segment(rng, *, grid=None, config=TINY):
    grid = grid or GRIDS[rng.integers(len(GRIDS))]
    n = int(np.prod(grid))
    return packing.Segment(
        tokens=rng.normal(size=(n, config.patch_size)).astype(np.float32),
        positions=patch.positions(grid, time_step=float(rng.choice([0.5, 1.0, 2.0]))),
        cond_mask=np.arange(n) < rng.integers(n + 1) // 2,
        text=rng.integers(1, 1024, size=rng.integers(1, 7)).astype(np.int32),
    )


def random_rows(rng, *, rows=2, segments=3):
    return [[random_segment(rng) for _ in range(segments)] for _ in range(rows)]


def pack(rows, levels, *, shape=SHAPE):
    """`levels[row][segment]`, the noise level of every segment."""
    packed = packing.assemble([*rows, *[[]] * (ROWS - len(rows))], shape)
    table = np.zeros((ROWS, shape.segments + 1), np.float32)
    for index, row in enumerate(levels):
        table[index, 1 : len(row) + 1] = row
    return packed.replace(levels=np.asarray(packing.level_table(jnp.asarray(table))))


def boxed_shapes(model, packed):
    return jax.eval_shape(model.init, jax.random.key(0), packed)["params"]


def random_params(model, packed, rng):
    """No parameter at its initial zero, so that every path carries signal."""

    def draw(leaf):
        return (0.2 * rng.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree.map(draw, meta.unbox(boxed_shapes(model, packed)))


@pytest.fixture(scope="module")
def model():
    return dit.DiT(TINY)


@pytest.fixture(scope="module")
def params(model):
    rng = np.random.default_rng(0)
    return random_params(model, pack(random_rows(rng), [[1.0]] * 2), rng)


def jit_apply(model):
    return jax.jit(
        lambda params, packed: model.apply({"params": params}, packed),
        compiler_options=QUICK,
    )


def jit_gradient(model):
    """Of a weighted sum of outputs, by the parameters."""

    def total(params, packed, weight):
        return jnp.sum(model.apply({"params": params}, packed) * weight)

    return jax.jit(jax.grad(total), compiler_options=QUICK)


@pytest.fixture(scope="module")
def apply(model):
    return jit_apply(model)


@pytest.fixture(scope="module")
def gradient(model):
    return jit_gradient(model)


def relative(a, b):
    return float(np.linalg.norm(np.subtract(a, b)) / np.linalg.norm(b))


def assert_close(tree, expected, *, tolerance=1e-5):
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected):
        actual = tree
        for part in path:
            actual = actual[part.key]
        error = relative(actual, leaf)
        assert error <= tolerance, (jax.tree_util.keystr(path), error)


@pytest.mark.parametrize("seed", range(3))
def test_packed_equals_unpacked_outputs_and_gradients(apply, gradient, params, seed):
    rng = np.random.default_rng(seed)
    rows = random_rows(rng)
    levels = rng.uniform(size=(2, 3)).astype(np.float32)
    slices = packing.segment_slices(rows, SHAPE)
    packed = pack(rows, levels)
    alone = pack([[s] for row in rows for s in row], levels.reshape(-1, 1))
    weight = rng.normal(size=packed.tokens.shape).astype(np.float32)
    weight_alone = np.zeros_like(weight)
    weight *= packed.segments[..., None] > 0
    out, out_alone = apply(params, packed), apply(params, alone)
    for r in range(2):
        for s, piece in enumerate(slices[r]):
            n, index = piece.stop - piece.start, 3 * r + s
            assert relative(out[r, piece], out_alone[index, :n]) <= 1e-5
            weight_alone[index, :n] = weight[r, piece]
    assert_close(
        gradient(params, packed, weight),
        gradient(params, alone, weight_alone),
    )


def test_changing_one_segment_changes_no_other(apply, params):
    rng = np.random.default_rng(3)
    rows = random_rows(rng, rows=1)
    changed = random_segment(rng, grid=(1, 1, len(rows[0][1])))
    changed = dataclasses.replace(
        changed, text=np.flip(rows[0][1].text).copy() % 1000 + 1
    )
    before = apply(params, pack(rows, [[0.3, 0.6, 0.9]]))[0]
    rows[0][1] = changed
    after = apply(params, pack(rows, [[0.3, 0.1, 0.9]]))[0]
    first, second, third = packing.segment_slices(rows, SHAPE)[0]
    np.testing.assert_array_equal(before[first], after[first])
    np.testing.assert_array_equal(before[third], after[third])
    assert relative(after[second], before[second]) > 0.1


@pytest.mark.parametrize("garbage", [1e3, np.nan])
def test_padding_is_irrelevant(apply, gradient, params, garbage):
    rng = np.random.default_rng(4)
    packed = pack(random_rows(rng), rng.uniform(size=(2, 3)))
    pad, text_pad = packed.segments == 0, packed.text_segments == 0
    dirty = packed.replace(
        tokens=np.where(pad[..., None], np.float32(garbage), packed.tokens),
        positions=np.where(pad[..., None], np.float32(garbage), packed.positions),
        level_ids=np.where(pad, 7, packed.level_ids).astype(np.int32),
        text=np.where(text_pad, 999, packed.text).astype(np.int32),
    )
    weight = np.where(pad[..., None], 0, 1).astype(np.float32)
    np.testing.assert_array_equal(apply(params, packed), apply(params, dirty))
    assert_close(
        gradient(params, dirty, weight),
        gradient(params, packed, weight),
        tolerance=1e-6,
    )


def test_only_differences_of_positions_matter(apply, params):
    rng = np.random.default_rng(5)
    packed = pack(random_rows(rng), rng.uniform(size=(2, 3)))
    moved = packed.replace(positions=packed.positions + np.float32([3.0, 2.0, 5.0]))
    stretched = packed.replace(positions=packed.positions * np.float32(2))
    expected = apply(params, packed)
    assert relative(apply(params, moved), expected) <= 1e-4
    assert relative(apply(params, stretched), expected) > 1e-3


def test_known_tokens_have_their_own_modulation(apply, params):
    rng = np.random.default_rng(6)
    one = random_segment(rng, grid=(1, 1, 1))
    rows = [[dataclasses.replace(one, cond_mask=np.array([k]))] for k in (True, False)]
    packed = pack(rows, [[0.7], [0.7]])

    def out(column, level):
        levels = packed.levels.copy()
        levels[:, column] = level
        return np.asarray(apply(params, packed.replace(levels=levels)))[:2, 0]

    known, denoised = out(0, 0.0)
    assert relative(known, denoised) > 1e-3
    np.testing.assert_allclose(*out(2, 0.0), rtol=1e-5)
    # Row 0 reads entry 3 of its table, the level of what is known; row 1 entry 2.
    moved = np.array([np.any(out(c, 0.9) != out(0, 0.0), axis=1) for c in range(12)])
    expected = np.zeros_like(moved)
    expected[3, 0] = expected[2, 1] = True
    np.testing.assert_array_equal(moved, expected)


def test_text_reaches_its_own_segment_only(apply, params):
    rng = np.random.default_rng(7)
    rows = random_rows(rng, rows=1)
    packed = pack(rows, [[0.5, 0.5, 0.5]])
    text = np.where(packed.text_segments == 2, packed.text % 1000 + 1, packed.text)
    before = apply(params, packed)[0]
    after = apply(params, packed.replace(text=text))[0]
    changed = np.any(np.asarray(before != after), axis=-1)
    np.testing.assert_array_equal(changed, packed.segments[0] == 2)


def test_starts_at_zero_and_every_parameter_learns(model, apply, gradient, params):
    rng = np.random.default_rng(8)
    packed = pack(random_rows(rng), rng.uniform(size=(2, 3)))
    fresh, _ = sharding.init(model, jax.random.key(0), packed)
    assert not np.any(apply(fresh, packed))
    weight = np.ones(packed.tokens.shape, np.float32)
    for path, leaf in jax.tree_util.tree_leaves_with_path(
        gradient(params, packed, weight)
    ):
        assert np.all(np.isfinite(leaf)), jax.tree_util.keystr(path)
        assert np.any(leaf), jax.tree_util.keystr(path)


@pytest.fixture(scope="module")
def features():
    """A batch whose text is features, and its model: without a text encoder."""
    rng = np.random.default_rng(9)
    packed = pack(random_rows(rng), rng.uniform(size=(2, 3)))
    shape = (ROWS, SHAPE.text, TINY.text_width)
    packed = packed.replace(text=rng.normal(size=shape).astype(np.float32))
    weight = rng.normal(size=packed.tokens.shape).astype(np.float32)
    return packed, weight, dataclasses.replace(TINY, text=None)


@pytest.fixture(scope="module")
def feature_params(params):
    return {k: v for k, v in params.items() if k != "text_encoder"}


@pytest.fixture(scope="module")
def feature_gradient(features, feature_params):
    packed, weight, config = features
    return jit_gradient(dit.DiT(config))(feature_params, packed, weight)


@pytest.mark.parametrize(
    "policy", [p for p in transformer.REMAT_POLICIES if p != "none"]
)
def test_remat_policies_agree(features, feature_params, feature_gradient, policy):
    packed, weight, config = features
    other = dit.DiT(dataclasses.replace(config, remat=policy))
    actual = jit_gradient(other)(feature_params, packed, weight)
    assert_close(actual, feature_gradient, tolerance=1e-6)


def test_plans_made_outside_are_the_same(model, apply, params):
    rng = np.random.default_rng(10)
    packed = pack(random_rows(rng), rng.uniform(size=(2, 3)))
    plans = dit.make_plans(packed, TINY)
    out = jax.jit(
        lambda p, x, plans: model.apply({"params": p}, x, plans=plans),
        compiler_options=QUICK,
    )
    np.testing.assert_array_equal(out(params, packed, plans), apply(params, packed))


def test_bfloat16_is_close_and_returns_float32(apply, params):
    rng = np.random.default_rng(11)
    packed = pack(random_rows(rng), rng.uniform(size=(2, 3)))
    half = dit.DiT(dataclasses.replace(TINY, dtype="bfloat16"))
    out = jit_apply(half)(params, packed)
    assert out.dtype == jnp.float32
    assert relative(out, apply(params, packed)) < 0.05


def test_text_of_the_wrong_kind_is_refused(features, feature_params):
    packed, _, config = features
    variables, ids = {"params": feature_params}, packed.text[..., 0].astype(np.int32)
    narrow = packed.replace(text=packed.text[..., :15])
    with pytest.raises(ValueError, match=r"no text encoder.* width 16"):
        dit.DiT(config).apply(variables, packed.replace(text=ids))
    with pytest.raises(ValueError, match=r"width 15.*takes 16"):
        dit.DiT(config).apply(variables, narrow)


def test_sharded_equals_one_device(model, apply, gradient, params):
    rng = np.random.default_rng(13)
    packed = pack(random_rows(rng, rows=4), rng.uniform(size=(4, 3)))
    packed = jax.tree.map(lambda x: x[:4], packed)
    weight = rng.normal(size=packed.tokens.shape).astype(np.float32)
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    shardings = sharding.param_shardings(boxed_shapes(model, packed), mesh)
    rows = sharding.batch_sharding(mesh)

    def total(params, packed):
        out = model.apply({"params": params}, packed)
        return jnp.sum(out * weight), out

    step = jax.jit(
        jax.grad(total, has_aux=True),
        in_shardings=(shardings, rows),
        out_shardings=(shardings, None),
        compiler_options=QUICK,
    )
    with jax.set_mesh(mesh):
        actual, out = step(
            jax.device_put(params, shardings), jax.device_put(packed, rows)
        )
    # The module's own constraint, not the jit's.
    assert out.sharding.spec == P(("data", "fsdp"))
    assert out.addressable_shards[0].data.shape == (1, *out.shape[1:])
    assert relative(out, apply(params, packed)) <= 1e-5
    assert_close(jax.device_get(actual), gradient(params, packed, weight))
    kernel = actual["stack"]["blocks"]["mlp"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 4 == kernel.size


def test_split_tokens_equal_one_device(model, apply, gradient, params):
    """Eight devices share every row, four heads: four trade heads, two form a ring."""
    rng = np.random.default_rng(14)
    packed = pack(random_rows(rng), rng.uniform(size=(2, 3)))
    weight = rng.normal(size=packed.tokens.shape).astype(np.float32)
    order = packing.stripe_order(SHAPE.tokens, shards=2, block=32)
    with jax.set_mesh(sharding.make_mesh(fsdp=1, context=8)):
        assert attention.ring_shards(TINY.heads) == 2
        dealt = packing.stripe(packed, shards=2, block=32)
        out = jit_apply(model)(params, dealt)
        actual = jit_gradient(model)(params, dealt, weight[:, order])
    assert out.addressable_shards[0].data.shape == (ROWS, 12, out.shape[2])
    assert relative(out, apply(params, packed)[:, order]) <= 1e-5
    expected = gradient(params, packed, weight)
    assert_close(jax.device_get(actual), expected, tolerance=5e-5)


def test_the_skip_adds_tokens_times_the_gain_of_their_level(apply, params):
    packed = pack(random_rows(np.random.default_rng(5)), [[0.2, 0.5, 0.9]] * 2)
    with_gain = apply(params, packed)
    no_gain = jax.tree.map(np.zeros_like, params["head"]["gain"])
    without = apply(params | {"head": params["head"] | {"gain": no_gain}}, packed)
    added = np.asarray(with_gain - without)
    tokens, gains = np.asarray(packed.tokens), []
    for row, level in [(0, 2), (0, 4), (0, 6), (1, 2)]:
        same = (np.arange(ROWS)[:, None] == row) & (packed.level_ids == level)
        gain = np.sum(added[same] * tokens[same], 0) / np.sum(tokens[same] ** 2, 0)
        np.testing.assert_allclose(added[same], gain * tokens[same], atol=1e-4)
        gains.append(gain)
    assert np.ptp(gains, axis=0).max() > 0.01


def test_partition_specs_match_golden(model):
    rng = np.random.default_rng(0)
    packed = pack(random_rows(rng), [[1.0]] * 2)
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    shardings = sharding.param_shardings(boxed_shapes(model, packed), mesh)
    actual = {
        "/".join(part.key for part in path): str(leaf.spec)
        for path, leaf in jax.tree_util.tree_leaves_with_path(shardings)
    }
    if os.environ.get("REGENERATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(actual, indent=2, sort_keys=True) + "\n")
    assert actual == json.loads(GOLDEN.read_text())


def count(config):
    packed = packing.Packed.shapes(
        packing.RowShape(tokens=16, text=8, segments=1),
        patch_size=config.patch_size,
        text_width=None if config.text else config.text_width,
    )
    tree = jax.eval_shape(dit.DiT(config).init, jax.random.key(0), packed)
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("tiny", 58_944),
        ("small", 4_460_288),
        ("wan2_1_t2v_1_3b", 1_418_996_800),
        ("wan2_1_t2v_14b", 14_288_491_584),
    ],
)
def test_variants_have_their_published_size(name, parameters):
    assert count(dit.VARIANTS[name]) == parameters


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, "5 heads do not divide width 32 .* nearest .* 4"),
        ({"heads": 32}, "32 heads do not divide width 32 .* nearest .* 16"),
        ({"heads": 0}, "0 heads do not divide width 32 .* nearest .* 1"),
        ({"width": 33}, "width 33 .* use 34"),
        ({"remat": "ful"}, "unknown remat policy 'ful'; known: none, full"),
        ({"dtype": "float16"}, "unknown dtype 'float16'; known: float32, bfloat16"),
        ({"attention": "flash"}, "unknown attention 'flash'; known: auto"),
        ({"text_width": 17}, "text_width 17 is not the width 16"),
        ({"frequency_width": 255}, "255 is odd; use 254 or 256"),
        ({"frequency_width": 0}, "frequency_width 0: use 2 or more"),
        ({"depth": 0}, "depth 0: use 1 or more"),
        ({"mlp": -1}, "mlp -1: use 1 or more"),
        ({"patch": (1, 0, 2)}, r"patch \(1, 0, 2\): use \(1, 1, 2\)"),
        ({"attention_block": 0}, "attention_block 0: use 1 or more"),
    ],
)
def test_impossible_sizes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)


def test_tokens_of_another_patch_size_are_refused(model, params):
    rng = np.random.default_rng(14)
    packed = pack(random_rows(rng), [[1.0]] * 2)
    with pytest.raises(ValueError, match=r"tokens of 15 numbers.* have 16"):
        model.apply({"params": params}, packed.replace(tokens=packed.tokens[..., :15]))


def test_a_residual_takes_the_place_of_the_blocks(model, params):
    """Handed back it gives the same prediction; a changed one shows what it is."""
    rng = np.random.default_rng(5)
    rows = random_rows(rng)
    packed = pack(rows, [[0.9, 0.5, 0.2]] * 2)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def sow(params, packed):
        return model.apply({"params": params}, packed, mutable=[dit.CACHE])

    @functools.partial(jax.jit, compiler_options=QUICK)
    def reuse(params, packed, residual):
        return model.apply({"params": params}, packed, residual=residual)

    y, state = sow(params, packed)
    (residual,) = state[dit.CACHE]["residual"]
    assert residual.shape == (*packed.segments.shape, TINY.width)
    present = packed.segments > 0
    assert np.abs(np.asarray(residual)[present]).max() > 0.1
    assert relative(reuse(params, packed, residual), y) < 1e-5
    assert relative(reuse(params, packed, 0.5 * residual), y) > 1e-2
    later = pack(rows, [[0.8, 0.4, 0.1]] * 2)
    actual = reuse(params, later, residual)
    exact = sow(params, later)[0]
    assert relative(actual, y) > 1e-3
    assert relative(actual, exact) < relative(y, exact)


def test_a_residual_leaves_nothing_of_the_blocks_to_compile(model, params):
    packed = pack(random_rows(np.random.default_rng(6)), [[0.9] * 3] * 2)
    residual = jnp.zeros((*packed.segments.shape, TINY.width))

    def count(*values):
        def call(params, packed, residual=None):
            return model.apply({"params": params}, packed, residual=residual)

        return str(jax.make_jaxpr(call)(params, packed, *values)).count("scan[")

    only_text = 3  # scans of the text encoder: its layers, and blocks within
    assert count() > only_text
    assert count(residual) == only_text
