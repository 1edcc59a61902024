"""Collectives of a compiled step: bytes, mesh axes, and whether they are asynchronous.

A collective over groups of n devices whose buffer has S bytes on each device puts on
the wire, from each device,

    all-gather, reduce-scatter, all-to-all    S (n - 1) / n                       (1)
    all-reduce                                2 S (n - 1) / n                     (2)
    collective-permute                        S                                   (3)

with S the larger of a collective's input and output. It is asynchronous where the
compiler scheduled other work between its start and its end, or fused it, step by step,
with computations (an async collective fusion, whose steps share one channel). The time
of that work is not considered: a transfer that takes longer counts as asynchronous, and
devices still wait for it.

Between slices the host carries out a collective: a `send` that names its kind, and a
`recv` of the result with the same rendezvous.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from soraflax.planning import hlo

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
# Operations that a transfer can be hidden behind.
_COMPUTE = ("fusion", "convolution", "dot", "custom-call", "while", "sort")
_SCATTER = "all-reduce-scatter"  # fused all-reduce and slice: a reduce-scatter
_LISTS = re.compile(r"replica_groups=\{(\{[\d,{}]*\})\}")
_IOTA = r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
_GROUPS = re.compile(r"replica_groups=" + _IOTA)
_MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^()]*(?:\([^()]*\))?)\))?"
    r" \{([^}]*)\}"
)
_ORDER = re.compile(r"\[([\d,]+)\]T\(([\d,]+)\)")
_PAIRS = re.compile(r"source_target_pairs=\{(\{[\d,{}]*\})\}")
_MEGASCALE_KIND = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_RENDEZVOUS = re.compile(r'_rendezvous="([^"]*)"')
_CHANNEL = re.compile(r"channel_id=(\d+)")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program, with all of its runs.

    Attributes:
      kind: one of `KINDS`.
      axes: mesh axes that its groups span.
      group: number of devices of a group.
      bytes: bytes sent by one device in a step, equations (1) to (3).
      asynchronous: whether other work is scheduled beside it.
      crosses: whether a group spans several slices.
      runs: number of runs in a step.
      source: JAX's name of the operation that it implements.
    """

    kind: str
    axes: tuple[str, ...]
    group: int
    bytes: int
    asynchronous: bool
    crosses: bool
    runs: int
    source: str


def find_collectives(module: hlo.Module, mesh: Mesh) -> list[Collective]:
    """The collectives of a program compiled for `mesh`."""
    by_key: dict[str, tuple[hlo.Instruction, int, bool]] = {}
    for name, runs in module.runs.items():
        lines = module.computations[name] if runs else ()
        for index, line in enumerate(lines):
            inner = _collective(line, module)
            if inner is None:
                continue
            asynchronous = _is_asynchronous(line, lines[index + 1 :], module=module)
            # The steps of one async collective fusion share a channel: they are one
            # collective, asynchronous if any of them is.
            channel = _CHANNEL.search(inner.attributes)
            chain = channel[1] if channel and line.opcode == "fusion" else line.name
            key = f"{name} {chain}"
            earlier = by_key.get(key)
            asynchronous |= earlier is not None and earlier[2]
            by_key[key] = (inner, runs, asynchronous)
    collectives = (
        _describe(line, mesh, runs=runs, asynchronous=asynchronous)
        for line, runs, asynchronous in by_key.values()
    )
    return [collective for collective in collectives if collective.group > 1]


def _collective(line: hlo.Instruction, module: hlo.Module) -> hlo.Instruction | None:
    """The collective that an instruction is or contains."""
    if line.opcode == "send" and _MEGASCALE_KIND.search(line.attributes):
        return line
    if _kind(line.opcode):
        return None if line.opcode.endswith("-done") else line
    if line.opcode not in ("fusion", "async-start"):
        return None
    inner = _fused_collective(line, module)
    if inner is not None and any(_SCATTER in called for called in line.calls):
        return dataclasses.replace(inner, opcode=_SCATTER)
    return inner


