import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soraflax.ops import packing, patch


def clip(length: int, text: int, start: float = 0.0) -> packing.Segment:
    return packing.Segment(
        tokens=np.full((length, 2), start, np.float32),
        positions=np.zeros((length, 3), np.float32),
        cond_mask=np.arange(length) == 0,
        text=np.full(text, 7, np.int32),
    )


def test_assemble_lays_segments_in_order():
    shape = packing.RowShape(tokens=8, text=5, segments=2)
    rows = [[clip(3, 2, 1.0), clip(2, 1, 2.0)], [clip(4, 3, 3.0)]]
    packed = packing.assemble(rows, shape)
    np.testing.assert_array_equal(
        packed.segments, [[1, 1, 1, 2, 2, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        packed.text_segments, [[1, 1, 2, 0, 0], [1, 1, 1, 0, 0]]
    )
    np.testing.assert_array_equal(packed.level_ids[0], [3, 2, 2, 5, 4, 0, 0, 0])
    np.testing.assert_array_equal(packed.cond_mask[0], [1, 0, 0, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(packed.tokens[1, :, 0], [3, 3, 3, 3, 0, 0, 0, 0])
    assert packed.max_segments == 2


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    align=st.sampled_from([1, 4]),
)
def test_slices_find_every_segment(lengths, align):
    shape = packing.RowShape(tokens=48, text=4, segments=4, align=align)
    rows = [[clip(n, 1, float(i)) for i, n in enumerate(lengths, 1)]]
    packed = packing.assemble(rows, shape)
    slices = packing.segment_slices(rows, shape)[0]
    for number, (tokens, length) in enumerate(zip(slices, lengths, strict=True), 1):
        assert tokens.start % align == 0 and tokens.stop - tokens.start == length
        assert (packed.segments[0, tokens] == number).all()
        assert (packed.tokens[0, tokens] == number).all()
    assert np.count_nonzero(packed.segments) == sum(lengths)


def test_the_example_in_the_docstring_runs():
    assert doctest.testmod(packing).attempted > 5
    assert doctest.testmod(packing).failed == 0


@pytest.mark.parametrize("text_width", [None, 6])
def test_empty_rows_have_the_shapes_that_are_compiled_for(text_width):
    shape = packing.RowShape(tokens=8, text=5, segments=2)
    sizes = {"rows": 3, "patch_size": 4, "text_width": text_width}
    empty = packing.Packed.zeros(shape, **sizes)
    shapes = packing.Packed.shapes(shape, **sizes)
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), empty, shapes)
    assert jax.tree.map(lambda a: a.dtype, empty) == jax.tree.map(
        lambda a: a.dtype, shapes
    )
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(empty))
    assert empty.max_segments == 2 and not empty.cond_mask.any()
    assert empty.text.shape == (3, 5) if text_width is None else (3, 5, 6)


def test_a_latent_becomes_a_segment(key):
    latent = np.asarray(jax.random.normal(key, (4, 4, 6, 3)))
    text = np.ones(2, np.int32)
    segment = packing.Segment.from_latent(latent, text, patch=(2, 2, 2), time_step=1.5)
    back = patch.unpatchify(segment.tokens, (2, 2, 3), patch=(2, 2, 2))
    np.testing.assert_array_equal(back, latent)
    np.testing.assert_array_equal(segment.positions[-1], [3.0, 1, 2])
    assert not segment.cond_mask.any() and segment.text is text
    with pytest.raises(ValueError, match="time 3 is not a multiple of the patch 2"):
        packing.Segment.from_latent(latent[:3], text, patch=(2, 2, 2))


@pytest.mark.parametrize("align", [1, 4])
def test_the_fitting_shape_is_the_smallest(align):
    rows = [[clip(3, 2), clip(5, 1)], [clip(4, 1)]]
    shape = packing.RowShape.fitting(rows, align=align)
    packing.assemble(rows, shape)
    assert (shape.tokens, shape.text, shape.segments) == (8 if align == 1 else 12, 3, 2)


def test_a_row_that_is_too_small_is_refused():
    shape = packing.RowShape(tokens=8, text=4, segments=2)
    with pytest.raises(ValueError, match="9 tokens and 1 text tokens; the row holds 8"):
        packing.assemble([[clip(9, 1)]], shape)
    with pytest.raises(ValueError, match="5 text tokens"):
        packing.assemble([[clip(2, 5)]], shape)
    with pytest.raises(ValueError, match="3 segments in a row that holds 2"):
        packing.assemble([[clip(1, 1)] * 3], shape)


def test_levels_reach_their_tokens():
    shape = packing.RowShape(tokens=6, text=4, segments=2)
    packed = packing.assemble([[clip(3, 1), clip(2, 1)]], shape)
    levels = packing.level_table(jnp.array([[0.0, 0.25, 0.75]]))
    packed = packed.replace(levels=levels)
    np.testing.assert_array_equal(
        packed.noise_levels, [[0.0, 0.25, 0.25, 0.0, 0.75, 0.0]]
    )


def test_sum_and_gather_are_transposes(key):
    segments = jnp.array([[1, 1, 2, 0, 0], [0, 3, 3, 3, 1]])
    values = jax.random.normal(key, (2, 5))
    table = jax.random.normal(key, (2, 4))
    sums = packing.segment_sum(values, segments, max_segments=3)
    np.testing.assert_allclose(sums[0, 1], values[0, 0] + values[0, 1], rtol=1e-6)
    np.testing.assert_allclose(sums.sum(1), values.sum(1), rtol=1e-5)
    np.testing.assert_allclose(
        jnp.vdot(sums, table),
        jnp.vdot(values, packing.segment_gather(table, segments)),
        rtol=1e-5,
    )


def test_packed_is_a_pytree():
    shape = packing.RowShape(tokens=4, text=2, segments=1)
    packed = packing.assemble([[clip(3, 1)]], shape)
    doubled = jax.jit(lambda p: p.replace(tokens=2.0 * p.tokens))(packed)
    np.testing.assert_array_equal(doubled.tokens, 2.0 * packed.tokens)
    assert len(jax.tree.leaves(packed)) == 7


def test_striping_moves_blocks_and_nothing_else():
    shape = packing.RowShape(tokens=16, text=4, segments=2)
    packed = packing.assemble([[clip(9, 1, 1.0), clip(5, 1, 2.0)]], shape)
    striped = packing.stripe(packed, shards=2, block=2)
    np.testing.assert_array_equal(
        striped.segments[0], [1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 2, 2, 0, 0]
    )
    np.testing.assert_array_equal(striped.tokens[0, :, 0], striped.segments[0])
    back = np.argsort(packing.stripe_order(16, shards=2, block=2))
    for name in ("tokens", "segments", "positions", "level_ids"):
        moved, original = getattr(striped, name), getattr(packed, name)
        np.testing.assert_array_equal(moved[:, back], original)
    assert striped.text is packed.text and packing.stripe(packed, shards=1) is packed


@settings(max_examples=25, deadline=None)
@given(
    shards=st.integers(1, 6), blocks=st.integers(1, 5), block=st.sampled_from([4, 6])
)
def test_striped_ids_increase_within_every_shard(shards, blocks, block):
    tokens = 4 * shards * blocks
    order = packing.stripe_order(tokens, shards=shards, block=block)
    assert sorted(order) == list(range(tokens))
    assert (np.diff(order.reshape(shards, -1)) > 0).all()


def test_shards_that_do_not_divide_a_row_are_refused():
    with pytest.raises(ValueError, match=r"row of 100 tokens .* 8 shards; .*: 96"):
        packing.stripe_order(100, shards=8)
