"""The memory of a device during a step, from the program and its shardings.

    peak = parameters + optimizer + average + batch + temporaries                 (1)

Temporaries are what the compiler allocates beyond its arguments: activations saved for
the backward pass, gradients, gathered parameters, scratch. The state is donated, so its
next value takes no memory of its own.
"""

import dataclasses
import math
from typing import Any

import jax

from soraflax.planning import chips, program


@dataclasses.dataclass(frozen=True)
class DeviceMemory:
    """Bytes of one device.

    Attributes:
      parameters: its shard of the parameters.
      optimizer: its shard of the optimizer's state.
      average: its shard of the parameters' moving average.
      batch: its rows.
      temporaries: everything else.
      peak: equation (1), as the compiler allocates it.
      host: bytes offloaded to the host's memory.
      capacity: HBM of the device.
    """

    parameters: int
    optimizer: int
    average: int
    batch: int
    temporaries: int
    peak: int
    host: int
    capacity: int

    @property
    def utilisation(self) -> float:
        """Fraction of the capacity at the peak."""
        return self.peak / self.capacity


def shard_bytes(tree: Any) -> int:
    """Bytes of one device's shards of ShapeDtypeStructs."""

    def leaf_bytes(leaf: Any) -> int:
        shape = leaf.sharding.shard_shape(leaf.shape)
        return math.prod(shape) * leaf.dtype.itemsize

    return sum(leaf_bytes(leaf) for leaf in jax.tree.leaves(tree))


def device_memory(
    compiled: program.CompiledStep, topology: chips.Topology
) -> DeviceMemory:
    """Equation (1) of a compiled step."""
    arguments = {
        name: shard_bytes(tree)
        for name, tree in (
            ("parameters", compiled.state.params),
            ("optimizer", compiled.state.opt_state),
            ("average", compiled.state.ema),
            ("batch", compiled.batch),
        )
    }
    return DeviceMemory(
        **arguments,
        temporaries=max(0, compiled.hbm - sum(arguments.values())),
        peak=compiled.hbm,
        host=compiled.host,
        capacity=topology.chip.hbm // topology.chip.devices,
    )