def _fused_collective(
    line: hlo.Instruction, module: hlo.Module
) -> hlo.Instruction | None:
    """The collective that a fusion or async call runs, at any depth."""
    for inner in module.called_by(line):
        if _kind(inner.opcode):
            return inner
        if inner.opcode in ("call", "fusion"):
            nested = _fused_collective(inner, module)
            if nested is not None:
                return nested
    return None


def _kind(opcode: str) -> str | None:
    """The entry of `KINDS` that an opcode is; None if it is no collective."""
    if opcode == _SCATTER:
        return "reduce-scatter"
    base = opcode.removesuffix("-start").removesuffix("-done")
    return base if base in KINDS else None


def _is_asynchronous(
    line: hlo.Instruction, after: Sequence[hlo.Instruction], *, module: hlo.Module
) -> bool:
    """Whether any work is scheduled between its start and its end."""
    if any("async_collective_fusion" in called for called in line.calls):
        return True
    if line.opcode == "send":
        return _is_send_asynchronous(line, after)
    if line.opcode.endswith("-start"):
        for later in after:
            if later.opcode.endswith("-done") and line.name in later.operands:
                return False
            if later.opcode in _COMPUTE:
                return True
    return False


def _is_send_asynchronous(
    line: hlo.Instruction, after: Sequence[hlo.Instruction]
) -> bool:
    """Whether other work is scheduled before the result is received."""
    rendezvous = _RENDEZVOUS.findall(line.attributes)
    receiver = ""
    for later in after:
        if (
            later.opcode == "recv"
            and _RENDEZVOUS.findall(later.attributes) == rendezvous
        ):
            receiver = later.name
        if later.opcode == "recv-done" and receiver in later.operands:
            return False
        if later.opcode in _COMPUTE:
            return True
    return False


def _describe(
    line: hlo.Instruction, mesh: Mesh, *, runs: int, asynchronous: bool
) -> Collective:
    """The collective with its bytes, equations (1) to (3)."""
    if line.opcode == "send":
        return _between_slices(line, mesh, runs=runs, asynchronous=asynchronous)
    kind = _kind(line.opcode) or ""
    members = groups(line.attributes, devices=mesh.size)
    count = members.shape[1]
    size = _buffer(line, count)
    sent = size if kind == "collective-permute" else size * (count - 1) // count
    if kind == "all-reduce":
        sent *= 2
    source = re.search(r'op_name="([^"]*)"', line.attributes)
    return Collective(
        kind=kind,
        axes=axes_of(members, mesh),
        group=count,
        bytes=sent * runs,
        asynchronous=asynchronous,
        crosses=_crosses(members, mesh),
        runs=runs,
        source=source[1] if source else "",
    )


def _between_slices(
    line: hlo.Instruction, mesh: Mesh, *, runs: int, asynchronous: bool
) -> Collective:
    """The collective of a host's `send` to other slices, along `data`."""
    match = _MEGASCALE_KIND.search(line.attributes)
    kind = match[1].lower().replace("_", "-") if match else "send"
    count = len({getattr(d, "slice_index", 0) for d in mesh.devices.flat})
    sent = line.arrays[0].bytes * (count - 1) // count
    return Collective(
        kind=kind,
        axes=("data",),
        group=count,
        bytes=sent * (2 if kind == "all-reduce" else 1) * runs,
        asynchronous=asynchronous,
        crosses=True,
        runs=runs,
        source=next(iter(_RENDEZVOUS.findall(line.attributes)), ""),
    )


