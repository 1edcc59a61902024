"""Steps of Wan's transformers on TPU pods, planned without one.

    python -m experiments.benchmarks.pod_plans [--quick] [--only v5p-64 ...]

Needs the extra `plan` (`make plan` installs it). Prints one JSON line per preset: the
plan (`soraflax plan --json`), and how the compiler ran the collectives that are not
asynchronous; or the error, where the compiler found no room. Compiling to the end takes
minutes a preset; with `--quick`, which stops before machine code, half a minute. `weak`
prints predicted seconds of a step from 8 to 4,096 chips at the same load a chip
(`weak_scaling`), after the plan it starts from.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX is loaded

import tqdm

from experiments.benchmarks import measurement
from experiments.configs import wan2_1_t2v_1_3b, wan2_1_t2v_14b, wan2_2_ti2v_5b
from soraflax import sharding
from soraflax.planning import (
    chips,
    collectives,
    estimate,
    hlo,
    program,
    report,
    step_plan,
)
from soraflax.planning import workload as workload_lib


@dataclasses.dataclass(frozen=True)
class Pod:
    """A config, and the topology that it is planned for.

    Attributes:
      config: a module of `experiments.configs`.
      preset: argument of its `get_config`.
      topology: name of a slice.
      slices: number of slices.
      size: prefix of the name for models other than 14B.
    """

    config: ModuleType
    preset: str
    topology: str
    slices: int = 1
    size: str = ""

    @property
    def name(self) -> str:
        return f"{self.size}{'-' if self.size else ''}{self.preset}"


PODS = (
    Pod(wan2_1_t2v_1_3b, "v6e-16", "v6e:4x4", size="1.3b"),
    Pod(wan2_2_ti2v_5b, "v6e-64", "v6e:8x8", size="5b"),
    Pod(wan2_1_t2v_14b, "v5p-64", "v5p:4x4x4"),
    Pod(wan2_1_t2v_14b, "v6e-256", "v6e:16x16"),
    Pod(wan2_1_t2v_14b, "v6e-512", "v6e:16x16", slices=2),
    Pod(wan2_1_t2v_14b, "tpu7x-64", "tpu7x:4x4x4"),
    Pod(wan2_1_t2v_14b, "v5p-512", "v5p:8x8x8"),
    Pod(wan2_1_t2v_14b, "million", "v5p:8x8x8"),
)
WEAK = ("v5p-64", "v5p:4x4x4")  # preset and topology of the 5B config
CHIPS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
MAX_FSDP = 16  # devices of a fully sharded group; more chips add groups


def plan(values: Any, name: str, *, slices: int, quick: bool) -> dict[str, Any]:
    """The plan of a config, and its synchronous collectives, the largest first.

    Raises:
      ValueError: a mesh that does not divide the model or its rows.
      OutOfMemoryError: it does not fit.
    """
    topology = chips.parse(name, slices=slices)
    workload = workload_lib.from_config(values)
    devices = program.topology_devices(topology)
    workload, mesh = step_plan.workload_and_mesh(
        step_plan.with_global_rows(workload, devices, rows=None), devices
    )
    compiled = program.compile_step(workload, topology, mesh=mesh, quick=quick)
    result = step_plan.plan_from_program(compiled, workload, topology=topology)
    transfers = collectives.find_collectives(hlo.parse(compiled.text), mesh)
    waiting = collectives.total_traffic([c for c in transfers if not c.asynchronous])
    return {
        "quick": quick,
        **json.loads(report.to_json(result)),
        "share_of_hbm": round(result.needed / result.capacity, 3),
        "dcn": sorted({c.kind for c in transfers if c.crosses}),
        "waited_for": [
            {"kind": t.kind, "axes": t.axes, "gib": round(t.bytes / chips.GIB, 2)}
            for t in waiting[:4]
        ],
    }


def weak_scaling(
    workload: workload_lib.Workload, reference: dict[str, Any]
) -> list[dict[str, Any]]:
    """Seconds of a step of one model at one load a chip, in closed form.

    Assumes: rows grow with the chips; memory and products of a chip are as far from
    `estimate` as they are in the plan that was compiled; collectives run beside
    products; up to `MAX_FSDP` devices share the parameters, and groups of them are
    replicas, whose gradients are summed along `data` over ICI; one slice, whatever its
    size. What it leaves out: kernels below peak, stragglers, input.

    Args:
      workload: workload of `WEAK`.
      reference: its plan, as `plan` returns it.
    """
    topology = chips.parse(WEAK[1])
    estimated = estimate.estimate_step(workload, reference["mesh"], topology=topology)
    points = []
    for count in CHIPS:
        shards = min(MAX_FSDP, count // 4)
        sizes = {"data": count // 4 // shards, "fsdp": shards, "context": 4}
        sizes["tensor"] = 1
        other = dataclasses.replace(
            workload,
            rows=sizes["data"] * shards,
            mesh=sharding.MeshConfig(**sizes),
        )
        scaled = chips.Topology(topology.chip, (count, 1, 1))
        calibrated = estimate.calibrate(
            estimate.estimate_step(other, sizes, topology=scaled),
            estimated,
            memory=reference["needed"],
            products=reference["time"]["products"],
        )
        reduction = estimate.gradient_reduction_seconds(other, sizes, topology=scaled)
        step = max(calibrated.products, calibrated.links + reduction)
        points.append(
            {
                "chips": count,
                "mesh": sizes,
                "step_seconds": round(step, 3),
                "products_seconds": round(calibrated.products, 3),
                "links_seconds": round(calibrated.links, 3),
                "replicas_seconds": round(reduction, 3),
                "memory_gib": round(calibrated.memory / chips.GIB, 1),
                "fits": calibrated.memory <= step_plan.HBM_BUDGET * topology.chip.hbm,
                "tokens_per_second": round(sum(other.lengths.tokens) / step),
            }
        )
    return points


def main(argv: Sequence[str] | None = None) -> int:
    parser = measurement.make_parser("pod_plans", __doc__)
    names = [pod.name for pod in PODS]
    parser.add_argument("--only", nargs="+", choices=[*names, "weak"])
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args(argv)
    names = arguments.only or [*names, "weak"]

    def lines() -> Iterator[measurement.Line]:
        pods = [pod for pod in PODS if pod.name in names]
        for pod in tqdm.tqdm(pods, unit="pod", disable=None):
            yield line(pod, quick=arguments.quick)
        if "weak" in names:
            yield from weak_lines(quick=arguments.quick)

    return measurement.run_benchmark("pod_plans", lines)


def line(pod: Pod, *, quick: bool) -> dict[str, Any]:
    """The printed line of a pod; an error where the step does not fit."""
    values = pod.config.get_config(pod.preset)
    try:
        fields = plan(values, pod.topology, slices=pod.slices, quick=quick)
    except program.OutOfMemoryError as error:
        fields = {"error": str(error)}
    return {"preset": pod.name} | fields


def weak_lines(*, quick: bool) -> Iterator[measurement.Line]:
    """The plan of `WEAK`, and every point of its weak scaling."""
    values = wan2_2_ti2v_5b.get_config(WEAK[0])
    reference = plan(values, WEAK[1], slices=1, quick=quick)
    yield {"preset": f"5b {WEAK[0]}"} | reference
    workload = dataclasses.replace(
        workload_lib.from_config(values), rows=reference["rows"]
    )
    workload = workload_lib.with_tpu_attention(workload)
    yield from ({"weak": point} for point in weak_scaling(workload, reference))


if __name__ == "__main__":
    sys.exit(main())
