"""What a device holds during a step, from the compiled program and its shardings.

    peak = parameters + optimizer + average + batch + temporaries                 (1)

Temporaries are what the compiler allocates beyond its arguments: what is saved for the
backward pass, gradients, gathered parameters, scratch. The state is donated, so its
next value takes no room of its own.
"""

import dataclasses
import math
from typing import Any

import jax

from soraflax.planning import chips, program


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    Attributes:
      parameters: its shard of them.
      optimizer: its shard of the optimizer's state.
      average: its shard of the moving average.
      batch: its rows.
      temporaries: everything else.
      peak: equation (1), as the compiler lays it out.
      host: what is kept in the host's memory, one device's.
      capacity: HBM of one device.
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
    def share(self) -> float:
        """Of the capacity that the peak takes."""
        return self.peak / self.capacity


def shard_bytes(tree: Any) -> int:
    """Bytes that one device holds of ShapeDtypeStructs with shardings."""

    def held(leaf: Any) -> int:
        shape = leaf.sharding.shard_shape(leaf.shape)
        return math.prod(shape) * leaf.dtype.itemsize

    return sum(held(leaf) for leaf in jax.tree.leaves(tree))


def measure(built: program.Program, topology: chips.Topology) -> Memory:
    """Equation (1) of a compiled step."""
    held = {
        name: shard_bytes(tree)
        for name, tree in (
            ("parameters", built.state.params),
            ("optimizer", built.state.opt_state),
            ("average", built.state.ema),
            ("batch", built.batch),
        )
    }
    return Memory(
        **held,
        temporaries=max(0, built.hbm - sum(held.values())),
        peak=built.hbm,
        host=built.host,
        capacity=topology.chip.hbm // topology.chip.devices,
    )