def _buffer(line: hlo.Instruction, count: int) -> int:
    """S: the larger of input and output."""
    # The result of a start operation holds its input, its output, and flags.
    arrays = [a.bytes for a in line.arrays]
    if line.opcode == "collective-permute-start":
        return arrays[0]
    if line.opcode == "all-gather-start":
        return sum(arrays[len(arrays) // 2 :])
    return sum(arrays) * (count if line.opcode == "reduce-scatter" else 1)


def _crosses(members: np.ndarray, mesh: Mesh) -> bool:
    """Whether a group has devices of several slices."""
    slices = [getattr(d, "slice_index", None) or 0 for d in mesh.devices.flat]
    own = np.asarray(slices)[members]
    return bool((own != own[:, :1]).any())


def groups(attributes: str, *, devices: int) -> Int[np.ndarray, "groups size"]:
    """Devices of each group, `[groups, size]`, or pairs of source and target.

    Devices are numbered along the flattened mesh. No groups means all devices.
    """
    if match := _MESH.search(attributes):
        return _mesh_groups(match[1], order=match[2], along=match[3])
    if match := _GROUPS.search(attributes):
        # `[2,4]<=[4,2]T(1,0)`: an iota of shape (4, 2), transposed, in 2 groups of 4.
        shape, dims, order = (_numbers(part) for part in match.groups())
        grid = np.arange(math.prod(dims)).reshape(dims)
        return (grid.transpose(order) if order else grid).reshape(shape)
    match = _LISTS.search(attributes) or _PAIRS.search(attributes)
    if not match:
        return np.arange(devices)[None]
    lists = re.findall(r"\{([\d,]+)\}", match[1])
    return np.array([_numbers(entry) for entry in lists])


def _mesh_groups(axes: str, *, order: str | None, along: str) -> np.ndarray:
    """Groups along some axes of a mesh that the program names.

    `mesh['a'=4,'b'=2] {'a'}`: those axes go last, and are flattened.
    """
    sizes = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", axes)}
    ids = np.arange(math.prod(sizes.values()))
    if order and (match := _ORDER.search(order)):
        ids = ids.reshape(_numbers(match[1])).transpose(_numbers(match[2]))
    grid = ids.reshape(tuple(sizes.values()))
    names = re.findall(r"'([^']+)'", along)
    moved = [list(sizes).index(name) for name in names]
    grid = np.moveaxis(grid, moved, range(grid.ndim - len(moved), grid.ndim))
    return grid.reshape(-1, math.prod(sizes[name] for name in names))


def _numbers(text: str | None) -> list[int]:
    return [int(n) for n in text.split(",")] if text else []


def axes_of(members: Int[np.ndarray, "groups size"], mesh: Mesh) -> tuple[str, ...]:
    """The mesh axes along which the members of a group differ."""
    coords = np.stack(np.unravel_index(members, mesh.devices.shape), axis=-1)
    varies = (coords != coords[:, :1]).any(axis=(0, 1))
    return tuple(
        name for name, spans in zip(mesh.axis_names, varies, strict=True) if spans
    )


@dataclasses.dataclass(frozen=True)
class Traffic:
    """The total of collectives of one kind along the same axes.

    Attributes:
      kind: one of `KINDS`.
      axes: mesh axes that their groups span.
      crosses: whether groups span several slices.
      count: number of runs in a step.
      bytes: bytes sent by one device in a step.
      asynchronous_bytes: the part of `bytes` that is asynchronous.
    """

    kind: str
    axes: tuple[str, ...]
    crosses: bool
    count: int
    bytes: int
    asynchronous_bytes: int


def total_traffic(collectives: Sequence[Collective]) -> list[Traffic]:
    """Traffic by kind and axes, the most bytes first."""
    keys = dict.fromkeys((c.kind, c.axes, c.crosses) for c in collectives)
    totals = []
    for key in keys:
        members = [c for c in collectives if (c.kind, c.axes, c.crosses) == key]
        totals.append(
            Traffic(
                *key,
                count=sum(c.runs for c in members),
                bytes=sum(c.bytes for c in members),
                asynchronous_bytes=sum(c.bytes for c in members if c.asynchronous),
            )
        )
    return sorted(totals, key=lambda traffic: -traffic.bytes)
