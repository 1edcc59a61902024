"""The curve of an edit: what it changes and what it keeps, over its strength.

    python -m experiments.reports.editing --checkpoint VIDEO [--output editing.png]

Draws what `experiments.benchmarks.tasks --only edit` measures, or, with `--lines FILE`,
what it has printed: accuracy of the new attribute, SSIM to the input, and how far the
body is from its place, in diameters. One panel for each attribute.
"""

import json
import pathlib
import sys
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")

import matplotlib.figure

from experiments.benchmarks.tasks import clips, editing
from soraflax.cli import parser as cli
from soraflax.generation import generator

CURVES = {
    "accuracy": ("accuracy of the new attribute", "tab:blue"),
    "similarity": ("SSIM to the input", "tab:orange"),
    "position": ("position error, diameters", "tab:green"),
}


def read(path: pathlib.Path) -> list[editing.Point]:
    """The points among the JSON lines of the benchmark.

    Raises:
      ValueError: there are none.
    """
    lines = [json.loads(line) for line in path.read_text().splitlines() if line]
    points = [
        editing.Point(**{k: v for k, v in line.items() if k != "figure"})
        for line in lines
        if line.get("figure") == "edit"
    ]
    if not points:
        raise ValueError(f"{path}: no line of 'edit'; run the benchmark with it")
    return points


def draw(path: pathlib.Path, points: Sequence[editing.Point]) -> None:
    """A PNG with a panel for each attribute."""
    names = [n for n in editing.NAMES if any(p.attribute == n for p in points)]
    figure = matplotlib.figure.Figure((4 * len(names), 3.2), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for panel, name in zip(panels, names, strict=True):
        mine = sorted(
            (p for p in points if p.attribute == name), key=lambda p: p.strength
        )
        strengths = [p.strength for p in mine]
        for key, (label, colour) in CURVES.items():
            values = [getattr(p, key) for p in mine]
            panel.plot(strengths, values, marker=".", label=label, color=colour)
        for point in filter(editing.met, mine):
            panel.axvspan(
                point.strength - 0.03,
                point.strength + 0.03,
                color="tab:gray",
                alpha=0.2,
            )
        panel.set(title=f"a new {name}", xlabel="strength", ylim=(0, 1.5))
        panel.grid(visible=True, linewidth=0.3)
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=100)


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(
        prog="python -m experiments.reports.editing", description=__doc__
    )
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--checkpoint", type=pathlib.Path, help="a trained VIDEO folder"
    )
    source.add_argument("--lines", type=pathlib.Path, help="output of the benchmark")
    add("--output", type=pathlib.Path, default=pathlib.Path("editing.png"))
    add("--seed", type=int, default=0)
    options = parser.parse_args(argv)

    def run() -> None:
        if options.lines:
            points = read(options.lines)
        else:
            model = generator.Generator.load(options.checkpoint)
            points = editing.curve(
                clips.Bench(model, clips.sampling(model), seed=options.seed)
            )
        options.output.parent.mkdir(parents=True, exist_ok=True)
        draw(options.output, points)
        print(f"picture: {options.output}", file=sys.stderr)

    return cli.run_command("editing", run)


if __name__ == "__main__":
    sys.exit(main())
