"""A plan: what a training step asks of the chips of a topology, and what it gets."""

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
from soraflax.planning import subject as subjects
from soraflax.train import mesh_checks

FULL = 0.9  # of its HBM that a plan may take: the rest is for what the compiler omits


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the compiler made of a step.

    Attributes:
      topology: a slice, by name.
      slices: how many.
      chips: in all.
      devices: JAX devices in all; all bytes and FLOPs below are of one of them.
      mesh: sizes of its axes.
      rows: of a batch.
      row_tokens: of a row.
      clip: tokens of each clip that the rows are taken to be full of.
      remat: what the backward pass finds saved.
      accumulate: microbatches.
      memory: None where the compiler found no room.
      needed: bytes of a device that a step would take.
      capacity: bytes of HBM of a device.
      model_flops: of the step, all devices together, nothing counted twice.
      executed_flops: of one device, with what is recomputed and padded.
      hbm_bytes: read and written in a step.
      time: of the roofline; None where there is no program.
      traffic: between devices.
      utilisation: of model FLOPs.
      tokens_per_second: useful tokens, all devices together.
      unknown_loops: loops that count as one trip, because their trips depend on data.
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
    memory: chip_memory.Memory | None
    needed: int
    capacity: int
    model_flops: int
    executed_flops: float = 0.0
    hbm_bytes: float = 0.0
    time: roofline.Time | None = None
    traffic: tuple[collectives.Traffic, ...] = ()
    utilisation: float = 0.0
    tokens_per_second: float = 0.0
    unknown_loops: int = 0

    @property
    def fits(self) -> bool:
        """Whether it takes no more than `FULL` of the HBM."""
        return self.memory is not None and self.needed <= FULL * self.capacity

    @property
    def asynchronous(self) -> float:
        """Share of the bytes between devices that moves beside other work."""
        total = sum(t.bytes for t in self.traffic)
        beside = sum(t.asynchronous_bytes for t in self.traffic)
        return beside / total if total else 1.0


def make(
    subject: subjects.Subject,
    topology: chips.Topology,
    *,
    devices: list[Any] | None = None,
    quick: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Plan:
    """Compile the step of `subject` for `topology` and read what came out.

    Args:
      subject: what is trained.
      topology: on what.
      devices: of the topology, if they were made already (`program.devices`).
      quick: end before the compiler writes machine code.
      options: of the compiler, beside those of training (`train.compiler`).

    Raises:
      ValueError: sizes that do not divide; said before anything is compiled.
      MissingCompiler: libtpu is not installed.
    """
    subject, mesh = prepare(
        subject, program.devices(topology) if devices is None else devices
    )
    try:
        built = program.build(
            subject, topology, mesh=mesh, quick=quick, options=options
        )
    except program.OutOfMemory as error:
        return _blank(subject, topology, mesh=mesh, needed=error.needed or 0)
    return read(built, subject, topology=topology)


def prepare(
    subject: subjects.Subject, devices: list[Any]
) -> tuple[subjects.Subject, Mesh]:
    """The subject as a TPU trains it, and its mesh, which suits it.

    Raises:
      ValueError: sizes that do not divide.
    """
    subject = subjects.for_tpu(subject)
    mesh = subject.mesh.make(devices)
    mesh_checks.check(
        subject.model,
        subject.row,
        rows=subject.rows,
        mesh=mesh,
        accumulate=subject.train.accumulate,
    )
    return subject, mesh


def _blank(
    subject: subjects.Subject, topology: chips.Topology, *, mesh: Mesh, needed: int
) -> Plan:
    """A plan without a program."""
    return Plan(
        topology=topology.name,
        slices=topology.slices,
        chips=topology.chips,
        devices=mesh.size,
        mesh={axis: int(size) for axis, size in mesh.shape.items()},
        rows=subject.rows,
        row_tokens=subject.row.tokens,
        clip=subject.clip,
        remat=subject.model.remat,
        accumulate=subject.train.accumulate,
        memory=None,
        needed=needed,
        capacity=topology.chip.hbm // topology.chip.devices,
        model_flops=subject.flops,
    )


def read(
    built: program.Program, subject: subjects.Subject, *, topology: chips.Topology
) -> Plan:
    """The plan of a step that is compiled."""
    module, mesh = hlo.parse(built.text), built.mesh
    held = chip_memory.measure(built, topology)
    found = collectives.find(module, mesh)
    work = cost.measure(module)
    pairs = subject.lengths.self_pairs + subject.lengths.cross_pairs
    executed = work.flops + cost.attention(subject.model, pairs=pairs) / mesh.size
    time = roofline.time((executed, work.bytes), found, mesh=mesh, topology=topology)
    return dataclasses.replace(
        _blank(subject, topology, mesh=mesh, needed=held.peak),
        memory=held,
        executed_flops=executed,
        hbm_bytes=work.bytes,
        time=time,
        traffic=tuple(collectives.summarise(found)),
        utilisation=roofline.utilisation(
            subject.flops, time.step, topology=topology, chips_used=topology.chips
        ),
        tokens_per_second=sum(subject.lengths.tokens) / time.step,
        unknown_loops=len(module.unknown_loops),
    )


def over_slices(
    subject: subjects.Subject, topology: chips.Topology
) -> subjects.Subject:
    """With a replica on every slice, where the configuration asks for one in all."""
    if topology.slices == 1 or subject.mesh.data != 1:
        return subject
    mesh = dataclasses.replace(subject.mesh, data=topology.slices)
    return dataclasses.replace(subject, mesh=mesh)


def rows_of(
    subject: subjects.Subject, devices: list[Any], *, rows: int | None
) -> subjects.Subject:
    """With `rows` in all, or else with as many as its configuration gives each feed."""
    if rows is None:
        rows = subject.rows * len(
            sharding.batch_shard_processes(subject.mesh.make(devices))
        )
    return dataclasses.replace(subject, rows=rows)
