"""FLOPs and bytes of a compiled program, loops counted as often as they run.

XLA's own analysis counts the body of a loop once, and nothing in a Pallas kernel. Here
products are counted from their shapes,

    dot           2 * numbers of the result * length of the contraction          (1)
    convolution   2 * numbers of the result * taps that meet data * features in  (2)

(a TPU program has its products as convolutions), and bytes by what every instruction
outside a fusion reads from HBM and writes to it. A slice of an array counts as the
slice, and an update in place as the update. Attention kernels are opaque in the
program, so with P pairs of queries and keys of one segment,

    attention     2 D P * products of a pair, all heads together                  (3)

2 in the forward kernel and 5 (one pass over the pairs) or 7 (two passes, as splash) in
the backward ones; the forward kernel runs again where remat does not save its output.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

from soraflax.nn import dit
from soraflax.planning import hlo

# Products of a pair of query and key: forward, backward. The reference is no kernel:
# its products are in the program's text.
KERNELS = {"reference": (0, 0), "blocks": (2, 5), "splash": (2, 7)}
RECOMPUTES_ATTENTION = ("full", "dots")
_FREE = {
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
class ProgramCost:
    """FLOPs and bytes of one device in one step.

    Attributes:
      flops: FLOPs of products, equations (1) and (2).
      bytes: bytes read from HBM and written to it.
    """

    flops: float
    bytes: float


def program_cost(module: hlo.Module) -> ProgramCost:
    """The sum over all instructions, each as often as it runs."""
    flops = hbm_bytes = 0.0
    for name, runs in module.runs.items():
        if not runs:
            continue
        computation = module.by_name(name)
        for line in computation.values():
            flops += runs * sum(
                _flops(inner, siblings)
                for inner, siblings in _unfused(line, computation, module=module)
            )
            hbm_bytes += runs * _bytes(line, computation, module=module)
    return ProgramCost(flops, hbm_bytes)


def attention_flops(model: dit.DiTConfig, *, pairs: int) -> float:
    """Equation (3), of all layers and devices; `pairs` is that of one layer."""
    forward, backward = KERNELS[model.attention]
    recomputed = forward if model.remat in RECOMPUTES_ATTENTION else 0
    products = forward + recomputed + backward
    return 2.0 * model.width * pairs * products * model.depth


def _unfused(
    line: hlo.Instruction,
    computation: dict[str, hlo.Instruction],
    *,
    module: hlo.Module,
) -> Iterator[tuple[hlo.Instruction, dict[str, hlo.Instruction]]]:
    """An instruction, or those of its fusion, each with its computation."""
    if line.opcode != "fusion":
        yield line, computation
        return
    inner = module.by_name(line.calls[0])
    for instruction in inner.values():
        yield from _unfused(instruction, inner, module=module)


def _flops(line: hlo.Instruction, computation: dict[str, hlo.Instruction]) -> float:
    """Equations (1) and (2) of one instruction."""
    if line.opcode not in ("dot", "convolution"):
        return 0.0
    left, right = (computation.get(name) for name in line.operands[:2])
    if left is None or right is None:
        return 0.0
    out = math.prod(line.arrays[0].dims)
    if line.opcode == "dot":
        return 2.0 * out * _contraction(line, left)
    return 2.0 * _convolution(line, left.arrays[0].dims, right=right.arrays[0].dims)


def _contraction(line: hlo.Instruction, left: hlo.Instruction) -> int:
    match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.attributes)
    dims = [int(n) for n in match[1].split(",") if n] if match else []
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
    # Labels such as `b01f_01io->b01f` name the axes of input, kernel and result; digits
    # are the spatial ones, in the order of the window's fields.
    for axis, digit in enumerate(sorted(c for c in kernel if c.isdigit())):
        total *= _taps(
            size=right[kernel.index(digit)],
            length=left[labels[1].index(digit)],
            out=out[result.index(digit)],
            fields={k: v.split("x")[axis] for k, v in fields.items()},
        )
    return float(total)


def _taps(*, size: int, length: int, out: int, fields: dict[str, str]) -> int:
    """Pairs of an output position and a tap on data, not padding, along one axis."""
    stride, dilation = int(fields.get("stride", 1)), int(fields.get("lhs_dilate", 1))
    kernel_dilation = int(fields.get("rhs_dilate", 1))
    padding = int(fields.get("pad", "0_0").split("_")[0])
    if size == 1 and out == length and stride == dilation == 1:
        return out
    # The input dilated: its elements lie `dilation` apart, with zeros between.
    extent = (length - 1) * dilation + 1
    count = 0
    for tap in range(size):
        offset = tap * kernel_dilation - padding
        for index in range(out) if size * out < 1 << 16 else ():
            position = index * stride + offset
            count += 0 <= position < extent and position % dilation == 0
    return count or out


def _bytes(
    line: hlo.Instruction,
    computation: dict[str, hlo.Instruction],
    *,
    module: hlo.Module,
) -> float:
    """Bytes that one run reads from HBM and writes to it."""
    if line.opcode in _FREE or line.opcode.endswith("-done"):
        return 0.0
    operands = [computation[n] for n in line.operands if n in computation]
    if line.opcode == "fusion":
        return _fusion_bytes(line, operands, module=module)
    if line.opcode in ("dynamic-slice", "slice", "gather"):
        return 2.0 * _hbm_bytes(line)
    if line.opcode == "dynamic-update-slice":
        return 2.0 * _hbm_bytes(operands[1]) if len(operands) > 1 else 0.0
    if line.opcode.endswith("-start"):
        return float(sum(_array_bytes(a) for a in line.arrays[:2]))
    return _hbm_bytes(line) + sum(_hbm_bytes(operand) for operand in operands)


def _hbm_bytes(line: hlo.Instruction) -> float:
    return float(sum(_array_bytes(a) for a in line.arrays))


def _array_bytes(array: hlo.Array) -> int:
    """Bytes in HBM; scalars are in a memory of their own."""
    return array.bytes if array.space == hlo.HBM and array.dims else 0


def _fusion_bytes(
    line: hlo.Instruction, operands: list[hlo.Instruction], *, module: hlo.Module
) -> float:
    """Bytes of a fusion: the used parts of its operands, and its results."""
    inner = module.by_name(line.calls[0])
    total = 0.0
    for parameter in (i for i in inner.values() if i.opcode == "parameter"):
        number = int(parameter.operands[0])
        source = operands[number] if number < len(operands) else parameter
        size = _hbm_bytes(source)
        users = [i for i in inner.values() if parameter.name in i.operands]
        reads = [_partial_read(user, parameter.name) for user in users]
        partial = [read for read in reads if read is not None]
        total += min(size, sum(partial)) if len(partial) == len(reads) else size
    roots = [i for i in inner.values() if i.root]
    if roots and roots[0].opcode == "tuple":
        roots = [inner[name] for name in roots[0].operands if name in inner]
    for root, array in zip(roots, line.arrays, strict=False):
        written = float(_array_bytes(array))
        if root.opcode == "dynamic-update-slice" and root.operands[1] in inner:
            update = inner[root.operands[1]]
            written = min(written, float(update.bytes))
        total += written
    return total


def _partial_read(user: hlo.Instruction, name: str) -> float | None:
    """Bytes that `user` reads of a parameter; None where it reads all of it."""
    if user.opcode in ("dynamic-slice", "slice") and user.operands[0] == name:
        return float(user.bytes)
    if user.opcode == "dynamic-update-slice" and user.operands[0] == name:
        return 0.0
    return None
