"""Traffic between devices, read from a program's text."""

import numpy as np
import pytest
from jax.sharding import Mesh

from soraflax import sharding
from soraflax.planning import collectives, hlo
from tests.planning import fakes, texts


def _find(text: str, **sizes: int) -> dict[str, collectives.Collective]:
    found = collectives.find_collectives(hlo.parse(text), fakes.mesh(**sizes))
    return {c.kind: c for c in found}


def test_bytes_axes_and_runs_of_a_loop():
    found = _find(texts.LOOP, fsdp=2, tensor=2)
    gather, total = found["all-gather"], found["all-reduce"]
    assert (gather.axes, gather.runs, gather.group) == (("fsdp",), 3, 2)
    assert gather.bytes == 3 * 8 * 16 * 2 // 2
    assert gather.asynchronous and gather.source == "jit(step)/gather"
    assert (total.axes, total.bytes) == (("tensor",), 3 * 2 * (4 * 16 * 4) // 2)
    assert not total.asynchronous
    permuted = found["collective-permute"]
    assert (permuted.axes, permuted.bytes) == (("fsdp",), 4 * 16 * 4)
    assert not permuted.asynchronous  # nothing runs between its start and its end


def test_the_steps_of_a_fused_gather_are_one_collective():
    found = _find(texts.FUSED, data=4, fsdp=2)
    gather = found["all-gather"]
    assert gather.asynchronous
    assert (gather.axes, gather.group) == (("data",), 4)
    assert gather.bytes == 32 * 96 * 2 * 3 // 4
    assert found["all-reduce"].axes == ("data",)
    assert found["all-reduce"].bytes == 2 * 4 * 16 * 4 * 3 // 4


def test_sums_that_are_scattered_offloaded_or_left_to_the_hosts():
    mesh = fakes.mesh(slices=2, data=2, fsdp=2, tensor=2)
    found = collectives.find_collectives(hlo.parse(texts.OFFLOADED), mesh)
    offloaded, hosts, fused = found
    assert offloaded.kind == fused.kind == "reduce-scatter"
    assert offloaded.bytes == 5120 * 5120 * 2 * 3 // 4 and offloaded.asynchronous
    assert fused.bytes == 64 * 32 * 2 * 3 // 4 and not fused.asynchronous
    assert fused.axes == ("data", "fsdp")
    assert (hosts.kind, hosts.axes, hosts.crosses) == ("all-reduce", ("data",), True)
    assert hosts.bytes == 2 * 100 * 8 * 4 // 2 and hosts.asynchronous


def test_what_leaves_a_slice_is_told_apart():
    found = collectives.find_collectives(
        hlo.parse(texts.LOOP), fakes.mesh(slices=2, data=2, fsdp=2)
    )
    assert {c.kind: c.crosses for c in found} == {
        "all-gather": True,
        "all-reduce": False,
        "collective-permute": True,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("replica_groups={{0,2},{1,3}}", [[0, 2], [1, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("source_target_pairs={{0,1},{1,0}}", [[0, 1], [1, 0]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", [[0, 1, 2, 3]]),
        (
            "replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}",
            [[0, 2], [1, 3]],
        ),
        ("channel_id=1", [[0, 1, 2, 3]]),
    ],
)
def test_every_way_to_write_groups(text: str, expected: list[list[int]]):
    found = collectives.groups(text, devices=4)
    np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(expected, axis=0))


def test_traffic_sums_kinds_and_axes_the_most_first():
    module = hlo.parse(texts.LOOP)
    found = collectives.find_collectives(module, fakes.mesh(fsdp=2, tensor=2))
    summed = collectives.total_traffic(found)
    assert [t.bytes for t in summed] == sorted((t.bytes for t in summed), reverse=True)
    assert sum(t.bytes for t in summed) == sum(c.bytes for c in found)
    assert sum(t.count for t in summed) == 3 + 3 + 1


def test_a_real_mesh_serves_as_well():
    mesh = sharding.make_mesh(fsdp=2, tensor=4)
    assert isinstance(mesh, Mesh)
    assert collectives.axes_of(np.array([[0, 1], [4, 5]]), mesh) == ("tensor",)
    assert collectives.axes_of(np.array([[0, 4]]), mesh) == ("fsdp",)
