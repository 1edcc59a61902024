"""A better plan for the same model on the same chips.

Every mesh, remat policy and number of rows that is legal is estimated in closed form
(estimate.py), scaled to agree with the plan that was asked for. The ones that seem to
fit are compiled until enough were: those with the most tokens a second first, or, where
the plan that was asked for does not fit, those that change the fewest settings of it.
The compiler has the last word on what fits.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from soraflax import sharding
from soraflax.planning import chips, estimate, step_plan
from soraflax.planning import subject as subjects

POLICIES = ("none", "dots", "attention", "offload", "full")
ROWS = (1, 2, 4)  # of a batch, for every shard of it
MARGIN = 1.15  # of what may be used, up to which an estimate is worth compiling

Make = Callable[[subjects.Subject], step_plan.Plan]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A subject that differs in mesh, remat or rows, and what is thought of it."""

    subject: subjects.Subject
    estimate: estimate.Estimate

    @property
    def rate(self) -> float:
        """Tokens a second, by the estimate."""
        return self.subject.tokens / self.estimate.step


def search(
    subject: subjects.Subject,
    topology: chips.Topology,
    *,
    devices: list[Any],
    first: step_plan.Plan,
    trials: int,
) -> list[step_plan.Plan]:
    """`first` and up to `trials` other plans: those that fit first, the fastest ahead.

    Args:
      subject: what `first` was made of.
      topology: on what.
      devices: of the topology.
      first: the plan that was asked for.
      trials: how many to compile.
    """

    def make(other: subjects.Subject) -> step_plan.Plan:
        return step_plan.make(other, topology, devices=devices, quick=True)

    return compile_best(
        rank(subject, topology, first=first), first, trials=trials, make=make
    )


def compile_best(
    candidates: list[Candidate], first: step_plan.Plan, *, trials: int, make: Make
) -> list[step_plan.Plan]:
    """The plans of the first candidates, sorted by `order`; `first` is among them."""
    found = [first]
    for candidate in candidates[:trials]:
        found.append(make(candidate.subject))
    return sorted(found, key=order)


def order(made: step_plan.Plan) -> tuple[bool, float]:
    """Sorts what fits first, then by useful tokens a second."""
    return not made.fits, -made.tokens_per_second


def rank(
    subject: subjects.Subject, topology: chips.Topology, *, first: step_plan.Plan
) -> list[Candidate]:
    """What may fit by estimate, without `subject` itself.

    The fastest come first; where `first` does not fit, those that change the fewest
    settings of it, and of these the fastest.
    """
    subject = subjects.for_tpu(subject)
    own = estimate.make(subject, first.mesh, topology=topology)
    products = first.time.products if first.time else 0.0
    room = MARGIN * step_plan.FULL * first.capacity
    found = []
    for other, sizes in neighbours(subject, topology):
        same = other.rows == subject.rows and other.model == subject.model
        if same and sizes == first.mesh:
            continue
        guess = estimate.calibrate(
            estimate.make(other, sizes, topology=topology),
            own,
            memory=first.needed or own.memory,
            products=products,
        )
        if guess.memory <= room:
            found.append(Candidate(other, guess))
    if first.fits:
        return sorted(found, key=lambda candidate: -candidate.rate)
    return sorted(found, key=lambda c: (changed(first, c.subject), -c.rate))


def changed(first: step_plan.Plan, other: subjects.Subject) -> int:
    """How many of mesh, remat and rows differ; every size of the mesh counts."""
    sizes = dataclasses.asdict(other.mesh)
    axes = sum(sizes[axis] != size for axis, size in first.mesh.items())
    return axes + (other.model.remat != first.remat) + (other.rows != first.rows)


def neighbours(
    subject: subjects.Subject, topology: chips.Topology
) -> Iterator[tuple[subjects.Subject, dict[str, int]]]:
    """Every legal mesh, remat policy and number of rows, and the mesh's sizes."""
    for sizes in meshes(subject, topology):
        shards = sizes["data"] * sizes["fsdp"] * subject.train.accumulate
        for policy, rows in itertools.product(POLICIES, ROWS):
            yield (
                dataclasses.replace(
                    subject,
                    model=dataclasses.replace(subject.model, remat=policy),
                    mesh=sharding.MeshConfig(**sizes),
                    rows=shards * rows,
                ),
                sizes,
            )


def meshes(
    subject: subjects.Subject, topology: chips.Topology
) -> Iterator[dict[str, int]]:
    """Sizes that divide the model, its rows and the devices; `data` joins slices."""
    model, row = subject.model, subject.row
    within = topology.devices // topology.slices
    for tensor, context in itertools.product((1, 2, 4, 8), repeat=2):
        if within % (tensor * context) or model.heads % tensor or model.mlp % tensor:
            continue
        fsdp = within // (tensor * context)
        if model.width % fsdp or row.tokens % (context * row.align):
            continue
        yield {
            "data": topology.slices,
            "fsdp": fsdp,
            "context": context,
            "tensor": tensor,
        }


def advice(first: step_plan.Plan, found: list[step_plan.Plan]) -> str:
    """One line: whether `first` fits, and if not, the smallest change that does."""
    fitting = [made for made in found if made.fits]
    if len(found) == 1:
        return "no other candidate was estimated to fit"
    if not fitting:
        return "nothing that was tried fits: use more chips or shorter rows"
    if first.fits:
        best = fitting[0]
        if best is first:
            return "as configured is the fastest of these that fit"
        gain = best.tokens_per_second / first.tokens_per_second
        return f"{gain:.2f} times the tokens a second: {flags(first, best)}"
    smallest = min(fitting, key=lambda made: (len(changes(first, made)), order(made)))
    return f"the smallest change that fits: {flags(first, smallest)}"


def changes(first: step_plan.Plan, other: step_plan.Plan) -> dict[str, Any]:
    """What of mesh, remat and rows differs, by the name it has in a configuration."""
    found: dict[str, Any] = {}
    if first.remat != other.remat:
        found["model.remat"] = other.remat
    found |= {
        f"mesh.{axis}": size
        for axis, size in other.mesh.items()
        if first.mesh[axis] != size
    }
    if first.rows != other.rows:
        found["rows"] = other.rows
    return found


def flags(first: step_plan.Plan, other: step_plan.Plan) -> str:
    """`changes` as they are written."""
    return ", ".join(f"{k}={v}" for k, v in changes(first, other).items())
