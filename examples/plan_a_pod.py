"""What a training step takes on a TPU pod, without the pod.

python examples/plan_a_pod.py --topology v5p:4x4x4 --compile

Without `--compile` an estimate in closed form, at once. With it the real step is
compiled: half a minute on two cores, and the extra `plan` (the TPU compiler; no TPU).
"""

import argparse
import os
from collections.abc import Sequence

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # arrays stay here; TPUs are compiled for

from experiments.configs import wan2_1_t2v_1_3b
from soraflax.planning import chips, estimate, report, step_plan, workload


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topology", default="v5p:4x4x4", help="CHIP:SIDES")
    parser.add_argument("--compile", action="store_true", help="the real step")
    options = parser.parse_args(arguments)

    topology = chips.parse(options.topology)
    work = workload.from_config(wan2_1_t2v_1_3b.get_config())
    work = workload.with_tpu_attention(work)
    mesh = {"data": 1, "fsdp": topology.devices, "context": 1, "tensor": 1}
    rough = estimate.estimate_step(work, mesh, topology=topology)
    print(f"{topology.name}: {topology.devices} chips, all on fsdp")
    print(f"about {rough.memory / 2**30:.1f} GiB a chip, {rough.step:.2f} s a step")

    if options.compile:
        plan = step_plan.plan_step(work, topology, quick=True)
        print(report.table(plan))


if __name__ == "__main__":
    main()
