"""FLOPs and bytes of a compiled program, loops counted as often as they run.

XLA's own analysis counts the body of a loop once, and nothing in a Pallas kernel. Here
products are counted from their shapes,

    dot           2 * numbers of the result * length of the contraction          (1)
    convolution   2 * numbers of the result * taps that meet data * features in  (2)

(a TPU program has its products as convolutions), and bytes by what every instruction
outside a fusion reads from HBM and writes to it. A slice of an array counts as the
slice, and an update in place as the update. Attention kernels say nothing of what they
do inside, so with P pairs of queries and keys that touch,

    attention     2 D P * products a pair takes, of all heads together            (3)

where the forward kernel makes 2 and the backward kernels 5 (one pass over the pairs) or
7 (two passes, as splash), and the forward one runs again where remat does not save it.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

from soraflax.nn import dit
from soraflax.planning import hlo

# Products of queries and keys, or the like: forward, backward. Those of the reference
# stand in the program's text.
KERNELS = {"reference": (0, 0), "blocks": (2, 5), "splash": (2, 7)}
ATTENTION_RUNS_AGAIN = ("full", "dots")
_NOTHING = {
    "parameter",
    "constant",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "while",
    "call",
    "conditional",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
}
_WINDOW = re.compile(r"window=\{([^}]*)\}")
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one device in one step.

    Attributes:
      flops: of products, equations (1) and (2).
      bytes: read from HBM and written to it.
    """

    flops: float
    bytes: float


def measure(module: hlo.Module) -> Cost:
    """Sums over what runs."""
    flops = moved = 0.0
    for name, runs in module.runs.items():
        if not runs:
            continue
        known = module.named(name)
        for line in known.values():
            flops += runs * sum(
                _flops(i, near) for i, near in _deep(line, known, module=module)
            )
            moved += runs * _bytes(line, known, module=module)
    return Cost(flops, moved)


def attention(model: dit.DiTConfig, *, pairs: int) -> float:
    """Equation (3), all layers and devices together; `pairs` of every layer."""
    forward, backward = KERNELS[model.attention]
    again = forward if model.remat in ATTENTION_RUNS_AGAIN else 0
    return 2.0 * model.width * pairs * (forward + again + backward) * model.depth


def _deep(
    line: hlo.Instruction, known: dict[str, hlo.Instruction], *, module: hlo.Module
) -> Iterator[tuple[hlo.Instruction, dict[str, hlo.Instruction]]]:
    """An instruction, or those of the fusion it runs, each with its neighbours."""
    if line.opcode != "fusion":
        yield line, known
        return
    inner = module.named(line.calls[0])
    for instruction in inner.values():
        yield from _deep(instruction, inner, module=module)


def _flops(line: hlo.Instruction, known: dict[str, hlo.Instruction]) -> float:
    if line.opcode not in ("dot", "convolution"):
        return 0.0
    left, right = (known.get(name) for name in line.operands[:2])
    if left is None or right is None:
        return 0.0
    out = math.prod(line.arrays[0].dims)
    if line.opcode == "dot":
        return 2.0 * out * _contraction(line, left)
    return 2.0 * _convolution(line, left.arrays[0].dims, right=right.arrays[0].dims)


def _contraction(line: hlo.Instruction, left: hlo.Instruction) -> int:
    found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.attributes)
    dims = [int(n) for n in found[1].split(",") if n] if found else []
    return math.prod(left.arrays[0].dims[d] for d in dims)


def _convolution(
    line: hlo.Instruction, left: tuple[int, ...], *, right: tuple[int, ...]
) -> float:
    """Multiplications of equation (2)."""
    labels = _LABELS.search(line.attributes)
    if not labels:
        return 0.0
    kernel, result = labels[2], labels[3]
    out = line.arrays[0].dims
    features = right[kernel.index("i")]
    total = features * out[result.index("b")] * out[result.index("f")]
    window = _WINDOW.search(line.attributes)
    fields = dict(f.split("=") for f in window[1].split()) if window else {}
    for place, digit in enumerate(sorted(c for c in kernel if c.isdigit())):
        total *= _taps(
            size=right[kernel.index(digit)],
            length=left[labels[1].index(digit)],
            out=out[result.index(digit)],
            fields={k: v.split("x")[place] for k, v in fields.items()},
        )
    return float(total)


def _taps(*, size: int, length: int, out: int, fields: dict[str, str]) -> int:
    """Pairs of a place in the result and a tap that meets data, along one side."""
    stride, spread = int(fields.get("stride", 1)), int(fields.get("lhs_dilate", 1))
    gap = int(fields.get("rhs_dilate", 1))
    before = int(fields.get("pad", "0_0").split("_")[0])
    if size == 1 and out == length and stride == spread == 1:
        return out
    reach = (length - 1) * spread + 1
    count = 0
    for tap in range(size):
        offset = tap * gap - before
        for at in range(out) if size * out < 1 << 16 else ():
            where = at * stride + offset
            count += 0 <= where < reach and where % spread == 0
    return count or out


def _bytes(
    line: hlo.Instruction, known: dict[str, hlo.Instruction], *, module: hlo.Module
) -> float:
    """What one run reads from HBM and writes to it."""
    if line.opcode in _NOTHING or line.opcode.endswith("-done"):
        return 0.0
    operands = [known[name] for name in line.operands if name in known]
    if line.opcode == "fusion":
        return _fused(line, operands, module=module)
    if line.opcode in ("dynamic-slice", "slice", "gather"):
        return 2.0 * _hbm(line)
    if line.opcode == "dynamic-update-slice":
        return 2.0 * _hbm(operands[1]) if len(operands) > 1 else 0.0
    if line.opcode.endswith("-start"):
        return float(sum(_array(a) for a in line.arrays[:2]))
    return _hbm(line) + sum(_hbm(operand) for operand in operands)


def _hbm(line: hlo.Instruction) -> float:
    return float(sum(_array(a) for a in line.arrays))


def _array(array: hlo.Array) -> int:
    """Bytes in HBM; scalars have a memory of their own."""
    return array.bytes if array.space == hlo.HBM and array.dims else 0


def _fused(
    line: hlo.Instruction, operands: list[hlo.Instruction], *, module: hlo.Module
) -> float:
    """Of a fusion: parameters by the parts that are used, results as written."""
    inner = module.named(line.calls[0])
    total = 0.0
    for parameter in (i for i in inner.values() if i.opcode == "parameter"):
        number = int(parameter.operands[0])
        source = operands[number] if number < len(operands) else parameter
        whole = _hbm(source)
        users = [i for i in inner.values() if parameter.name in i.operands]
        parts = [_part(user, parameter.name) for user in users]
        sizes = [part for part in parts if part is not None]
        total += min(whole, sum(sizes)) if len(sizes) == len(parts) else whole
    roots = [i for i in inner.values() if i.root]
    if roots and roots[0].opcode == "tuple":
        roots = [inner[name] for name in roots[0].operands if name in inner]
    for root, array in zip(roots, line.arrays, strict=False):
        written = float(_array(array))
        if root.opcode == "dynamic-update-slice" and root.operands[1] in inner:
            update = inner[root.operands[1]]
            written = min(written, float(update.bytes))
        total += written
    return total


def _part(user: hlo.Instruction, name: str) -> float | None:
    """Bytes that `user` needs of a parameter; None for all of it."""
    if user.opcode in ("dynamic-slice", "slice") and user.operands[0] == name:
        return float(user.bytes)
    if user.opcode == "dynamic-update-slice" and user.operands[0] == name:
        return 0.0
    return None
