"""What a compiled step sends between devices: how much, along which axis, how.

A collective over groups of n devices whose buffer has S bytes on each device puts on
the wire, from each device,

    all-gather, reduce-scatter, all-to-all    S (n - 1) / n                       (1)
    all-reduce                                2 S (n - 1) / n                     (2)
    collective-permute                        S                                   (3)

with S the larger of a collective's input and output. It runs asynchronously where the
compiler started it in one place and waits for it in another, with some work in between,
or moved it, step by step, into computations that run beside it (an async collective
fusion, whose steps share one channel). How long that work takes is not asked: a
transfer longer than what lies beside it counts as asynchronous and still makes devices
wait.

Between slices a collective is handed to the host: a `send` that says what becomes of
the buffers of all slices, and a `recv` of the result that bears the same name.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from soraflax.planning import hlo

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
# What a device does while a transfer is under way.
_WORK = ("fusion", "convolution", "dot", "custom-call", "while", "sort")
_SCATTER = "all-reduce-scatter"  # a sum of which each device takes its part, fused
_LISTS = re.compile(r"replica_groups=\{(\{[\d,{}]*\})\}")
_IOTA = r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
_GROUPS = re.compile(r"replica_groups=" + _IOTA)
_MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^()]*(?:\([^()]*\))?)\))?"
    r" \{([^}]*)\}"
)
_ORDER = re.compile(r"\[([\d,]+)\]T\(([\d,]+)\)")
_PAIRS = re.compile(r"source_target_pairs=\{(\{[\d,{}]*\})\}")
_BETWEEN = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_MEETING = re.compile(r'_rendezvous="([^"]*)"')
_CHANNEL = re.compile(r"channel_id=(\d+)")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program, all its runs together.

    Attributes:
      kind: one of `KINDS`.
      axes: mesh axes it goes along.
      group: devices that take part in each.
      bytes: on the wire from one device in a step, equations (1) to (3).
      asynchronous: whether other work runs beside it.
      crosses: whether it leaves a slice.
      runs: how often it runs.
      source: the operation it was made for, as JAX names it.
    """

    kind: str
    axes: tuple[str, ...]
    group: int
    bytes: int
    asynchronous: bool
    crosses: bool
    runs: int
    source: str


def find(module: hlo.Module, mesh: Mesh) -> list[Collective]:
    """The collectives of a program compiled for `mesh`."""
    found: dict[str, tuple[hlo.Instruction, int, bool]] = {}
    for name, runs in module.runs.items():
        lines = module.computations[name] if runs else ()
        for place, line in enumerate(lines):
            inner = _collective(line, module)
            if inner is None:
                continue
            beside = _beside(line, lines[place + 1 :], module=module)
            channel = _CHANNEL.search(inner.attributes)
            chain = channel[1] if channel and line.opcode == "fusion" else line.name
            key = f"{name} {chain}"
            known = found.get(key)
            found[key] = (inner, runs, beside or (known is not None and known[2]))
    made = (
        _measure(line, mesh, runs=n, beside=beside)
        for line, n, beside in found.values()
    )
    return [collective for collective in made if collective.group > 1]


def _collective(line: hlo.Instruction, module: hlo.Module) -> hlo.Instruction | None:
    """The collective that an instruction is or contains."""
    if line.opcode == "send" and _BETWEEN.search(line.attributes):
        return line
    if _kind(line.opcode):
        return None if line.opcode.endswith("-done") else line
    if line.opcode not in ("fusion", "async-start"):
        return None
    inner = _within(line, module)
    if inner is not None and any(_SCATTER in called for called in line.calls):
        return dataclasses.replace(inner, opcode=_SCATTER)
    return inner


def _within(line: hlo.Instruction, module: hlo.Module) -> hlo.Instruction | None:
    """The collective in what a fusion or an async call runs, however deep."""
    for inner in module.inside(line):
        if _kind(inner.opcode):
            return inner
        if inner.opcode in ("call", "fusion") and (found := _within(inner, module)):
            return found
    return None


def _kind(opcode: str) -> str | None:
    if opcode == _SCATTER:
        return "reduce-scatter"
    base = opcode.removesuffix("-start").removesuffix("-done")
    return base if base in KINDS else None


def _beside(
    line: hlo.Instruction, after: Sequence[hlo.Instruction], *, module: hlo.Module
) -> bool:
    """Whether some work, however little, lies between its start and its end."""
    if any("async_collective_fusion" in called for called in line.calls):
        return True
    if line.opcode == "send":
        return _sent_beside(line, after)
    if line.opcode.endswith("-start"):
        for later in after:
            if later.opcode.endswith("-done") and line.name in later.operands:
                return False
            if later.opcode in _WORK:
                return True
    return False


def _sent_beside(line: hlo.Instruction, after: Sequence[hlo.Instruction]) -> bool:
    """Whether other work is scheduled before the result is received."""
    meeting = _MEETING.findall(line.attributes)
    receiver = ""
    for later in after:
        if later.opcode == "recv" and _MEETING.findall(later.attributes) == meeting:
            receiver = later.name
        if later.opcode == "recv-done" and receiver in later.operands:
            return False
        if later.opcode in _WORK:
            return True
    return False


