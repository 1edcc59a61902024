"""The plan of a training step: memory, time and traffic on a topology."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from soraflax import sharding
from soraflax.planning import (
    chip_memory,
    chips,
    collectives,
    cost,
    hlo,
    program,
    roofline,
)
from soraflax.planning import workload as workload_lib
from soraflax.train import mesh_checks

HBM_BUDGET = 0.9  # usable fraction of the HBM: the compiler does not count all


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """Memory, time and traffic of a compiled step.

    Attributes:
      topology: name of a slice, `v5p:8x8x8`.
      slices: number of slices.
      chips: number of chips of all slices.
      devices: number of JAX devices; bytes and FLOPs are per device unless they say
        otherwise.
      mesh: size of every mesh axis.
      rows: rows of a batch, on all devices together.
      row_tokens: tokens of a row.
      clip: tokens of each clip that the rows are taken to be full of.
      remat: remat policy.
      accumulate: number of microbatches.
      memory: bytes by use; None where the step does not fit.
      needed: bytes of HBM that the step takes.
      capacity: bytes of HBM.
      model_flops: FLOPs of the step on all devices, nothing counted twice.
      executed_flops: FLOPs with recomputation and padding.
      hbm_bytes: bytes read from and written to HBM in a step.
      time: seconds by the roofline; None where there is no program.
      traffic: collectives, by kind and axes.
      utilisation: model FLOP utilisation, at best.
      tokens_per_second: useful tokens of all devices.
      unknown_loops: number of loops whose trips depend on data, counted as one trip.
    """

    topology: str
    slices: int
    chips: int
    devices: int
    mesh: dict[str, int]
    rows: int
    row_tokens: int
    clip: int
    remat: str
    accumulate: int
    memory: chip_memory.DeviceMemory | None
    needed: int
    capacity: int
    model_flops: int
    executed_flops: float = 0.0
    hbm_bytes: float = 0.0
    time: roofline.StepTime | None = None
    traffic: tuple[collectives.Traffic, ...] = ()
    utilisation: float = 0.0
    tokens_per_second: float = 0.0
    unknown_loops: int = 0

    @property
    def fits(self) -> bool:
        """Whether the step takes no more than `HBM_BUDGET` of the HBM."""
        return self.memory is not None and self.needed <= HBM_BUDGET * self.capacity

    @property
    def asynchronous(self) -> float:
        """Fraction of the bytes between devices that move asynchronously."""
        total = sum(t.bytes for t in self.traffic)
        asynchronous = sum(t.asynchronous_bytes for t in self.traffic)
        return asynchronous / total if total else 1.0


def plan_step(
    workload: workload_lib.Workload,
    topology: chips.Topology,
    *,
    devices: list[Any] | None = None,
    quick: bool = False,
    options: Mapping[str, Any] | None = None,
) -> StepPlan:
    """Compile the step of `workload` for `topology`, and analyse the program.

    Args:
      workload: sizes of the training step.
      topology: slices to compile for.
      devices: devices of the topology (`program.topology_devices`), made if None.
      quick: stop before the compiler generates machine code.
      options: compiler options beside those of training (`train.compiler`).

    Raises:
      ValueError: sizes that do not divide; raised before anything is compiled.
      MissingCompilerError: libtpu is not installed.
    """
    workload, mesh = workload_and_mesh(
        workload, program.topology_devices(topology) if devices is None else devices
    )
    try:
        compiled = program.compile_step(
            workload, topology, mesh=mesh, quick=quick, options=options
        )
    except program.OutOfMemoryError as error:
        return _plan_without_program(
            workload, topology, mesh=mesh, needed=error.needed or 0
        )
    return plan_from_program(compiled, workload, topology=topology)


def workload_and_mesh(
    workload: workload_lib.Workload, devices: list[Any]
) -> tuple[workload_lib.Workload, Mesh]:
    """The workload with the attention of a TPU, and its mesh over `devices`.

    Raises:
      ValueError: sizes that do not divide.
    """
    workload = workload_lib.with_tpu_attention(workload)
    mesh = workload.mesh.make(devices)
    mesh_checks.check(
        workload.model,
        workload.row,
        rows=workload.rows,
        mesh=mesh,
        accumulate=workload.train.accumulate,
    )
    return workload, mesh


def _plan_without_program(
    workload: workload_lib.Workload,
    topology: chips.Topology,
    *,
    mesh: Mesh,
    needed: int,
) -> StepPlan:
    """What is known of a plan before it is compiled."""
    return StepPlan(
        topology=topology.name,
        slices=topology.slices,
        chips=topology.chips,
        devices=mesh.size,
        mesh={axis: int(size) for axis, size in mesh.shape.items()},
        rows=workload.rows,
        row_tokens=workload.row.tokens,
        clip=workload.clip,
        remat=workload.model.remat,
        accumulate=workload.train.accumulate,
        memory=None,
        needed=needed,
        capacity=topology.chip.hbm // topology.chip.devices,
        model_flops=workload.flops,
    )


def plan_from_program(
    compiled: program.CompiledStep,
    workload: workload_lib.Workload,
    *,
    topology: chips.Topology,
) -> StepPlan:
    """The plan of a compiled step."""
    module, mesh = hlo.parse(compiled.text), compiled.mesh
    memory = chip_memory.device_memory(compiled, topology)
    transfers = collectives.find_collectives(module, mesh)
    program_cost = cost.program_cost(module)
    pairs = workload.lengths.self_pairs + workload.lengths.cross_pairs
    attention_flops = cost.attention_flops(workload.model, pairs=pairs)
    executed_flops = program_cost.flops + attention_flops / mesh.size
    time = roofline.step_time(
        cost.ProgramCost(executed_flops, program_cost.bytes),
        transfers,
        mesh=mesh,
        topology=topology,
    )
    return dataclasses.replace(
        _plan_without_program(workload, topology, mesh=mesh, needed=memory.peak),
        memory=memory,
        executed_flops=executed_flops,
        hbm_bytes=program_cost.bytes,
        time=time,
        traffic=tuple(collectives.total_traffic(transfers)),
        utilisation=roofline.utilisation(
            workload.flops, time.step, topology=topology, chips_used=topology.chips
        ),
        tokens_per_second=sum(workload.lengths.tokens) / time.step,
        unknown_loops=len(module.unknown_loops),
    )


def replicate_over_slices(
    workload: workload_lib.Workload, topology: chips.Topology
) -> workload_lib.Workload:
    """The workload with a replica on every slice, unless it asks for several."""
    if topology.slices == 1 or workload.mesh.data != 1:
        return workload
    mesh = dataclasses.replace(workload.mesh, data=topology.slices)
    return dataclasses.replace(workload, mesh=mesh)


def with_global_rows(
    workload: workload_lib.Workload, devices: list[Any], *, rows: int | None
) -> workload_lib.Workload:
    """The workload with `rows` in all; by default its own on every batch shard."""
    if rows is None:
        rows = workload.rows * len(
            sharding.batch_shard_processes(workload.mesh.make(devices))
        )
    return dataclasses.replace(workload, rows=rows)
