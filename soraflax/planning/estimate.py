"""Memory and time of a step in closed form: a rough estimate, for ranking.

For a device that holds n tokens of width D, with the P parameters split over
f = fsdp * context * tensor devices and moments of m bytes a parameter,

    memory = P (12 + m) / f + saved(n) + working(n) + 2 gathered layers           (1)
    saved(n)   as `flops.transformer_activation_bytes`
    working(n) = n (24 D + 6 F / tensor)       bfloat16 and float32 arrays of a block
    products = executed FLOPs / (devices * peak)                                  (2)

and along each axis, in bytes from each device, with w = 2 P / tensor bytes of kernels
and s = fsdp * context,

    fsdp      passes * w (s - 1) / s, passes = gathers + 1 reduction              (3)
    context   8 arrays of n D, forward and again backward                         (4)
    tensor    8 sums of n D, twice the bytes                                      (5)
    data      4 P / f, between slices where there are several                     (6)

The errors of (1) and (2) are known for a plan that was compiled; `calibrate` applies
them to similar workloads.
"""

import dataclasses

from soraflax import flops
from soraflax.planning import chips, cost
from soraflax.planning import workload as workload_lib

MOMENTS = {"adamw": 8, "muon": 8, "sgd": 0}
MeshSizes = dict[str, int]


@dataclasses.dataclass(frozen=True)
class StepEstimate:
    """Memory and time of one device.

    Attributes:
      memory: bytes of HBM.
      products: seconds of matrix products.
      links: seconds of collectives within a slice.
      dcn: seconds of collectives between slices.
    """

    memory: float
    products: float
    links: float
    dcn: float

    @property
    def step(self) -> float:
        """Seconds of a step, with all collectives asynchronous."""
        return max(self.products, self.links, self.dcn)


def estimate_step(
    workload: workload_lib.Workload, sizes: MeshSizes, *, topology: chips.Topology
) -> StepEstimate:
    """Equations (1) to (6), for a mesh whose axes have the given sizes."""
    devices = topology.devices
    chip, model = topology.chip, workload.model
    parameters = flops.transformer_parameters(model)
    shards = state_shards(workload, sizes)
    tokens = workload.tokens * sizes["tensor"] // devices // workload.train.accumulate
    text = workload.rows * workload.row.text * sizes["tensor"] // devices
    saved = flops.transformer_activation_bytes(model, tokens=tokens, text=text)
    working = tokens * (24 * model.width + 6 * model.mlp // sizes["tensor"])
    gathered = 2 * 2 * parameters / model.depth / sizes["tensor"]
    state = parameters * (12 + MOMENTS[workload.optimizer.name]) / shards
    link = 2 * chip.link / chip.devices
    dcn_bytes = 4 * parameters / shards if topology.slices > 1 else 0
    return StepEstimate(
        memory=state + saved + working + gathered,
        products=executed_flops(workload) * chip.devices / devices / chip.peak,
        links=sum(_traffic(workload, sizes, tokens=tokens)) / link,
        dcn=dcn_bytes * chip.devices / chip.dcn,
    )


def gradient_reduction_seconds(
    workload: workload_lib.Workload, sizes: MeshSizes, *, topology: chips.Topology
) -> float:
    """Seconds of the all-reduce of float32 gradients over `data` within a slice."""
    shards = state_shards(workload, sizes)
    shard_bytes = 4 * flops.transformer_parameters(workload.model) / shards
    link = 2 * topology.chip.link / topology.chip.devices
    return 2 * shard_bytes * (sizes["data"] - 1) / sizes["data"] / link


def state_shards(workload: workload_lib.Workload, sizes: MeshSizes) -> int:
    """Number of shards of a kernel and its moments (`sharding.param_shardings`)."""
    shards = sizes["fsdp"] * sizes["context"]
    if workload.model.width % shards:
        shards = sizes["fsdp"]
    return shards * sizes["tensor"]


def executed_flops(workload: workload_lib.Workload) -> float:
    """FLOPs of a step on all devices, padding and recomputation included."""
    model, lengths = workload.model, workload.lengths
    pairs = lengths.self_pairs + lengths.cross_pairs
    padded = flops.Lengths([workload.row.tokens] * workload.rows, [0] * workload.rows)
    dense = flops.transformer_flops(model, padded)
    dense -= 4 * model.width * model.depth * padded.self_pairs
    recomputed = 0 if model.remat in ("none", "dots") else 1
    return dense * (3 + recomputed) + cost.attention_flops(model, pairs=pairs)


def _traffic(
    workload: workload_lib.Workload, sizes: MeshSizes, *, tokens: int
) -> tuple[float, float, float]:
    """Bytes of equations (3) to (5)."""
    model = workload.model
    recomputed = 0 if model.remat in ("none", "dots") else 1
    kernels = 2 * flops.transformer_parameters(model) / sizes["tensor"]
    context, tensor = sizes["context"], sizes["tensor"]
    gathered = state_shards(workload, sizes) // tensor
    passes = (3 + recomputed) * workload.train.accumulate
    array = 2 * tokens * model.width * model.depth * workload.train.accumulate
    return (
        passes * kernels * (gathered - 1) / gathered,
        (8 + 4 * recomputed) * array * (context - 1) / context,
        2 * (8 + 4 * recomputed) * array * (tensor - 1) / tensor,
    )


def calibrate(
    rough: StepEstimate, reference: StepEstimate, *, memory: float, products: float
) -> StepEstimate:
    """`rough`, corrected by the error of `reference`.

    Args:
      rough: estimate to correct.
      reference: estimate of a workload that was compiled.
      memory: true bytes of that workload.
      products: true seconds of its matrix products; 0 where they are not known.
    """
    return dataclasses.replace(
        rough,
        memory=rough.memory * memory / reference.memory,
        products=rough.products * (products / reference.products if products else 1.0),
    )
