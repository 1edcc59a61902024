"""A plan as a table for people and as JSON for programs."""

import dataclasses
import json
from typing import Any

from soraflax.planning import chips, step_plan


def to_json(made: step_plan.Plan) -> str:
    """One object, one line: the plan's fields, and what follows from them."""
    fields = dataclasses.asdict(made)
    fields["fits"] = made.fits
    fields["asynchronous"] = round(made.asynchronous, 4)
    if made.time is not None:
        fields["step_seconds"] = made.time.step
        fields["bound"] = made.time.bound
    return json.dumps(fields, allow_nan=False)


def table(made: step_plan.Plan) -> str:
    """Several lines, without a newline at the end."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in made.mesh.items())
    slices = f", {made.slices} slices" if made.slices > 1 else ""
    per = "chip" if made.devices == made.chips else "device (half a chip)"
    lines = [
        f"{made.topology}{slices}: {made.chips} chips, mesh {mesh}",
        f"{made.rows} rows of {made.row_tokens:,} tokens, full of clips of "
        f"{made.clip:,}; remat {made.remat}"
        + (f"; {made.accumulate} microbatches" if made.accumulate > 1 else ""),
        "",
        *_memory(made, per),
    ]
    if made.time is not None:
        lines += ["", *_time(made, per), "", *_traffic(made, per)]
    return "\n".join(lines)


def _memory(made: step_plan.Plan, per: str) -> list[str]:
    capacity = _gib(made.capacity)
    share = f"{100 * made.needed / made.capacity:.0f} % of {capacity}"
    verdict = "fits" if made.fits else "does not fit"
    held = made.memory
    if held is None:
        needs = f"{_gib(made.needed)}, {share}"
        if not made.needed:  # the compiler did not say
            needs = f"more than it has, {capacity}"
        return [f"memory of a {per}: {verdict}; needs {needs}"]
    rows = {
        "parameters": held.parameters,
        "optimizer state": held.optimizer,
        "moving average": held.average,
        "rows": held.batch,
        "activations, gradients, scratch": held.temporaries,
    }
    if held.host:
        rows["in the host's memory"] = held.host
    lines = [f"memory of a {per}"]
    lines += [f"  {name:<34}{_gib(size):>11}" for name, size in rows.items()]
    return [*lines, f"  {'peak':<34}{_gib(held.peak):>11}  {share}: {verdict}"]


def _time(made: step_plan.Plan, per: str) -> list[str]:
    time = made.time
    assert time is not None
    rows = {
        "model FLOPs of a step": _si(made.model_flops, "FLOP"),
        f"executed by a {per}": _si(made.executed_flops, "FLOP"),
        "products": _seconds(time.products),
        "HBM": _seconds(time.memory),
        "links, beside other work": _seconds(time.hidden),
        "links, waited for": _seconds(time.exposed),
        "step": f"{_seconds(time.step)}  bound by {time.bound}",
        "useful tokens": _si(made.tokens_per_second, "tokens/s"),
        "model FLOP utilisation": f"{made.utilisation:.3f}",
    }
    lines = ["time, at best (roofline)"]
    lines += [f"  {name:<34}{value:>11}" for name, value in rows.items()]
    if made.unknown_loops:
        lines.append(
            f"  {made.unknown_loops} loops run as often as the data asks; each counts "
            "once"
        )
    return lines


def _traffic(made: step_plan.Plan, per: str) -> list[str]:
    lines = [f"between devices, from each {per}"]
    for t in made.traffic:
        where = "DCN" if t.crosses else "ICI"
        share = 100 * t.asynchronous_bytes / t.bytes if t.bytes else 100
        axes = " x ".join(t.axes)
        lines.append(
            f"  {t.kind:<20}{axes:<16}{where:<5}{t.count:>7} {_gib(t.bytes):>11}  "
            f"{share:.0f} % asynchronous"
        )
    return [
        *lines,
        f"  {100 * made.asynchronous:.0f} % of all bytes asynchronous: some work lies "
        "between start and end",
    ]


def choices(found: list[step_plan.Plan]) -> str:
    """Plans side by side, one a line, in the order given."""
    head = ("mesh", "rows", "remat", "GiB", "", "step s", "tokens/s", "MFU")
    body: list[tuple[str, ...]] = [head]
    for made in found:
        known = made.time is not None
        body.append(
            (
                "x".join(str(size) for size in made.mesh.values()),
                str(made.rows),
                made.remat,
                f"{made.needed / chips.GIB:.1f}" if made.needed else "?",
                "fits" if made.fits else "no",
                f"{made.time.step:.3g}" if made.time else "-",
                _si(made.tokens_per_second, "") if known else "-",
                f"{made.utilisation:.3f}" if known else "-",
            )
        )
    widths = [max(len(row[n]) for row in body) for n in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in body
    )


def _gib(size: float) -> str:
    return f"{size / chips.GIB:.2f} GiB"


def _seconds(value: float) -> str:
    return f"{value:.3f} s" if value >= 0.1 else f"{1000 * value:.2f} ms"


def _si(value: float, unit: Any) -> str:
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}{unit}"
    return f"{value:.4g} {unit}"
