"""The curves of a scaling law, as a paper prints them.

    python -m experiments.scaling.plot FIT.json [FIT.json ...] --output DIR

`isoflop.png`: the loss over the number of parameters, a line for each budget, with the
law, the parabolas and both minima. `frontier.png`: the loss over compute, runs and the
law's optimum. `optimum.png`: N_opt and D_opt over compute with their intervals, and the
exponents beside published ones; several fits, of images and of video say, share it.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.figure
import numpy as np

from experiments.scaling import grid, law
from soraflax.cli import parser as cli

NAMES = ("isoflop.png", "frontier.png", "optimum.png")


def draw(report: Mapping[str, Any], output: pathlib.Path) -> list[pathlib.Path]:
    """Write the three pictures of a fit (`fit.analyse`) into `output`."""
    paths = [output / name for name in NAMES]
    isoflop(paths[0], report)
    frontier(paths[1], report)
    optimum(paths[2], {"this fit": report})
    return paths


def fitted(report: Mapping[str, Any]) -> tuple[law.Law, law.Runs]:
    """The law of a report, and its runs."""
    values = {k: np.array([report["law"][k]["value"]]) for k in report["law"]}
    found = law.Law(
        *(values[name] for name in ("floor", "size", "data", "a", "b")),
        cost=np.array([report["cost"]["factor"]]),
        cost_exponent=np.array([report["cost"]["exponent"]]),
    )
    return found, law.Runs(**{k: np.array(v) for k, v in report["runs"].items()})


def isoflop(path: pathlib.Path, report: Mapping[str, Any]) -> None:
    """Loss over parameters: a budget a colour."""
    best, runs = fitted(report)
    figure = matplotlib.figure.Figure((7, 4.8), layout="constrained")
    panel = figure.subplots()
    groups = np.unique(runs.budget)
    colours = _colours(len(groups))
    for group, colour in zip(groups, colours, strict=True):
        members = runs.chosen(runs.budget == group)
        flops, order = members.flops.mean(), np.argsort(members.parameters)
        n = members.parameters[order]
        panel.plot(n, members.loss[order], "o", color=colour, label=f"{flops:.1e}")
        wide = np.geomspace(n[0] / 1.3, n[-1] * 1.3, 60)
        tokens = flops / (best.cost * wide ** (1 + best.cost_exponent))
        panel.plot(wide, best.loss(wide, tokens)[0], color=colour, linewidth=1)
        curve = np.polyfit(np.log(n / n.mean()), members.loss[order], 2)
        panel.plot(
            wide, np.polyval(curve, np.log(wide / n.mean())), "--", color=colour, lw=0.6
        )
        (n_opt,), (d_opt,) = (v[0] for v in best.optimum(np.array([flops])))
        panel.plot(
            n_opt,
            best.loss(*map(np.atleast_1d, (n_opt, d_opt)))[0],
            "*",
            color=colour,
            markersize=12,
            markeredgecolor="black",
        )
    panel.set(
        xscale="log",
        xlabel="parameters N",
        ylabel="validation loss",
        title="IsoFLOP profiles: law (line), parabola (dashed), optimum (star)",
    )
    low, high = runs.loss.min(), runs.loss.max()
    panel.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
    panel.legend(title="FLOPs", fontsize="small")
    panel.grid(visible=True, which="both", linewidth=0.2)
    figure.savefig(path, dpi=110)


def frontier(path: pathlib.Path, report: Mapping[str, Any]) -> None:
    """Loss over compute: all runs, and the least the law allows."""
    best, runs = fitted(report)
    figure = matplotlib.figure.Figure((6.5, 4.5), layout="constrained")
    panel = figure.subplots()
    points = panel.scatter(
        runs.flops, runs.loss, c=np.log10(runs.parameters), s=18, cmap="viridis"
    )
    figure.colorbar(points, ax=panel, label="log10 of parameters")
    last = 2 * max(
        float(runs.flops.max()), report.get("held_out", {}).get("flops", 0.0)
    )
    flops = np.geomspace(runs.flops.min() / 2, last, 80)
    n, d = best.optimum(flops)
    panel.plot(flops, best.loss(n[0], d[0])[0], color="black", label="frontier")
    floor = report["law"]["floor"]
    panel.axhspan(floor["low"], floor["high"], color="tab:gray", alpha=0.2, label="E")
    if "held_out" in report:
        found = report["held_out"]
        panel.plot(found["flops"], found["loss"], "r^", label="held out")
        interval = found["predicted"]
        panel.vlines(found["flops"], interval["low"], interval["high"], color="red")
    panel.set(
        xscale="log",
        yscale="log",
        xlabel="training FLOPs C",
        ylabel="validation loss",
        title="Loss over compute",
    )
    panel.legend(fontsize="small")
    panel.grid(visible=True, which="both", linewidth=0.2)
    figure.savefig(path, dpi=110)


def optimum(path: pathlib.Path, reports: Mapping[str, Mapping[str, Any]]) -> None:
    """N_opt and D_opt over compute, and exponents beside those that others found."""
    figure = matplotlib.figure.Figure((12.5, 4), layout="constrained")
    panels = figure.subplots(1, 3)
    colours = _colours(len(reports))
    for (name, report), colour in zip(reports.items(), colours, strict=True):
        flops = [row["flops"] for row in report["optimum"]]
        for panel, key in zip(panels, ("parameters", "tokens"), strict=False):
            _with_interval(
                panel,
                flops,
                rows=[row[key] for row in report["optimum"]],
                label=f"{name}: law",
                color=colour,
                fmt="o-",
            )
        _with_interval(
            panels[0],
            flops,
            rows=report["parabolas"]["parameters"],
            label=f"{name}: parabolas",
            color=colour,
            fmt="x--",
        )
    for panel, title in zip(panels, ("N_opt", "D_opt (tokens)"), strict=False):
        panel.set(xscale="log", yscale="log", xlabel="training FLOPs C", title=title)
        panel.grid(visible=True, which="both", linewidth=0.2)
    panels[0].legend(fontsize="small")
    rows: list[tuple[str, Mapping[str, float], Any]] = []
    for (name, report), colour in zip(reports.items(), colours, strict=True):
        rows.append((f"{name}: law", report["law"]["size_exponent"], colour))
        parabola = report["parabolas"]["size_exponent"]
        rows.append((f"{name}: parabolas", parabola, colour))
    published = next(iter(reports.values()))["published_size_exponents"]
    for name, value in published.items():
        rows.append((name, {"value": value, "low": value, "high": value}, "black"))
    for height, (_, values, colour) in enumerate(reversed(rows)):
        low, high, value = (  # null, where it is not defined, is not drawn
            np.array(values[key], float) for key in ("low", "high", "value")
        )
        panels[2].plot([low, high], [height] * 2, color=colour)
        panels[2].plot(value, height, "o", color=colour)
    panels[2].set_yticks(
        range(len(rows)), [row[0] for row in reversed(rows)], fontsize="x-small"
    )
    panels[2].set(title="exponent of C in N_opt", xlim=(0, 1))
    panels[2].grid(visible=True, axis="x", linewidth=0.2)
    figure.savefig(path, dpi=110)


def _with_interval(
    panel: Any,
    x: Sequence[float],
    *,
    rows: Sequence[Mapping[str, float]],
    label: str,
    color: Any,
    fmt: str,
) -> None:
    values, low, high = (
        np.array([row[key] for row in rows], float) for key in ("value", "low", "high")
    )
    bars = np.abs(np.stack([values - low, high - values]))
    panel.errorbar(
        x,
        values,
        bars,
        fmt=fmt,
        color=color,
        label=label,
        capsize=2,
        linewidth=1,
        markersize=4,
    )


def _colours(count: int) -> list[Any]:
    return list(matplotlib.colormaps["viridis"](np.linspace(0, 0.85, max(count, 1))))


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(
        prog="python -m experiments.scaling.plot",
        description=(__doc__ or "").split("\n\n")[0],
    )
    add = parser.add_argument
    add("fits", type=pathlib.Path, nargs="+", metavar="FIT.json")
    add("--output", type=pathlib.Path, default=pathlib.Path("."), help="a folder")
    options = parser.parse_args(argv)

    def run() -> None:
        reports = {path.parent.name: grid.read_fit(path) for path in options.fits}
        options.output.mkdir(parents=True, exist_ok=True)
        if len(reports) == 1:
            draw(next(iter(reports.values())), options.output)
        else:
            optimum(options.output / NAMES[2], reports)
        print(f"pictures: {options.output}")

    return cli.run_command("plot", run, extra="train")


if __name__ == "__main__":
    sys.exit(main())
