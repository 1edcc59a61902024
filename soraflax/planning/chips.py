"""Peaks and bandwidths of TPU chips, and the slices they come in.

Peak FLOP/s (dense, bfloat16), HBM and pod sizes are those of Google's documentation
(docs.cloud.google.com/tpu/docs, one page for each chip). The bandwidth of one ICI link
in one direction, and of the data-center network, are those that "How to Scale
Your Model" publishes (jax-ml.github.io/scaling-book/tpus, tables of TPU specs), about
a tenth below the data sheets.

A slice is a grid of chips. A side of it is a ring where it wraps around: on chips with
three dimensions where it is a multiple of 4, on those with two only where it is a whole
side of the pod (same source, "TPU Networking").
"""

import dataclasses
import math

from soraflax import config as config_lib

GIB = 2**30
# The slices of chips with two dimensions ("Cloud TPU topologies", one page a chip).
SLICES_2D = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_MEGACORE = (("chip_config_name", "megacore"),)  # two cores as one device


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of TPU.

    Attributes:
      name: prefix of its topologies' names.
      peak: bfloat16 FLOP/s of a chip.
      hbm: bytes of HBM of a chip.
      hbm_bandwidth: bytes/s between a chip and its HBM.
      link: bytes/s of one ICI link, one way.
      dcn: bytes/s of a chip to other slices.
      pod: sides of the largest slice, in chips.
      wrap: number that the sides which are rings are multiples of.
      devices: JAX devices of a chip.
      options: topology options with which the compiler has as many devices as JAX.
    """

    name: str
    peak: float
    hbm: int
    hbm_bandwidth: float
    link: float
    dcn: float
    pod: tuple[int, ...]
    wrap: int
    devices: int = 1
    options: tuple[tuple[str, str], ...] = ()


CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            "v4",
            275e12,
            32 * GIB,
            1.2e12,
            4.5e10,
            6.25e9,
            (16, 16, 16),
            4,
            1,
            _MEGACORE,
        ),
        Chip("v5e", 197e12, 16 * GIB, 8.1e11, 4.5e10, 3.125e9, (16, 16), 16),
        Chip("v5p", 459e12, 95 * GIB, 2.765e12, 9e10, 6.25e9, (16, 20, 28), 4),
        Chip("v6e", 918e12, 32 * GIB, 1.6e12, 9e10, 1.25e10, (16, 16), 16),
        # A chip is two devices, each with half of everything.
        Chip("tpu7x", 2307e12, 192 * GIB, 7.38e12, 9e10, 1.25e10, (16, 16, 36), 4, 2),
    )
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Slices of one kind of chip.

    Attributes:
      chip: kind of chip.
      shape: sides of a slice, in chips.
      slices: number of slices, joined by the data-center network.
    """

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def name(self) -> str:
        """Name of a slice, `v5p:8x8x8`."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        """Number of chips of all slices."""
        return math.prod(self.shape) * self.slices

    @property
    def devices(self) -> int:
        """Number of JAX devices of all slices."""
        return self.chips * self.chip.devices

    def wraps(self, side: int) -> bool:
        """Whether that side of a slice is a ring."""
        return self.shape[side] % self.chip.wrap == 0


def parse(name: str, *, slices: int = 1) -> Topology:
    """A topology from its name, `v5p:8x8x8`.

    Raises:
      ValueError: no such chip, or no such slice of it, naming the nearest.
    """
    kind, _, sides = name.partition(":")
    if kind not in CHIPS:
        hint = config_lib.nearest(kind, CHIPS)
        raise ValueError(f"topology {name!r}: no chip {kind!r}; {hint}")
    chip = CHIPS[kind]
    example = f"{kind}:{'x'.join('4' for _ in chip.pod)}"
    try:
        shape = tuple(int(side) for side in sides.split("x"))
    except ValueError:
        raise ValueError(f"topology {name!r}: use a form like {example}") from None
    if len(shape) != len(chip.pod):
        raise ValueError(
            f"topology {name!r}: slices of {kind} have {len(chip.pod)} sides, not "
            f"{len(shape)}; for example {example}"
        )
    nearest = _nearest(shape, chip)
    if shape != nearest:
        legal = "x".join(map(str, nearest))
        raise ValueError(f"topology {name!r}: no such slice; nearest: {kind}:{legal}")
    if slices < 1:
        raise ValueError(f"{slices} slices: use 1 or more")
    return Topology(chip, shape, slices)


def _nearest(shape: tuple[int, ...], chip: Chip) -> tuple[int, ...]:
    """The nearest slice; in three dimensions its sides keep the order of `shape`.

    A slice of two dimensions is one of `SLICES_2D`. One of three has sides of 1, 2 or a
    multiple of 4, the shortest no longer than the shortest of the pod, and so on.
    """
    if len(chip.pod) == 2:
        low, high = sorted(shape)
        return min(SLICES_2D, key=lambda s: abs(s[0] - low) + abs(s[1] - high))
    nearest = list(shape)
    order = sorted(range(len(shape)), key=lambda side: shape[side])
    for side, longest in zip(order, sorted(chip.pod), strict=True):
        legal = [1, 2, *range(4, longest + 1, 4)]
        nearest[side] = min(legal, key=lambda n: abs(n - shape[side]))
    return tuple(nearest)
