"""A plan as a table for people and as JSON for programs."""

import dataclasses
import json
from typing import Any

from soraflax.planning import chips, step_plan


def to_json(plan: step_plan.StepPlan) -> str:
    """One line with one object: the plan's fields and properties."""
    fields = dataclasses.asdict(plan)
    fields["fits"] = plan.fits
    fields["asynchronous"] = round(plan.asynchronous, 4)
    if plan.time is not None:
        fields["step_seconds"] = plan.time.step
        fields["bound"] = plan.time.bound
    return json.dumps(fields, allow_nan=False)


def table(plan: step_plan.StepPlan) -> str:
    """Several lines, without a newline at the end."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    slices = f", {plan.slices} slices" if plan.slices > 1 else ""
    per = "chip" if plan.devices == plan.chips else "device (half a chip)"
    lines = [
        f"{plan.topology}{slices}: {plan.chips} chips, mesh {mesh}",
        f"{plan.rows} rows of {plan.row_tokens:,} tokens, full of clips of "
        f"{plan.clip:,}; remat {plan.remat}"
        + (f"; {plan.accumulate} microbatches" if plan.accumulate > 1 else ""),
        "",
        *_memory(plan, per),
    ]
    if plan.time is not None:
        lines += ["", *_time(plan, per), "", *_traffic(plan, per)]
    return "\n".join(lines)


def _memory(plan: step_plan.StepPlan, per: str) -> list[str]:
    capacity = _gib(plan.capacity)
    percentage = f"{100 * plan.needed / plan.capacity:.0f} % of {capacity}"
    verdict = "fits" if plan.fits else "does not fit"
    memory = plan.memory
    if memory is None:
        needs = f"{_gib(plan.needed)}, {percentage}"
        if not plan.needed:  # the compiler did not say
            needs = f"more than it has, {capacity}"
        return [f"memory of a {per}: {verdict}; needs {needs}"]
    rows = {
        "parameters": memory.parameters,
        "optimizer state": memory.optimizer,
        "moving average": memory.average,
        "rows": memory.batch,
        "activations, gradients, scratch": memory.temporaries,
    }
    if memory.host:
        rows["in the host's memory"] = memory.host
    lines = [f"memory of a {per}"]
    lines += [f"  {name:<34}{_gib(size):>11}" for name, size in rows.items()]
    return [*lines, f"  {'peak':<34}{_gib(memory.peak):>11}  {percentage}: {verdict}"]


def _time(plan: step_plan.StepPlan, per: str) -> list[str]:
    time = plan.time
    assert time is not None
    rows = {
        "model FLOPs of a step": _si(plan.model_flops, "FLOP"),
        f"executed by a {per}": _si(plan.executed_flops, "FLOP"),
        "products": _seconds(time.products),
        "HBM": _seconds(time.memory),
        "links, beside other work": _seconds(time.hidden),
        "links, waited for": _seconds(time.exposed),
        "step": f"{_seconds(time.step)}  bound by {time.bound}",
        "useful tokens": _si(plan.tokens_per_second, "tokens/s"),
        "model FLOP utilisation": f"{plan.utilisation:.3f}",
    }
    lines = ["time, at best (roofline)"]
    lines += [f"  {name:<34}{value:>11}" for name, value in rows.items()]
    if plan.unknown_loops:
        lines.append(
            f"  {plan.unknown_loops} loops run as often as the data asks; each counts "
            "once"
        )
    return lines


def _traffic(plan: step_plan.StepPlan, per: str) -> list[str]:
    lines = [f"between devices, from each {per}"]
    for t in plan.traffic:
        network = "DCN" if t.crosses else "ICI"
        percentage = 100 * t.asynchronous_bytes / t.bytes if t.bytes else 100
        axes = " x ".join(t.axes)
        lines.append(
            f"  {t.kind:<20}{axes:<16}{network:<5}{t.count:>7} {_gib(t.bytes):>11}  "
            f"{percentage:.0f} % asynchronous"
        )
    return [
        *lines,
        f"  {100 * plan.asynchronous:.0f} % of all bytes asynchronous: some work lies "
        "between start and end",
    ]


def comparison(plans: list[step_plan.StepPlan]) -> str:
    """Plans below each other, one a line, in the order given."""
    head = ("mesh", "rows", "remat", "GiB", "", "step s", "tokens/s", "MFU")
    body: list[tuple[str, ...]] = [head]
    for plan in plans:
        compiled = plan.time is not None
        body.append(
            (
                "x".join(str(size) for size in plan.mesh.values()),
                str(plan.rows),
                plan.remat,
                f"{plan.needed / chips.GIB:.1f}" if plan.needed else "?",
                "fits" if plan.fits else "no",
                f"{plan.time.step:.3g}" if plan.time else "-",
                _si(plan.tokens_per_second, "") if compiled else "-",
                f"{plan.utilisation:.3f}" if compiled else "-",
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
