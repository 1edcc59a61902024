"""What is read from a compiled program's text."""

import jax
import jax.numpy as jnp
import pytest

from soraflax.planning import cost, hlo
from tests.planning import texts


def test_a_loop_runs_as_often_as_its_counter_takes_to_its_bound():
    module = hlo.parse(texts.LOOP)
    assert module.entry == "main"
    assert module.runs == {
        "add": 0,
        "fused_product": 0,
        "body": 3,
        "condition": 3,
        "main": 1,
    }
    assert module.unknown_loops == ()


def test_a_trip_count_beside_the_loop_is_believed():
    known = 'body=%body, backend_config={"known_trip_count":{"n":"40"}}'
    module = hlo.parse(texts.LOOP.replace("body=%body", known))
    assert module.runs["body"] == 40


def test_a_loop_that_depends_on_data_counts_once_and_is_named():
    text = texts.LOOP.replace("constant(5)", "get-tuple-element(%state.1), index=0")
    module = hlo.parse(text)
    assert module.runs["body"] == 1
    assert module.unknown_loops == ("loop",)


def test_shapes_know_where_they_live():
    found = list(
        hlo.arrays("(bf16[4,8]{1,0:T(8,128)(2,1)S(1)}, f32[], u32[3]{0:S(5)})")
    )
    assert [(a.bytes, a.space) for a in found] == [(64, 1), (4, 0), (12, hlo.HOST)]


def test_flops_and_bytes_count_trips_and_slices():
    found = cost.program_cost(hlo.parse(texts.LOOP))
    assert found.flops == 3 * 2 * 4 * 8 * 16
    # Of three kernels in HBM one is read, and the activation is on the chip.
    product = 2 * 8 * 16 + 4 * 4 * 16
    gather, total, permuted = 2 * (64 + 128), 2 * 4 * 64, 2 * 4 * 64
    assert found.bytes == 3 * (product + gather + total) + permuted


def test_flops_of_a_real_program_are_those_of_its_products():
    def program(x, kernels):
        def layer(x, kernel):
            return jnp.tanh(x @ kernel), None

        return jax.lax.scan(layer, x, kernels)[0]

    shapes = jnp.zeros((16, 32)), jnp.zeros((5, 32, 32))
    text = jax.jit(program).lower(*shapes).compile().as_text()
    assert cost.program_cost(hlo.parse(text)).flops == 5 * 2 * 16 * 32 * 32


def test_a_batch_that_is_written_as_a_dilated_side_counts_once():
    batched = (
        "%c = f32[3,4,16]{2,1,0} convolution(%a, %b), window={size=3 stride=2 pad=0_0 "
        "lhs_dilate=3}, dim_labels=0bf_0io->0bf"
    )
    line = hlo._instruction("  " + batched)
    assert line is not None
    assert cost._convolution(line, (3, 4, 8), right=(3, 8, 16)) == 3 * 4 * 8 * 16


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="it has no ENTRY"):
        hlo.parse("HloModule empty")
