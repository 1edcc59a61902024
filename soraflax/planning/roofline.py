"""A lower bound on the time of a compiled step.

Three things take time, on every device:

    products   FLOPs of the program's products and attention / peak FLOP/s        (1)
    memory     bytes that its instructions read and write / HBM bandwidth         (2)
    links      for each collective, its bytes / bandwidth of its axis             (3)

An asynchronous collective costs only the time that other work does not hide, a
synchronous one all of its time:

    step = max(products, memory, asynchronous links) + synchronous links         (4)

(4) is a bound, not a forecast: products run below peak (0.6 to 0.8 of it is usual),
and what overlaps in it may not. Links: a mesh axis that lies along sides of the torus
uses both directions of every side that is a ring, and one of a side that is not; axes
that leave a slice share the data-center network:

    bandwidth(axis) = sum over its sides of  link (2 if ring else 1)              (5)

A permutation goes one way over one link. An all-to-all on a ring of n sends every byte
n / 4 links far: it takes n / 4 times as long as (3) says, where that is more than one.

Model FLOP utilisation counts neither padding nor what is recomputed (flops.py):

    utilisation = model FLOPs / (step * devices * peak)                           (6)
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from soraflax.planning import chips, collectives, cost

DIE_TO_DIE = 6  # links' worth between the two devices of a chip (documentation, TPU7x)


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Seconds of a step; equations (1) to (4).

    Attributes:
      products: equation (1).
      memory: equation (2).
      hidden: equation (3), of asynchronous collectives.
      exposed: equation (3), of synchronous collectives.
    """

    products: float
    memory: float
    hidden: float
    exposed: float

    @property
    def step(self) -> float:
        """Equation (4)."""
        return max(self.products, self.memory, self.hidden) + self.exposed

    @property
    def bound(self) -> str:
        """The resource that takes the longest."""
        parts = {
            "products": self.products,
            "memory": self.memory,
            "links": self.hidden + self.exposed,
        }
        return max(parts, key=lambda name: parts[name])


def step_time(
    program_cost: cost.ProgramCost,
    transfers: Sequence[collectives.Collective],
    *,
    mesh: Mesh,
    topology: chips.Topology,
) -> StepTime:
    """Equations (1) to (3).

    Args:
      program_cost: FLOPs and bytes of HBM of one device, attention included.
      transfers: collectives of the program.
      mesh: mesh of the topology's devices.
      topology: chips that it runs on.
    """
    chip = topology.chip
    seconds = {True: 0.0, False: 0.0}
    speeds = {
        axis: bandwidth(axis, mesh, topology=topology) for axis in mesh.axis_names
    }
    for collective in transfers:
        seconds[collective.asynchronous] += transfer_seconds(
            collective, speeds, topology=topology
        )
    return StepTime(
        products=program_cost.flops * chip.devices / chip.peak,
        memory=program_cost.bytes * chip.devices / chip.hbm_bandwidth,
        hidden=seconds[True],
        exposed=seconds[False],
    )


def transfer_seconds(
    collective: collectives.Collective,
    speeds: dict[str, float],
    *,
    topology: chips.Topology,
) -> float:
    """Equation (3), of all runs of a collective; `speeds` by mesh axis in bytes/s."""
    if collective.crosses:
        return collective.bytes * topology.chip.devices / topology.chip.dcn
    if not collective.axes:
        return 0.0
    if collective.kind == "collective-permute":
        return collective.bytes * topology.chip.devices / topology.chip.link
    hops = max(1.0, collective.group / 4) if collective.kind == "all-to-all" else 1.0
    return hops * collective.bytes / sum(speeds[axis] for axis in collective.axes)


def bandwidth(axis: str, mesh: Mesh, *, topology: chips.Topology) -> float:
    """Equation (5): bytes/s of one device along a mesh axis, within its slice."""
    chip = topology.chip
    link = chip.link / chip.devices
    line = np.moveaxis(mesh.devices, mesh.axis_names.index(axis), -1)
    line = line.reshape(-1, line.shape[-1])[0]
    coords = np.array([device_coords(device) for device in line])
    counts = [len(set(column.tolist())) for column in coords.T]
    total = 0.0
    for side, count in enumerate(counts[: len(topology.shape)]):
        if count > 1:
            ring = count == topology.shape[side] and topology.wraps(side)
            total += link * (2 if ring else 1)
    if total == 0.0 and counts[-1] > 1:
        return DIE_TO_DIE * chip.link
    return total or link


def device_coords(device: object) -> tuple[int, ...]:
    """Coordinates of a device's chip in its slice, and its index within the chip."""
    coords = tuple(getattr(device, "coords", (0,)))
    return (*coords, getattr(device, "core_on_chip", 0))


def utilisation(
    flops: float, step: float, *, topology: chips.Topology, chips_used: int
) -> float:
    """Equation (6)."""
    return flops / (step * chips_used * topology.chip.peak) if step else math.nan
