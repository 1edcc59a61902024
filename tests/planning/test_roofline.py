"""Seconds from FLOPs, bytes and links."""

import dataclasses

import pytest

from soraflax.planning import chips, collectives, cost, roofline
from tests.planning import fakes

V5P = chips.parse("v5p:4x4x4")
CHIP = V5P.chip


def _collective(**changes) -> collectives.Collective:
    base = collectives.Collective(
        kind="all-gather",
        axes=("fsdp",),
        group=4,
        bytes=1_000_000,
        asynchronous=True,
        crosses=False,
        runs=1,
        source="",
    )
    return dataclasses.replace(base, **changes)


def test_a_step_takes_its_slowest_part_and_what_it_waits_for():
    time = roofline.StepTime(products=3.0, memory=2.0, hidden=1.0, exposed=0.5)
    assert time.step == 3.5
    assert time.bound == "products"
    assert dataclasses.replace(time, hidden=5.0).step == 5.5
    assert dataclasses.replace(time, hidden=5.0).bound == "links"


def test_an_axis_uses_both_ways_of_every_ring_it_lies_along():
    mesh = fakes.mesh(topology=V5P, fsdp=16, context=4)
    assert roofline.bandwidth("context", mesh, topology=V5P) == 2 * CHIP.link
    assert roofline.bandwidth("fsdp", mesh, topology=V5P) == 4 * CHIP.link
    line = chips.parse("v5p:2x4x4")
    mesh = fakes.mesh(topology=line, fsdp=2, context=16)
    assert roofline.bandwidth("fsdp", mesh, topology=line) == CHIP.link


def test_two_devices_of_a_chip_share_it():
    topology = chips.parse("tpu7x:2x2x1")
    mesh = fakes.mesh(topology=topology, fsdp=4, tensor=2)
    time = roofline.step_time(
        cost.ProgramCost(topology.chip.peak, 0.0), [], mesh=mesh, topology=topology
    )
    assert time.products == 2.0
    assert (
        roofline.bandwidth("tensor", mesh, topology=topology) == 6 * topology.chip.link
    )
    assert roofline.bandwidth("fsdp", mesh, topology=topology) == topology.chip.link


def test_seconds_of_links():
    mesh = fakes.mesh(topology=V5P, fsdp=16, context=4)
    found = [
        _collective(),
        _collective(asynchronous=False, axes=("context",)),
        _collective(crosses=True, axes=("data",)),
    ]
    time = roofline.step_time(
        cost.ProgramCost(0.0, 0.0), found, mesh=mesh, topology=V5P
    )
    assert time.exposed == pytest.approx(1e6 / (2 * CHIP.link))
    assert time.hidden == pytest.approx(1e6 / (4 * CHIP.link) + 1e6 / CHIP.dcn)


def test_all_to_all_on_a_long_ring_goes_farther():
    speeds = {"fsdp": 1e9}
    short = roofline.transfer_seconds(
        _collective(kind="all-to-all"), speeds, topology=V5P
    )
    far = _collective(kind="all-to-all", group=16)
    assert roofline.transfer_seconds(far, speeds, topology=V5P) == 4 * short


def test_utilisation_of_a_step_at_peak_is_one():
    flops = 2.0 * V5P.chips * CHIP.peak
    assert roofline.utilisation(flops, 2.0, topology=V5P, chips_used=V5P.chips) == 1.0
