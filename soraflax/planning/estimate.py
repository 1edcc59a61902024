"""Memory and time of a step in closed form: quick, rough, good for ranking.

For a device that holds n tokens of width D, with the P parameters split over
f = fsdp * tensor devices and moments of m bytes a parameter,

    memory = P (12 + m) / f + saved(n) + working(n) + 2 gathered layers           (1)
    saved(n)   as `flops.transformer_activation_bytes`
    working(n) = n (24 D + 6 F / tensor)       bfloat16 and float32 arrays of a block
    products = executed FLOPs / (devices * peak)                                  (2)

and along each axis, in bytes from each device, with w = 2 P / tensor bytes of kernels,

    fsdp      passes * w (f - 1) / f, passes = gathers + 1 reduction              (3)
    context   8 arrays of n D, forward and again backward                         (4)
    tensor    8 sums of n D, twice the bytes                                      (5)
    data      4 P / f, between slices where there are several                     (6)

A plan that was compiled says how far off (1) and (2) are; `calibrate` carries that over
to its neighbours.
"""

import dataclasses

from soraflax import flops
from soraflax.planning import chips, cost
from soraflax.planning import subject as subjects

MOMENTS = {"adamw": 8, "muon": 8, "sgd": 0}
Sizes = dict[str, int]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Of one device.

    Attributes:
      memory: bytes.
      products: seconds of products.
      links: seconds of collectives within a slice.
      dcn: seconds of collectives between slices.
    """

    memory: float
    products: float
    links: float
    dcn: float

    @property
    def step(self) -> float:
        """Seconds, collectives beside products."""
        return max(self.products, self.links, self.dcn)


def make(
    subject: subjects.Subject, sizes: Sizes, *, topology: chips.Topology
) -> Estimate:
    """Equations (1) to (6); `sizes` are those of the mesh's axes."""
    devices = topology.devices
    chip, model = topology.chip, subject.model
    parameters = flops.transformer_parameters(model)
    shards = sizes["fsdp"] * sizes["tensor"]
    tokens = subject.tokens * sizes["tensor"] // devices // subject.train.accumulate
    text = subject.rows * subject.row.text * sizes["tensor"] // devices
    saved = flops.transformer_activation_bytes(model, tokens=tokens, text=text)
    working = tokens * (24 * model.width + 6 * model.mlp // sizes["tensor"])
    gathered = 2 * 2 * parameters / model.depth / sizes["tensor"]
    state = parameters * (12 + MOMENTS[subject.optimizer.name]) / shards
    link = 2 * chip.link / chip.devices
    slices = 4 * parameters / shards if topology.slices > 1 else 0
    return Estimate(
        memory=state + saved + working + gathered,
        products=executed(subject) * chip.devices / devices / chip.peak,
        links=sum(_traffic(subject, sizes, tokens=tokens)) / link,
        dcn=slices * chip.devices / chip.dcn,
    )


def replicas(
    subject: subjects.Subject, sizes: Sizes, *, topology: chips.Topology
) -> float:
    """Seconds to sum gradients over `data` within a slice, float32, twice the bytes."""
    shards = sizes["fsdp"] * sizes["tensor"]
    share = 4 * flops.transformer_parameters(subject.model) / shards
    link = 2 * topology.chip.link / topology.chip.devices
    return 2 * share * (sizes["data"] - 1) / sizes["data"] / link


def executed(subject: subjects.Subject) -> float:
    """FLOPs of a step, padding and what is recomputed counted."""
    model, lengths = subject.model, subject.lengths
    pairs = lengths.self_pairs + lengths.cross_pairs
    padded = flops.Lengths([subject.row.tokens] * subject.rows, [0] * subject.rows)
    dense = flops.transformer_flops(model, padded)
    dense -= 4 * model.width * model.depth * padded.self_pairs
    again = 0 if model.remat in ("none", "dots") else 1
    return dense * (3 + again) + cost.attention(model, pairs=pairs)


def _traffic(
    subject: subjects.Subject, sizes: Sizes, *, tokens: int
) -> tuple[float, float, float]:
    """Equations (3) to (5)."""
    model = subject.model
    again = 0 if model.remat in ("none", "dots") else 1
    kernels = 2 * flops.transformer_parameters(model) / sizes["tensor"]
    fsdp, context, tensor = sizes["fsdp"], sizes["context"], sizes["tensor"]
    passes = (3 + again) * subject.train.accumulate
    array = 2 * tokens * model.width * model.depth * subject.train.accumulate
    return (
        passes * kernels * (fsdp - 1) / fsdp,
        (8 + 4 * again) * array * (context - 1) / context,
        2 * (8 + 4 * again) * array * (tensor - 1) / tensor,
    )


def calibrate(
    rough: Estimate, known: Estimate, *, memory: float, products: float
) -> Estimate:
    """`rough` as far off as `known`, whose true memory and products are given."""
    return dataclasses.replace(
        rough,
        memory=rough.memory * memory / known.memory,
        products=rough.products * (products / known.products if products else 1.0),
    )