def _measure(
    line: hlo.Instruction, mesh: Mesh, *, runs: int, beside: bool
) -> Collective:
    """Equations (1) to (3)."""
    if line.opcode == "send":
        return _between_slices(line, mesh, runs=runs, beside=beside)
    kind = _kind(line.opcode) or ""
    members = groups(line.attributes, devices=mesh.size)
    pairs = kind == "collective-permute"
    count = members.shape[1]
    size = _buffer(line, count)
    wire = size if pairs else size * (count - 1) // count
    if kind == "all-reduce":
        wire *= 2
    source = re.search(r'op_name="([^"]*)"', line.attributes)
    return Collective(
        kind=kind,
        axes=axes_of(members, mesh),
        group=count,
        bytes=wire * runs,
        asynchronous=beside,
        crosses=_crosses(members, mesh),
        runs=runs,
        source=source[1] if source else "",
    )


def _between_slices(
    line: hlo.Instruction, mesh: Mesh, *, runs: int, beside: bool
) -> Collective:
    """Of what a host sends to those of other slices; `data` is what joins them."""
    named = _BETWEEN.search(line.attributes)
    kind = named[1].lower().replace("_", "-") if named else "send"
    count = len({getattr(d, "slice_index", 0) for d in mesh.devices.flat})
    wire = line.arrays[0].bytes * (count - 1) // count
    return Collective(
        kind=kind,
        axes=("data",),
        group=count,
        bytes=wire * (2 if kind == "all-reduce" else 1) * runs,
        asynchronous=beside,
        crosses=True,
        runs=runs,
        source=next(iter(_MEETING.findall(line.attributes)), ""),
    )


def _buffer(line: hlo.Instruction, count: int) -> int:
    """S: the larger of input and output; a start's result holds both, and flags."""
    arrays = [a.bytes for a in line.arrays]
    if line.opcode == "collective-permute-start":
        return arrays[0]
    if line.opcode == "all-gather-start":
        return sum(arrays[len(arrays) // 2 :])
    return sum(arrays) * (count if line.opcode == "reduce-scatter" else 1)


def _crosses(members: np.ndarray, mesh: Mesh) -> bool:
    slices = [getattr(d, "slice_index", None) or 0 for d in mesh.devices.flat]
    own = np.asarray(slices)[members]
    return bool((own != own[:, :1]).any())


def groups(attributes: str, *, devices: int) -> np.ndarray:
    """Which devices take part: `[groups, size]`, or pairs of source and target.

    Devices are numbered along the flattened mesh. No groups means all devices.
    """
    if found := _MESH.search(attributes):
        return _mesh_groups(*found.groups())
    if found := _GROUPS.search(attributes):
        shape, dims, order = (_numbers(part) for part in found.groups())
        grid = np.arange(math.prod(dims)).reshape(dims)
        return (grid.transpose(order) if order else grid).reshape(shape)
    found = _LISTS.search(attributes) or _PAIRS.search(attributes)
    if not found:
        return np.arange(devices)[None]
    lists = re.findall(r"\{([\d,]+)\}", found[1])
    return np.array([_numbers(entry) for entry in lists])


def _mesh_groups(axes: str, order: str | None, along: str) -> np.ndarray:
    """Groups along some axes of a mesh of XLA's own, `mesh['a'=4,'b'=2] {'a'}`."""
    sizes = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", axes)}
    ids = np.arange(math.prod(sizes.values()))
    if order and (turned := _ORDER.search(order)):
        ids = ids.reshape(_numbers(turned[1])).transpose(_numbers(turned[2]))
    grid = ids.reshape(tuple(sizes.values()))
    names = re.findall(r"'([^']+)'", along)
    moved = [list(sizes).index(name) for name in names]
    grid = np.moveaxis(grid, moved, range(grid.ndim - len(moved), grid.ndim))
    return grid.reshape(-1, math.prod(sizes[name] for name in names))


def _numbers(text: str | None) -> list[int]:
    return [int(n) for n in text.split(",")] if text else []


def axes_of(members: np.ndarray, mesh: Mesh) -> tuple[str, ...]:
    """The mesh axes along which the members of a group differ."""
    places = np.stack(np.unravel_index(members, mesh.devices.shape), axis=-1)
    varies = (places != places[:, :1]).any(axis=(0, 1))
    return tuple(
        name for name, moves in zip(mesh.axis_names, varies, strict=True) if moves
    )


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Collectives of one kind along the same axes, together.

    Attributes:
      kind: one of `KINDS`.
      axes: mesh axes.
      crosses: whether they leave a slice.
      count: how many run in a step.
      bytes: on the wire from one device in a step.
      asynchronous_bytes: of those, bytes that move beside other work.
    """

    kind: str
    axes: tuple[str, ...]
    crosses: bool
    count: int
    bytes: int
    asynchronous_bytes: int


def summarise(found: Sequence[Collective]) -> list[Traffic]:
    """Traffic by kind and axes, the most bytes first."""
    keys = dict.fromkeys((c.kind, c.axes, c.crosses) for c in found)
    made = []
    for key in keys:
        some = [c for c in found if (c.kind, c.axes, c.crosses) == key]
        made.append(
            Traffic(
                *key,
                count=sum(c.runs for c in some),
                bytes=sum(c.bytes for c in some),
                asynchronous_bytes=sum(c.bytes for c in some if c.asynchronous),
            )
        )
    return sorted(made, key=lambda traffic: -traffic.bytes)
