"""A better plan for the same model on the same chips.

Every legal mesh, remat policy and number of rows is estimated in closed form
(estimate.py), calibrated by the plan of the given workload. Candidates that fit by
estimate are compiled, up to a number of trials: those with the most tokens a second
first, or, where the given workload does not fit, those that change the fewest of its
settings. The compiler decides what fits.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from soraflax import sharding
from soraflax.planning import chips, estimate, step_plan
from soraflax.planning import workload as workload_lib

POLICIES = ("none", "dots", "attention", "offload", "full")
ROWS = (1, 2, 4)  # rows of every shard of a batch
MARGIN = 1.15  # estimated over usable memory, up to which a candidate is compiled

PlanFn = Callable[[workload_lib.Workload], step_plan.StepPlan]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A workload that differs in mesh, remat or rows, and its estimate."""

    workload: workload_lib.Workload
    estimate: estimate.StepEstimate

    @property
    def rate(self) -> float:
        """Tokens a second, by the estimate."""
        return self.workload.tokens / self.estimate.step


def search(
    workload: workload_lib.Workload,
    topology: chips.Topology,
    *,
    devices: list[Any],
    first: step_plan.StepPlan,
    trials: int,
) -> list[step_plan.StepPlan]:
    """`first` and up to `trials` other plans: those that fit first, the fastest ahead.

    Args:
      workload: workload of `first`.
      topology: slices to compile for.
      devices: devices of the topology.
      first: plan of the given workload.
      trials: number of candidates to compile.
    """

    def plan(candidate: workload_lib.Workload) -> step_plan.StepPlan:
        return step_plan.plan_step(candidate, topology, devices=devices, quick=True)

    return compile_best(
        rank(workload, topology, first=first), first, trials=trials, plan=plan
    )


def compile_best(
    candidates: list[Candidate], first: step_plan.StepPlan, *, trials: int, plan: PlanFn
) -> list[step_plan.StepPlan]:
    """`first` and the plans of the first candidates, sorted by `sort_key`."""
    plans = [first, *(plan(candidate.workload) for candidate in candidates[:trials])]
    return sorted(plans, key=sort_key)


def sort_key(plan: step_plan.StepPlan) -> tuple[bool, float]:
    """Plans that fit first, each by its useful tokens a second."""
    return not plan.fits, -plan.tokens_per_second


def rank(
    workload: workload_lib.Workload,
    topology: chips.Topology,
    *,
    first: step_plan.StepPlan,
) -> list[Candidate]:
    """Candidates that fit by estimate, without `workload` itself.

    The fastest come first; where `first` does not fit, those that change the fewest
    settings of it, and of these the fastest.
    """
    workload = workload_lib.with_tpu_attention(workload)
    own_estimate = estimate.estimate_step(workload, first.mesh, topology=topology)
    products = first.time.products if first.time else 0.0
    usable = MARGIN * step_plan.HBM_BUDGET * first.capacity
    candidates = []
    for other, sizes in neighbours(workload, topology):
        same = other.rows == workload.rows and other.model == workload.model
        if same and sizes == first.mesh:
            continue
        calibrated = estimate.calibrate(
            estimate.estimate_step(other, sizes, topology=topology),
            own_estimate,
            memory=first.needed or own_estimate.memory,
            products=products,
        )
        if calibrated.memory <= usable:
            candidates.append(Candidate(other, calibrated))
    if first.fits:
        return sorted(candidates, key=lambda c: -c.rate)
    return sorted(candidates, key=lambda c: (count_changes(first, c.workload), -c.rate))


def count_changes(first: step_plan.StepPlan, other: workload_lib.Workload) -> int:
    """Number of settings of mesh, remat and rows that differ."""
    sizes = dataclasses.asdict(other.mesh)
    axes = sum(sizes[axis] != size for axis, size in first.mesh.items())
    return axes + (other.model.remat != first.remat) + (other.rows != first.rows)


def neighbours(
    workload: workload_lib.Workload, topology: chips.Topology
) -> Iterator[tuple[workload_lib.Workload, dict[str, int]]]:
    """Every legal mesh, remat policy and number of rows, and the mesh's sizes."""
    for sizes in meshes(workload, topology):
        shards = sizes["data"] * sizes["fsdp"] * workload.train.accumulate
        for policy, rows in itertools.product(POLICIES, ROWS):
            yield (
                dataclasses.replace(
                    workload,
                    model=dataclasses.replace(workload.model, remat=policy),
                    mesh=sharding.MeshConfig(**sizes),
                    rows=shards * rows,
                ),
                sizes,
            )


def meshes(
    workload: workload_lib.Workload, topology: chips.Topology
) -> Iterator[dict[str, int]]:
    """Sizes that divide the model, its rows and the devices; `data` joins slices."""
    model, row = workload.model, workload.row
    slice_devices = topology.devices // topology.slices
    for tensor, context in itertools.product((1, 2, 4, 8), repeat=2):
        if (
            slice_devices % (tensor * context)
            or model.heads % tensor
            or model.mlp % tensor
        ):
            continue
        fsdp = slice_devices // (tensor * context)
        if model.width % fsdp or row.tokens % (context * row.align):
            continue
        yield {
            "data": topology.slices,
            "fsdp": fsdp,
            "context": context,
            "tensor": tensor,
        }


def advice(first: step_plan.StepPlan, plans: list[step_plan.StepPlan]) -> str:
    """One line: whether `first` fits, and if not, the smallest change that does."""
    fitting = [plan for plan in plans if plan.fits]
    if len(plans) == 1:
        return "no other candidate was estimated to fit"
    if not fitting:
        return "nothing that was tried fits: use more chips or shorter rows"
    if first.fits:
        best = fitting[0]
        if best is first:
            return "as configured is the fastest of these that fit"
        gain = best.tokens_per_second / first.tokens_per_second
        return f"{gain:.2f} times the tokens a second: {format_changes(first, best)}"
    smallest = min(
        fitting, key=lambda plan: (len(changes(first, plan)), sort_key(plan))
    )
    return f"the smallest change that fits: {format_changes(first, smallest)}"


def changes(first: step_plan.StepPlan, other: step_plan.StepPlan) -> dict[str, Any]:
    """Settings of mesh, remat and rows that differ, by their keys in a config."""
    changed: dict[str, Any] = {}
    if first.remat != other.remat:
        changed["model.remat"] = other.remat
    changed |= {
        f"mesh.{axis}": size
        for axis, size in other.mesh.items()
        if first.mesh[axis] != size
    }
    if first.rows != other.rows:
        changed["rows"] = other.rows
    return changed


def format_changes(first: step_plan.StepPlan, other: step_plan.StepPlan) -> str:
    """`changes` as `key=value`."""
    return ", ".join(f"{k}={v}" for k, v in changes(first, other).items())
