"""Rows that lie on several devices: the layout, the ring, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax import sharding
from soraflax.ops import attention, packing
from soraflax.ops.attention import context_layout, context_parallel, reference
from soraflax.ops.attention import kernel as kernels
from tests.ops.attention import cases


@pytest.mark.parametrize(
    ("heads", "tensor", "context", "expected"),
    [
        (8, 1, 8, (8, 1, 1)),
        (3, 1, 8, (1, 8, 8)),
        (12, 1, 8, (4, 2, 2)),
        (40, 2, 4, (4, 1, 1)),
        (6, 2, 4, (1, 4, 4)),
    ],
)
def test_layout_trades_heads_while_they_divide(heads, tensor, context, expected):
    with jax.set_mesh(sharding.make_mesh(context=context, tensor=tensor)):
        layout = context_layout.context_layout(heads=heads, key_axis="tokens")
        assert layout == context_layout.ContextLayout(*expected)
        text = context_layout.context_layout(heads=heads, key_axis="text")
        assert text == context_layout.ContextLayout(1, context, 1)
    assert (
        context_layout.context_layout(heads=heads, key_axis="tokens")
        == context_layout.ContextLayout()
    )


def ring_rows():
    """Four rows, three heads: with two devices on `context`, a ring."""
    row = np.stack([cases.ids([(1, 5), (2, 21), (3, n)], 48) for n in (1, 9, 22, 10)])
    return row, cases.inputs(48, 48, rows=4, heads=3)


def test_ring_inside_scan_and_remat():
    row, (q, k, v, w) = ring_rows()

    @jax.jit
    def loss_and_grads(q, k, v):
        plan = attention.make_plan(row, row, block=8, heads=3)

        def loss(q, k, v):
            def layer(x, _):
                y = attention.attention(x, k, v, plan=plan, implementation="blocks")
                return x + y, None

            x, _ = jax.lax.scan(jax.checkpoint(layer), q, None, length=2)
            return jnp.vdot(x, w)

        return jax.value_and_grad(loss, argnums=(0, 1, 2))(q, k, v)

    expected = loss_and_grads(q, k, v)
    with jax.set_mesh(sharding.make_mesh(fsdp=4, context=2)):
        cases.check_close(loss_and_grads(q, k, v), expected, atol=1e-4)


def test_striped_rows():
    """Ids that increase within each shard alone, as `packing.stripe` leaves them."""
    row, arrays = ring_rows()
    expected, gradients = cases.run(*arrays, row, row, implementation="reference")
    order = np.concatenate(
        [np.r_[:6, 12:18, 24:30, 36:42], np.r_[6:12, 18:24, 30:36, 42:48]]
    )
    striped = [x[:, order] for x in arrays]
    with jax.set_mesh(sharding.make_mesh(fsdp=4, context=2)):
        actual = cases.run(
            *striped, row[:, order], row[:, order], implementation="blocks", block=6
        )
        plan = attention.make_plan(row[:, order], row[:, order], block=6, heads=3)
    expected = jax.tree.map(lambda x: x[:, order], (expected, gradients))
    cases.check_close(actual, expected, atol=1e-5)
    whole = attention.make_plan(row, row, block=6)
    np.testing.assert_array_equal(plan.visited, whole.visited)


@pytest.mark.parametrize(("policy", "forward"), [("full", 2), ("attention", 1)])
def test_saving_output_and_log_sum_exp_spares_the_forward_ring(policy, forward):
    policies = jax.checkpoint_policies
    keep = {
        "full": policies.nothing_saveable,
        "attention": policies.save_only_these_names(
            "attention_output", "attention_log_sum_exp"
        ),
    }
    row, (q, *_) = ring_rows()

    def loss(q):
        plan = attention.make_plan(row, row, block=8, heads=3)

        def layer(x):
            return jnp.sin(
                attention.attention(x, x, x, plan=plan, implementation="blocks")
            )

        return jax.checkpoint(layer, policy=keep[policy])(q).sum()

    with jax.set_mesh(sharding.make_mesh(fsdp=4, context=2)):
        traced = str(jax.make_jaxpr(jax.grad(loss))(q))
    # Forward keys and values move once; backward they and their gradients do, the
    # latter before the last pair, in the loop and home.
    assert traced.count("ppermute[") == 2 * forward + 8


def test_pairs_of_shards_that_do_not_touch_are_left_out():
    """Each of eight devices has a segment to itself: one pair in eight is computed."""
    counted = []
    row = np.repeat(np.arange(1, 9, dtype=np.int32), 4)[None]
    arrays = cases.inputs(32, 32, rows=1, heads=1)

    def forward(q, k, v, *, plan, scale):
        jax.debug.callback(lambda: counted.append(1))
        return reference.KERNEL.forward(q, k, v, plan=plan, scale=scale)

    kernel = kernels.Kernel(forward, reference.KERNEL.backward)
    with jax.set_mesh(sharding.make_mesh(fsdp=1, context=8)):
        plan = attention.make_plan(row, row, heads=1)
        out = context_parallel.sharded_attention(
            *arrays[:3], plan=plan, kernel=kernel, scale=1.0
        )
    jax.block_until_ready(out)
    jax.effects_barrier()
    assert len(counted) == 8


def test_what_the_mesh_does_not_divide_is_refused():
    row = np.ones((2, 18), np.int32)
    q, k, v, _ = cases.inputs(18, 18, heads=3)
    with jax.set_mesh(sharding.make_mesh(fsdp=2, context=4)):
        with pytest.raises(ValueError, match=r"row of 18 queries .* 4 shards.*: 16"):
            attention.make_plan(row, row, heads=3)
        plan = attention.make_plan(row, row)
        with pytest.raises(ValueError, match=r"use make_plan\(..., heads=3\)"):
            attention.attention(q, k, v, plan=plan, implementation="blocks")
    with (
        jax.set_mesh(sharding.make_mesh(fsdp=2, tensor=4)),
        pytest.raises(ValueError, match=r"size 6 does not divide over 4 shards.*: 8"),
    ):
        attention.make_plan(row, row, heads=6)


def utilization(row: np.ndarray) -> float:
    """Fraction of time in which eight devices compute; the slowest ends a step."""
    with jax.set_mesh(sharding.make_mesh(fsdp=1, context=8)):
        visits = np.asarray(attention.make_plan(row, row, heads=1).visited_by_shard[0])
    group = np.arange(8)
    steps = [visits[group, (group + step) % 8].max() for step in group]
    return visits.sum() / (8 * sum(steps))


@pytest.mark.parametrize("seed", range(3))
def test_striped_rows_keep_every_device_busy(seed):
    """Images and clips of 256 to 65,536 tokens, packed into 131,072."""
    rng = np.random.default_rng(seed)
    lengths = 128 * np.exp(rng.uniform(np.log(2), np.log(512), 100)).astype(int)
    row = np.repeat(np.arange(1, 101, dtype=np.int32), lengths)[None, :131072]
    order = packing.stripe_order(131072, shards=8)
    assert utilization(row) < 0.7
    assert utilization(row[:, order]) > 0.95
