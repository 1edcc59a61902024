"""Steps of Wan's transformers on TPU pods, planned without one.

    python -m experiments.benchmarks.pod_plans [--quick] [--only v5p-64 ...]

Needs the extra `plan` (`make plan` installs it). Prints one JSON line per preset: the
plan (`soraflax plan --json`), and how the compiler ran the collectives that are not
asynchronous; or the error, where the compiler found no room. Compiling to the end takes
minutes a preset; with `--quick`, which stops before machine code, half a minute. `weak`
prints predicted seconds of a step from 8 to 4,096 chips at the same load a chip
(`weak_scaling`), after the plan it starts from.
"""

import argparse
import dataclasses
import json
import os
from types import ModuleType
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX is loaded

import tqdm

from experiments import command
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
from soraflax.planning import subject as subjects


@dataclasses.dataclass(frozen=True)
class Pod:
    """What is planned, and on what.

    Attributes:
      config: a config of `experiments.configs`.
      preset: of the config.
      topology: a slice, by name.
      slices: how many.
      size: of the model, where it is not 14B.
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
WEAK = ("v5p-64", "v5p:4x4x4")  # of the 5B config
CHIPS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
LONGEST = 16  # devices of a fully sharded group, at most: more chips add groups


def make(values: Any, name: str, *, slices: int, quick: bool) -> dict[str, Any]:
    """The plan of a config, and its collectives that wait, the largest first.

    Raises:
      ValueError: a mesh that does not divide the model or its rows.
      OutOfMemory: it does not fit.
    """
    topology = chips.parse(name, slices=slices)
    subject = subjects.read(values)
    devices = program.devices(topology)
    subject, mesh = step_plan.prepare(
        step_plan.rows_of(subject, devices, rows=None), devices
    )
    built = program.build(subject, topology, mesh=mesh, quick=quick)
    made = step_plan.read(built, subject, topology=topology)
    found = collectives.find(hlo.parse(built.text), mesh)
    waiting = collectives.summarise([c for c in found if not c.asynchronous])
    return {
        "quick": quick,
        **json.loads(report.to_json(made)),
        "share_of_hbm": round(made.needed / made.capacity, 3),
        "dcn": sorted({c.kind for c in found if c.crosses}),
        "waited_for": [
            {"kind": t.kind, "axes": t.axes, "gib": round(t.bytes / chips.GIB, 2)}
            for t in waiting[:4]
        ],
    }


def weak_scaling(
    subject: subjects.Subject, known: dict[str, Any]
) -> list[dict[str, Any]]:
    """Seconds of a step of one model at one load a chip, in closed form.

    Assumes: rows grow with the chips; memory and products of a chip are as far from
    `estimate` as they are in the plan that was compiled; collectives run beside
    products; up to `LONGEST` devices share the parameters, and groups of them are
    replicas, whose gradients are summed along `data` over ICI; one slice, whatever its
    size. What it leaves out: kernels below peak, stragglers, input.

    Args:
      subject: of `WEAK`.
      known: its plan.
    """
    topology = chips.parse(WEAK[1])
    own = estimate.make(subject, known["mesh"], topology=topology)
    found = []
    for count in CHIPS:
        shards = min(LONGEST, count // 4)
        sizes = {"data": count // 4 // shards, "fsdp": shards, "context": 4}
        sizes["tensor"] = 1
        other = dataclasses.replace(
            subject,
            rows=sizes["data"] * shards,
            mesh=sharding.MeshConfig(**sizes),
        )
        scaled = chips.Topology(topology.chip, (count, 1, 1))
        guess = estimate.calibrate(
            estimate.make(other, sizes, topology=scaled),
            own,
            memory=known["needed"],
            products=known["time"]["products"],
        )
        summed = estimate.replicas(other, sizes, topology=scaled)
        step = max(guess.products, guess.links + summed)
        found.append(
            {
                "chips": count,
                "mesh": sizes,
                "step_seconds": round(step, 3),
                "products_seconds": round(guess.products, 3),
                "links_seconds": round(guess.links, 3),
                "replicas_seconds": round(summed, 3),
                "memory_gib": round(guess.memory / chips.GIB, 1),
                "fits": guess.memory <= step_plan.FULL * topology.chip.hbm,
                "tokens_per_second": round(sum(other.lengths.tokens) / step),
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [pod.name for pod in PODS]
    parser.add_argument("--only", nargs="+", choices=[*names, "weak"])
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    wanted = args.only or [*names, "weak"]
    try:
        pods = [pod for pod in PODS if pod.name in wanted]
        for pod in tqdm.tqdm(pods, unit="pod", disable=None):
            print(json.dumps(line(pod, quick=args.quick)), flush=True)
        if "weak" in wanted:
            print_weak_scaling(quick=args.quick)
    except (ValueError, ImportError) as error:
        command.fail(error)


def line(pod: Pod, *, quick: bool) -> dict[str, Any]:
    """What is printed of a pod; an error where the compiler found no room."""
    values = pod.config.get_config(pod.preset)
    try:
        made = make(values, pod.topology, slices=pod.slices, quick=quick)
    except program.OutOfMemory as error:
        made = {"error": str(error)}
    return {"preset": pod.name} | made


def print_weak_scaling(*, quick: bool) -> None:
    values = wan2_2_ti2v_5b.get_config(WEAK[0])
    known = make(values, WEAK[1], slices=1, quick=quick)
    print(json.dumps({"preset": f"5b {WEAK[0]}"} | known), flush=True)
    subject = dataclasses.replace(subjects.read(values), rows=known["rows"])
    for point in weak_scaling(subjects.for_tpu(subject), known):
        print(json.dumps({"weak": point}), flush=True)


if __name__ == "__main__":
    main()
