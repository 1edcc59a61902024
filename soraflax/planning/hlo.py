"""The text of a compiled program, as computations of instructions.

Only what planning needs is read: names, shapes, operands, attributes, and how often
each computation runs. A computation runs once for every time its caller does, times
the trip count where the caller is a loop:

    runs(entry) = 1,   runs(c) = sum over callers  runs(caller) * trips(caller, c)  (1)

XLA may write the trip count beside a loop. Where it does not, a loop that counts from 0
in steps of s while it is below a constant runs

    trips = ceil(bound / s)                                                       (2)

times. Any other loop (its trips depend on data) counts as one trip, and is listed in
`unknown_loops`. Of a conditional the first branch counts.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

# Bits of an element, by the name of its type.
BITS = {
    "pred": 8,
    "s4": 4,
    "u4": 4,
    "s8": 8,
    "u8": 8,
    "s16": 16,
    "u16": 16,
    "s32": 32,
    "u32": 32,
    "s64": 64,
    "u64": 64,
    "f16": 16,
    "bf16": 16,
    "f32": 32,
    "f64": 64,
    "c64": 64,
    "c128": 128,
    "f8e4m3fn": 8,
    "f8e5m2": 8,
    "f8e4m3b11fnuz": 8,
}
HBM = 0
HOST = 5
_ARRAY = re.compile(r"([a-z]+\d*\w*)\[([\d,<=]*)\](\{[^{}]*\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%([\w.\-]+)")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_CALLS = re.compile(
    r"(?:calls|to_apply|body|condition|called_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_OTHER_THREAD = "}, execution_thread="  # ends a computation of a SparseCore
_TRIPS = re.compile(r'"known_trip_count":\s*\{"n":\s*"?(\d+)"?\}')


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a shape.

    Attributes:
      dtype: XLA's name of the element type.
      dims: sizes of the axes.
      space: memory space: 0 is HBM, 5 the host, all others are on the chip.
    """

    dtype: str
    dims: tuple[int, ...]
    space: int

    @property
    def bytes(self) -> int:
        return -(-math.prod(self.dims) * BITS.get(self.dtype, 0) // 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: name of its result, without the percent sign.
      opcode: XLA's name of the operation.
      arrays: arrays of its result, in order where it is a tuple.
      operands: names of its operands.
      attributes: the rest of the line.
      root: whether its result is that of the computation.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @property
    def bytes(self) -> int:
        return sum(array.bytes for array in self.arrays)

    @property
    def calls(self) -> tuple[str, ...]:
        """Computations it runs, in the order of the text."""
        branches = _BRANCHES.search(self.attributes)
        names = _CALLS.findall(self.attributes)
        return (*names, *(_NAME.findall(branches[1]) if branches else ()))

    @property
    def number(self) -> int | None:
        """Value of an integer constant; None of anything else."""
        text = self.operands[0] if self.operands else ""
        integer = self.opcode == "constant" and text.lstrip("-").isdigit()
        return int(text) if integer else None

    @property
    def trips(self) -> int | None:
        """Trip count of a loop as XLA states it; None where it does not."""
        match = _TRIPS.search(self.attributes)
        return int(match[1]) if match else None


@dataclasses.dataclass(frozen=True)
class Module:
    """A program.

    Attributes:
      entry: name of the computation that it starts with.
      computations: instructions of each, by name, in order.
    """

    entry: str
    computations: dict[str, tuple[Instruction, ...]]

    @functools.cached_property
    def runs(self) -> dict[str, int]:
        """Equation (1): runs of each computation; bodies of fusions have none."""
        runs = dict.fromkeys(self.computations, 0)
        runs[self.entry] = 1
        for name in self._callers_first:
            for instruction in self.computations[name]:
                for called, trips in self._control_flow(instruction):
                    runs[called] += runs[name] * trips
        return runs

    @functools.cached_property
    def _callers_first(self) -> tuple[str, ...]:
        """Computations in topological order of the calls."""
        visited: dict[str, None] = {}

        def visit(name: str) -> None:
            if name in visited:
                return
            for instruction in self.computations[name]:
                for called, _ in self._control_flow(instruction):
                    visit(called)
            visited[name] = None

        visit(self.entry)
        return tuple(reversed(visited))

    def _control_flow(self, instruction: Instruction) -> Iterator[tuple[str, int]]:
        """Computations that a loop, call or conditional runs, with their trips."""
        if instruction.opcode not in ("while", "call", "conditional"):
            return
        trips = 1
        if instruction.opcode == "while":
            trips = self.loop_trips(instruction) or 1
        called = [name for name in instruction.calls if name in self.computations]
        for name in called[:1] if instruction.opcode == "conditional" else called:
            yield name, trips

    def loop_trips(self, loop: Instruction) -> int | None:
        """XLA's own count of a loop's trips, or that of equation (2)."""
        if loop.trips is not None:
            return loop.trips
        names = dict(re.findall(r"(condition|body)=%?([\w.\-]+)", loop.attributes))
        condition = self.by_name(names.get("condition", ""))
        root = next((i for i in condition.values() if i.root), None)
        if root is None or "direction=LT" not in root.attributes:
            return None
        counter, bound = (condition.get(name) for name in root.operands[:2])
        if counter is None or bound is None or bound.number is None:
            return None
        element = re.search(r"index=(\d+)", counter.attributes)
        step = self._increment(names.get("body", ""), int(element[1]) if element else 0)
        return None if step is None else -(-bound.number // step)

    def _increment(self, body: str, element: int) -> int | None:
        """The constant that a loop's body adds to one element of its state."""
        lines = self.by_name(body)
        root = next((i for i in lines.values() if i.root), None)
        if root is None or element >= len(root.operands):
            return None
        last = lines.get(root.operands[element])
        while last is not None and last.opcode in ("copy", "bitcast"):
            last = lines.get(last.operands[0])
        if last is None or last.opcode != "add":
            return None
        terms = [lines[name].number for name in last.operands if name in lines]
        return next((term for term in terms if term), None)

    def by_name(self, computation: str) -> dict[str, Instruction]:
        """The instructions of a computation by name."""
        return {i.name: i for i in self.computations.get(computation, ())}

    @property
    def unknown_loops(self) -> tuple[str, ...]:
        """Names of the loops whose trips depend on data."""
        return tuple(
            instruction.name
            for instruction, _ in self.executed()
            if instruction.opcode == "while" and self.loop_trips(instruction) is None
        )

    def executed(self) -> Iterator[tuple[Instruction, int]]:
        """Every instruction outside of fusions, and the number of its runs."""
        for name, count in self.runs.items():
            if count:
                for instruction in self.computations[name]:
                    yield instruction, count

    def called_by(self, instruction: Instruction) -> tuple[Instruction, ...]:
        """Instructions of the computation that a fusion or async call runs."""
        called = instruction.calls
        return self.computations.get(called[0], ()) if called else ()


def parse(text: str) -> Module:
    """The computations of an optimised module's text.

    Raises:
      ValueError: the text has no ENTRY.
    """
    computations: dict[str, tuple[Instruction, ...]] = {}
    entry, name, lines = "", "", []
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head and " = " not in line.split("(", 1)[0]:
            name, lines = head[2], []
            entry = name if head[1] else entry
        elif name and (line.rstrip() == "}" or line.startswith(_OTHER_THREAD)):
            computations[name] = tuple(lines)
            name = ""
        elif name:
            instruction = _instruction(line)
            if instruction:
                lines.append(instruction)
    if entry not in computations:
        raise ValueError("not the text of a compiled program: it has no ENTRY")
    return Module(entry, computations)


def _instruction(line: str) -> Instruction | None:
    left, equals, right = line.strip().partition(" = ")
    if not equals:
        return None
    root = left.startswith("ROOT ")
    end = _span(right) if right.startswith("(") else right.find(" ")
    shape, rest = right[:end], right[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    stop = len(opcode) + _span(rest[len(opcode) :])
    inner = rest[len(opcode) + 1 : stop - 1]
    names = tuple(_NAME.findall(inner)) or ((inner.strip(),) if inner.strip() else ())
    return Instruction(
        name=left.removeprefix("ROOT ").lstrip("%"),
        opcode=opcode,
        arrays=tuple(arrays(shape)),
        operands=names,
        attributes=rest[stop:],
        root=root,
    )


def _span(text: str) -> int:
    """Length of the parenthesised expression that the text begins with."""
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return index + 1
    return len(text)


def arrays(shape: str) -> Iterator[Array]:
    """The arrays of a shape's text."""
    for dtype, dims, layout in _ARRAY.findall(shape):
        space = _SPACE.search(layout)
        sizes = tuple(int(d.lstrip("<=")) for d in dims.split(",") if d)
        yield Array(dtype, sizes, int(space[1]) if space else HBM)
