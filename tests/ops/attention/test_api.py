"""Attention over packed rows: each implementation against the definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soraflax import sharding
from soraflax.ops import attention
from soraflax.ops.attention import tiles
from tests.ops.attention import cases


@st.composite
def rows_of_segments(draw, totals: tuple[int, ...]):
    """Segment ids of queries and of keys: any lengths, gaps, and absent segments."""
    sides = [[] for _ in totals]
    for _ in range(cases.ROWS):
        count = draw(st.integers(0, 5))
        for side, total in zip(sides, totals, strict=True):
            marks = sorted(
                draw(
                    st.lists(
                        st.integers(0, total), min_size=2 * count, max_size=2 * count
                    )
                )
            )
            row = np.zeros(total, np.int32)
            for number in range(count):
                row[marks[2 * number] : marks[2 * number + 1]] = number + 1
            side.append(row)
    return tuple(np.stack(side) for side in sides)


@settings(max_examples=20, deadline=None)
@given(segments=rows_of_segments((37, 21)))
def test_blocks_equal_reference_across_lengths(segments):
    arrays = cases.inputs(37, 21)
    expected = cases.run(*arrays, *segments, implementation="reference")
    cases.check_close(cases.run(*arrays, *segments, implementation="blocks"), expected)


@settings(max_examples=20, deadline=None)
@given(segments=rows_of_segments((40,)))
def test_blocks_equal_reference_within_rows(segments):
    arrays = cases.inputs(40, 40)
    expected = cases.run(*arrays, *segments, *segments, implementation="reference")
    cases.check_close(
        cases.run(*arrays, *segments, *segments, implementation="blocks"), expected
    )


@pytest.mark.parametrize("block", [5, 100])
def test_any_block_will_do(block):
    row = np.stack([cases.ids([(1, 7), (2, 13)], 23), cases.ids([(1, 23)], 23)])
    arrays = cases.inputs(23, 23)
    expected = cases.run(*arrays, row, row, implementation="reference")
    cases.check_close(
        cases.run(*arrays, row, row, implementation="blocks", block=block), expected
    )


def test_ids_out_of_order_are_still_right():
    query = np.stack([cases.ids([(3, 9), (1, 9), (2, 9)], 30)] * cases.ROWS)
    key = np.stack([cases.ids([(2, 9), (3, 2), (1, 15)], 30)] * cases.ROWS)
    arrays = cases.inputs(30, 30)
    expected = cases.run(*arrays, query, key, implementation="reference")
    cases.check_close(cases.run(*arrays, query, key, implementation="blocks"), expected)


def test_a_causal_plan_masks_what_comes_after():
    row = np.array([[1, 1, 0, 2, 2]])
    plan = attention.make_plan(row, row, causal=True)
    mask = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0] * 5, [0, 0, 0, 1, 0], [0, 0, 0, 1, 1]]
    np.testing.assert_array_equal(plan.mask[0], np.array(mask, bool))


@settings(max_examples=10, deadline=None)
@given(segments=rows_of_segments((37,)))
def test_causal_blocks_equal_causal_reference(segments):
    arrays = cases.inputs(37, 37)
    expected, found = (
        cases.run(*arrays, *segments, *segments, implementation=name, causal=True)
        for name in ("reference", "blocks")
    )
    cases.check_close(found, expected)


def test_a_causal_plan_is_of_one_row_and_of_kernels_that_know_it():
    row = np.ones((1, 256), np.int32)
    with pytest.raises(ValueError, match="use one row for both"):
        attention.make_plan(row, row[:, :128], causal=True)
    plan = attention.make_plan(row, row, causal=True)
    assert plan.visited[0] == 3  # of two by two blocks all but the last above
    q, k, v, _ = cases.inputs(256, 256, rows=1, size=64)
    for name in ("splash", "triton"):
        with pytest.raises(ValueError, match="causal plan: use 'reference'"):
            attention.attention(q, k, v, plan=plan, implementation=name)


@pytest.mark.parametrize("implementation", ["reference", "blocks"])
def test_packed_segments_equal_segments_alone(implementation):
    lengths = [(1, 11), (2, 5), (3, 17)]
    row = cases.ids(lengths, 40)[None]
    q, k, v, w = cases.inputs(40, 40, rows=1)
    out, grads = cases.run(q, k, v, w, row, row, implementation=implementation)
    start = 0
    for _, length in lengths:
        tokens = slice(start, start + length)
        alone = np.ones((1, length), np.int32)
        cut = [x[:, tokens] for x in (q, k, v, w)]
        expected = cases.run(*cut, alone, alone, implementation=implementation)
        cases.check_close(
            (out[:, tokens], tuple(g[:, tokens] for g in grads)), expected
        )
        start += length


@pytest.mark.parametrize("implementation", ["reference", "blocks"])
def test_one_segment_changes_no_other(implementation):
    row = np.stack([cases.ids([(1, 13), (2, 10), (3, 9)], 32)] * cases.ROWS)
    arrays = cases.inputs(32, 32)
    changed = [x.at[:, 13:23].multiply(-3.0) for x in arrays]
    out, grads = cases.run(*arrays, row, row, implementation=implementation)
    other, other_grads = cases.run(*changed, row, row, implementation=implementation)
    for a, b in zip([out, *grads], [other, *other_grads], strict=True):
        np.testing.assert_array_equal(a[:, :13], b[:, :13])
        np.testing.assert_array_equal(a[:, 23:], b[:, 23:])
        assert not np.allclose(a[:, 13:23], b[:, 13:23])


@pytest.mark.parametrize("implementation", ["reference", "blocks"])
def test_padding_holds_what_it_likes(implementation):
    row = np.stack([cases.ids([(1, 9), (2, 6)], 20), cases.ids([], 20)])
    arrays = cases.inputs(20, 20)
    present = (row > 0)[:, :, None, None]
    spoilt = [jnp.where(present, x, jnp.nan) for x in arrays[:3]]
    expected = cases.run(*arrays, row, row, implementation=implementation)
    actual = cases.run(*spoilt, arrays[3], row, row, implementation=implementation)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
        assert (np.where(present, 0.0, a) == 0.0).all()


@pytest.mark.parametrize("implementation", ["reference", "blocks"])
def test_large_scores_do_not_overflow(implementation):
    row = np.ones((cases.ROWS, 20), np.int32)
    q, k, v, w = cases.inputs(20, 20)
    actual = cases.run(1e3 * q, 1e3 * k, v, w, row, row, implementation=implementation)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(actual))


@pytest.mark.parametrize("implementation", ["reference", "blocks"])
def test_bfloat16_accumulates_in_float32(implementation):
    row = np.stack([cases.ids([(1, 100), (2, 28)], 128)] * cases.ROWS)
    arrays = cases.inputs(128, 128, dtype=jnp.bfloat16)
    exact = [x.astype(jnp.float32) for x in arrays]
    expected, expected_grads = cases.run(*exact, row, row, implementation="reference")
    out, grads = cases.run(*arrays, row, row, implementation=implementation, block=32)
    for a, b in zip([out, *grads], [expected, *expected_grads], strict=True):
        assert a.dtype == jnp.bfloat16
        error = jnp.linalg.norm(a.astype(jnp.float32) - b) / jnp.linalg.norm(b)
        assert error < 1e-2


def test_mask_is_the_literal_one():
    plan = attention.make_plan(np.array([[1, 1, 2, 0]]), np.array([[1, 2, 2, 0, 0]]))
    np.testing.assert_array_equal(
        plan.mask[0],
        [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]],
    )


def test_plan_visits_the_literal_pairs():
    row = cases.ids([(1, 6), (2, 2), (3, 5)], 16)[None]  # 11111122 33333000
    plan = attention.make_plan(row, row, block=4)
    expected = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])
    touch = plan.mask[0].reshape(4, 4, 4, 4).any(axis=(1, 3))
    np.testing.assert_array_equal(touch, expected)
    np.testing.assert_array_equal(plan.keys_of.start[0, 0, 0], [0, 0, 2, 2])
    np.testing.assert_array_equal(plan.keys_of.stop[0, 0, 0], [2, 2, 4, 4])
    np.testing.assert_array_equal(plan.visited, [8])


def test_plan_of_cross_attention_and_of_padding():
    query = cases.ids([(1, 8), (2, 4)], 20)[None]
    key = cases.ids([(1, 3), (2, 7)], 12)[None]
    plan = attention.make_plan(query, key, block=4)
    np.testing.assert_array_equal(plan.keys_of.start[0, 0, 0], [0, 0, 0, 0, 0])
    np.testing.assert_array_equal(plan.keys_of.stop[0, 0, 0], [1, 1, 3, 0, 0])
    np.testing.assert_array_equal(plan.queries_of.start[0, 0, 0], [0, 2, 2])
    np.testing.assert_array_equal(plan.queries_of.stop[0, 0, 0], [3, 3, 3])


@settings(max_examples=20, deadline=None)
@given(segments=rows_of_segments((37, 21)))
def test_no_pair_that_touches_is_missed(segments):
    plan = attention.make_plan(*map(jnp.asarray, segments), block=4)
    mask = np.pad(np.asarray(plan.mask), ((0, 0), (0, 3), (0, 3)))
    touch = mask.reshape(cases.ROWS, 10, 4, 6, 4).any(axis=(2, 4))
    queries, keys = np.arange(10)[:, None], np.arange(6)
    for runs, pairs, blocks in (
        (plan.keys_of, touch, keys),
        (plan.queries_of, np.swapaxes(touch, 1, 2), queries.T),
    ):
        start, stop = (
            np.asarray(runs.start)[:, 0, 0, :, None],
            np.asarray(runs.stop)[:, 0, 0, :, None],
        )
        assert not (pairs & ~((start <= blocks) & (blocks < stop))).any()


def test_loops_run_once_per_visited_pair(monkeypatch):
    counted = []
    mask = tiles.same_segment

    def counting(query_ids, key_ids):
        jax.debug.callback(lambda: counted.append(1))
        return mask(query_ids, key_ids)

    monkeypatch.setattr(tiles, "same_segment", counting)
    rows = np.stack([cases.ids([(1, 6), (2, 2), (3, 5)], 16), cases.ids([(1, 4)], 16)])
    plan = attention.make_plan(rows, rows, block=4)
    q, k, v, _ = cases.inputs(16, 16)
    call = functools.partial(attention.attention, plan=plan, implementation="blocks")
    jax.block_until_ready(call(q, k, v))
    jax.effects_barrier()
    assert len(counted) == 8 + 1
    jax.block_until_ready(jax.grad(lambda q: call(q, k, v).sum())(q))
    jax.effects_barrier()
    assert len(counted) == (8 + 1) * 3


@pytest.mark.parametrize(
    "sizes",
    [
        {"data": 2, "fsdp": 2, "tensor": 2},
        {"fsdp": 4, "context": 2},
    ],
    ids=lambda sizes: " ".join(f"{k}={v}" for k, v in sizes.items()),
)
def test_sharded_equals_unsharded_inside_scan_and_remat(sizes):
    row = np.stack([cases.ids([(1, 5), (2, 11), (3, n)], 26) for n in (1, 4, 8, 10)])
    q, k, v, w = cases.inputs(26, 26, rows=4)

    @jax.jit
    def loss_and_grads(q, k, v):
        plan = attention.make_plan(row, row, block=8)

        def layer(x, _):
            y = attention.attention(x, k, v, plan=plan, implementation="blocks")
            return x + y, None

        def loss(q, k, v):
            del k, v
            return jnp.vdot(
                jax.lax.scan(jax.checkpoint(layer), q, None, length=2)[0], w
            )

        return jax.value_and_grad(loss)(q, k, v)

    expected = loss_and_grads(q, k, v)
    with jax.set_mesh(sharding.make_mesh(**sizes)):
        cases.check_close(loss_and_grads(q, k, v), expected, atol=1e-4)


def test_sharded_gradients_of_every_input():
    row = np.stack([cases.ids([(1, 5), (2, 11)], 20)] * 4)
    arrays = cases.inputs(20, 20, rows=4)
    expected = cases.run(*arrays, row, row, implementation="blocks")
    with jax.set_mesh(sharding.make_mesh(fsdp=2, context=2, tensor=2)):
        actual = cases.run(*arrays, row, row, implementation="blocks")
    assert (
        actual[0].sharding.spec[0] == "fsdp" and actual[0].sharding.spec[2] == "tensor"
    )
    cases.check_close(actual, expected)


def test_rows_or_heads_that_do_not_divide_are_refused():
    q, k, v, _ = cases.inputs(16, 16, rows=3)
    plan = attention.make_plan(np.ones((3, 16), int), np.ones((3, 16), int), block=8)
    call = functools.partial(attention.attention, plan=plan, implementation="blocks")
    with (
        jax.set_mesh(sharding.make_mesh(fsdp=4, tensor=2)),
        pytest.raises(ValueError, match=r"size 3 does not divide over 4 shards.*4"),
    ):
        call(q, k, v)
    with (
        jax.set_mesh(sharding.make_mesh(fsdp=1, tensor=8)),
        pytest.raises(ValueError, match=r"size 2 does not divide over 8 shards.*8"),
    ):
        call(q, k, v)


@pytest.mark.parametrize(("policy", "loops"), [("full", 3), ("attention", 2)])
def test_saving_output_and_log_sum_exp_spares_the_forward_loop(policy, loops):
    policies = jax.checkpoint_policies
    keep = {
        "full": policies.nothing_saveable,
        "attention": policies.save_only_these_names(
            "attention_output", "attention_log_sum_exp"
        ),
    }
    row = np.ones((cases.ROWS, 16), np.int32)
    plan = attention.make_plan(row, row, block=4)

    def loss(q):
        def layer(x):
            y = attention.attention(x, x, x, plan=plan, implementation="blocks")
            return jnp.sin(y)

        return jax.checkpoint(layer, policy=keep[policy])(q).sum()

    traced = str(jax.make_jaxpr(jax.grad(loss))(cases.inputs(16, 16)[0]))
    assert traced.count("while[") == loops


def test_bias_and_scale():
    row = np.stack([cases.ids([(1, 3), (2, 5)], 8)] * cases.ROWS)
    plan = attention.make_plan(row, row)
    q, k, v, _ = cases.inputs(8, 8)
    bias = jax.random.normal(jax.random.key(1), (cases.HEADS, 15))
    out = attention.attention(q, k, v, plan=plan, scale=1.0, bias=bias)
    distance = np.arange(8)[None, :] - np.arange(8)[:, None]
    scores = jnp.einsum("bnhk,bmhk->bhnm", q, k) + bias[:, distance + 7]
    weights = jax.nn.softmax(jnp.where(plan.mask[:, None], scores, -jnp.inf), axis=-1)
    np.testing.assert_allclose(
        out, jnp.einsum("bhnm,bmhk->bnhk", weights, v), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match="'splash' takes no bias: use 'blocks'"):
        attention.attention(q, k, v, plan=plan, implementation="splash", bias=bias)


def test_the_default_is_one_of_the_two():
    row = np.stack([cases.ids([(1, 300), (2, 200)], 512)] * cases.ROWS)
    arrays = cases.inputs(512, 512)
    expected = cases.run(*arrays, row, row, implementation="reference", block=128)
    cases.check_close(
        cases.run(*arrays, row, row, implementation=None, block=128), expected
    )


def test_bad_calls_are_refused():
    q, k, v, _ = cases.inputs(8, 8)
    ones = np.ones((cases.ROWS, 8), np.int32)
    plan = attention.make_plan(ones, ones)
    with pytest.raises(ValueError, match="unknown attention implementation 'flash'"):
        attention.attention(q, k, v, plan=plan, implementation="flash")  # pyright: ignore
    with pytest.raises(ValueError, match=r"do not fit the plan's \(2, 8\)"):
        attention.attention(q[:, :4], k, v, plan=plan)
    with pytest.raises(ValueError, match="block 0 must be positive"):
        attention.make_plan(ones, ones, block=0)
