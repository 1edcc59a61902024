"""The scoreboard of all claims: figures with intervals, verdicts, pictures, one page.

    python -m experiments.reports.scoreboard REPORTS [MORE ...] --output docs/report.md

Every report writes a `Claim` as REPORTS/NAME/claim.json. The page keeps it with its
pictures in a folder beside itself, so that what is run again alone takes its own place
(but a quick form no full one's); what was never run is printed as that. A figure stands
beside chance and beside its ceiling (real renders through the autoencoder), and has an
interval of 95 per cent: Wilson's score for a share of n,

    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n),         (1)

percentiles of a bootstrap over clips for a mean. A claim is *shown* where the interval
of its first figure with a chance lies on the right side of it, and *not shown* where it
does not: the page prints both alike.
"""

import dataclasses
import importlib
import json
import math
import pathlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from experiments import json_values
from experiments.benchmarks import measurement
from soraflax.cli import parser as cli
from soraflax.generation import generator
from soraflax.pretrained import shipped

CLAIM = "claim.json"
Z = 1.96
RESAMPLES = 1000
LEAST = 5  # clips of a bootstrap
# What `make report` runs, in its order.
REPORTS = (
    *("sizes", "minute", "framing", "joint", "recaption", "emergence_room"),
    *("emergence_canvas", "emergence_blocks", "emergence_occlusion"),
    *("physics", "control", "ladder_longer", "ladder_larger"),
)
KEPT = "report"  # folder beside the page
_COLOURS = 256  # of a picture on the page


@dataclasses.dataclass(frozen=True)
class Figure:
    """One number.

    Attributes:
      name: what was measured.
      value: the measurement.
      low, high: its interval.
      count: clips that it is of.
      chance: what ignoring the prompt, or the other side of a comparison, scores.
      ceiling: what real renders through the autoencoder score.
      better: 'high' or 'low'.
    """

    name: str
    value: float
    low: float
    high: float
    count: int
    chance: float | None = None
    ceiling: float | None = None
    better: str = "high"

    @property
    def shown(self) -> bool | None:
        """Whether the interval lies on the right side of chance; None without one."""
        if self.chance is None or math.isnan(self.value):
            return None
        return (
            self.low > self.chance
            if self.better == "high"
            else (self.high < self.chance)
        )


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim of the report and what was found of it.

    Attributes:
      name: of its command.
      claim: the sentence that is tested.
      command: what makes these figures.
      figures: the first with a chance decides.
      pictures: files beside claim.json, each with a caption that says what is seen.
      notes: what does not work, and what was left out.
      quick: whether these are the figures of `--quick`.
      seconds, flops: time, and model FLOPs of training, that it took.
      machine: where.
    """

    name: str
    claim: str
    command: str
    figures: tuple[Figure, ...]
    pictures: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    quick: bool = False
    seconds: float = 0.0
    flops: float = 0.0
    machine: str = dataclasses.field(default_factory=measurement.machine)

    @property
    def verdict(self) -> str:
        """'shown', 'not shown' or 'measured', where there is nothing to beat."""
        found = [f.shown for f in self.figures if f.shown is not None]
        return "measured" if not found else "shown" if found[0] else "not shown"

    def save(self, folder: pathlib.Path) -> None:
        """Write `claim.json` into the report's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        values = dataclasses.asdict(self) | {"verdict": self.verdict}
        json_values.write(folder / CLAIM, values)


def share(name: str, right: Sequence[bool], **beside: Any) -> Figure:
    """A share of clips with Wilson's interval, equation (1); NaN of none."""
    n = len(right)
    if not n:
        return Figure(name, math.nan, 0.0, 1.0, 0, **beside)
    p = float(np.mean(right))
    middle, norm = p + Z**2 / (2 * n), 1 + Z**2 / n
    half = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return Figure(
        name,
        p,
        max(0.0, (middle - half) / norm),
        min(1.0, (middle + half) / norm),
        n,
        **beside,
    )


def mean(name: str, values: Sequence[float], **beside: Any) -> Figure:
    """A mean over clips with a bootstrap interval; what is not finite is left out.

    Of fewer than `LEAST` clips there is no interval, and nothing is shown.
    """
    found = np.asarray([v for v in values if math.isfinite(v)], float)
    if not len(found):
        return Figure(name, math.nan, math.nan, math.nan, 0, **beside)
    low = high = math.nan
    if len(found) >= LEAST:
        random = np.random.default_rng(0)
        drawn = random.integers(0, len(found), (RESAMPLES, len(found)))
        low, high = np.percentile(found[drawn].mean(1), (2.5, 97.5))
    return Figure(
        name, float(found.mean()), float(low), float(high), len(found), **beside
    )


def difference(name: str, ours: Sequence[float], *, theirs: Sequence[float]) -> Figure:
    """The difference of two means, chance being none; each side is resampled alone."""
    a, b = np.asarray(ours, float), np.asarray(theirs, float)
    random = np.random.default_rng(0)
    first, second = (
        x[random.integers(0, len(x), (RESAMPLES, len(x)))].mean(1) for x in (a, b)
    )
    low, high = np.percentile(first - second, (2.5, 97.5))
    return Figure(
        name,
        float(a.mean() - b.mean()),
        float(low),
        float(high),
        min(len(a), len(b)),
        chance=0.0,
    )


def page(claims: Sequence[Claim]) -> str:
    """The page of all claims in Markdown; `keep` has put their pictures beside it."""
    rows = [
        f"| {c.claim} | [`{c.name}`](#{c.name}) | {c.verdict}{' (quick)' * c.quick} | "
        f"{_told(_deciding(c))} |"
        for c in claims
    ]
    left = [name for name in REPORTS if name not in {c.name for c in claims}]
    rows += [f"| {sentence(name)} | `{name}` | not run | |" for name in left]
    spent = f"{sum(c.seconds for c in claims) / 60:.0f} minutes"
    spent += f" and {sum(c.flops for c in claims):.2g} FLOPs of training"
    parts = [
        "# The report, claim by claim",
        "Made by `make report`, in its full form in a night, or `make report "
        "QUICK=--quick`. Intervals are of 95 per cent; *chance* is what ignoring"
        " the prompt, or the other side of a comparison, scores, *ceiling* what real"
        " renders score after the autoencoder. What is not shown is printed as that, "
        "and *quick* is a report that was run in its quick form alone: a model of a "
        "minute's training, or few clips, which decides nothing about the claim.",
        f"What stands here took {spent}.",
        "| claim | report | verdict | figure |\n|---|---|---|---|\n" + "\n".join(rows),
    ]
    for claim in claims:
        parts += list(_section(claim))
    return "\n\n".join(parts) + "\n"


def sentence(name: str) -> str:
    """The claim of a report of `REPORTS`, which may not have been run."""
    ladder, _, reading = name.partition("_")
    if ladder == "ladder":
        module = importlib.import_module("experiments.scaling.ladder")
        return module.CLAIM.format(reading=reading)
    return importlib.import_module(f"experiments.reports.{name}").CLAIM


def read(folder: pathlib.Path) -> Claim:
    """The claim in a report's folder.

    Raises:
      FileNotFoundError: there is none.
    """
    path = folder / CLAIM
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing; run its report first")
    values = json.loads(path.read_text())
    names = {field.name for field in dataclasses.fields(Claim)}
    kept: dict[str, Any] = {k: v for k, v in values.items() if k in names}
    kept["figures"] = tuple(_read_figure(figure) for figure in kept["figures"])
    kept["pictures"] = tuple((p[0], p[1]) for p in kept["pictures"])
    kept["notes"] = tuple(kept["notes"])
    return Claim(**kept)


def _read_figure(values: dict[str, Any]) -> Figure:
    """A figure as it was saved; null is what was not defined."""
    for name in ("value", "low", "high"):
        values[name] = math.nan if values[name] is None else values[name]
    return Figure(**values)


def _deciding(claim: Claim) -> Figure | None:
    with_chance = [f for f in claim.figures if f.shown is not None]
    return next(iter([*with_chance, *claim.figures]), None)


def _told(figure: Figure | None) -> str:
    if figure is None:
        return ""
    beside = [
        f"{name} {value:.3g}"
        for name, value in (("chance", figure.chance), ("ceiling", figure.ceiling))
        if value is not None
    ]
    interval = f"[{figure.low:.3g}, {figure.high:.3g}]"
    if math.isnan(figure.low):
        interval = f"[{figure.count} clip(s), too few for an interval]"
    return ", ".join([f"{figure.name}: {figure.value:.3g} {interval}", *beside])


def _section(claim: Claim) -> Iterator[str]:
    yield f"## {claim.name} {{ #{claim.name} }}"
    form = ", in the quick form alone" if claim.quick else ""
    yield f"{claim.claim} **{claim.verdict.capitalize()}{form}.**"
    compute = f", {claim.flops:.2g} training FLOPs" if claim.flops else ""
    yield f"`{claim.command}`, {claim.seconds / 60:.0f} minutes on {claim.machine}" + (
        compute + "."
    )
    lines = [
        "| figure | value | interval | chance | ceiling | clips |",
        "|---|---|---|---|---|---|",
    ]
    for f in claim.figures:
        beside = ["" if v is None else f"{v:.3g}" for v in (f.chance, f.ceiling)]
        interval = f"{f.low:.3g} to {f.high:.3g}"
        interval = "too few clips" if math.isnan(f.low) else interval
        lines.append(
            f"| {f.name} | {f.value:.3g} | {interval} | {beside[0]} | {beside[1]} | "
            f"{f.count} |"
        )
    yield "\n".join(lines)
    for name, caption in claim.pictures:
        yield f"![{caption}]({KEPT}/{claim.name}/{name})"
        yield f"*{caption}*"
    if claim.notes:
        yield "\n".join(f"- {note}" for note in claim.notes)


def keep(folder: pathlib.Path, target: pathlib.Path) -> Claim:
    """The claim of a report's folder, copied with its pictures into another one."""
    claim = read(folder)
    if folder.resolve() != target.resolve():
        claim.save(target)
        for name, _ in claim.pictures:
            _copy_small(folder / name, target / name)
    return claim


def _copy_small(source: pathlib.Path, target: pathlib.Path) -> None:
    """A picture in 256 colours that lie near all of its own, a quarter of its bytes."""
    with Image.open(source) as picture:
        few = picture.convert("RGB").quantize(_COLOURS, Image.Quantize.MAXCOVERAGE)
    few.save(target, optimize=True)


def make_parser(module: str, description: str | None) -> cli.Parser:
    """The parser that every report shares: `--output` and `--quick`."""
    parser = cli.Parser(
        prog=f"python -m experiments.reports.{module}",
        description=(description or "").split("\n\n")[0],
    )
    add = parser.add_argument
    add("--output", type=pathlib.Path, default=pathlib.Path("report"), help="folder")
    add("--quick", action="store_true", help="few clips and steps: minutes")
    return parser


class Maker(Protocol):
    """What makes a claim, from nothing, in a folder of its own in `output`."""

    def __call__(self, output: pathlib.Path, *, config: Any) -> Claim: ...


def run_claim(
    module: str,
    make: Maker,
    *,
    full: Any,
    quick: Any,
    doc: str | None,
    argv: Sequence[str] | None,
) -> int:
    """A report without flags of its own, as a command; the exit status.

    Args:
      module: of the report.
      make: makes the claim.
      full, quick: its sizes.
      doc: of the module.
      argv: the command line.
    """
    options = make_parser(module, doc).parse_args(argv)

    def made() -> Claim:
        claim = make(options.output, config=quick if options.quick else full)
        return dataclasses.replace(claim, quick=options.quick)

    return run_report(
        module,
        made,
        output=options.output,
        command=f"python -m experiments.reports.{module}",
    )


class ModelMaker(Protocol):
    """What makes a claim of a trained model, in a folder of its own in `output`."""

    def __call__(
        self, output: pathlib.Path, model: generator.Generator, *, config: Any
    ) -> Claim: ...


def run_of_model(
    module: str,
    make: ModelMaker,
    *,
    full: Any,
    quick: Any,
    doc: str | None,
    argv: Sequence[str] | None,
) -> int:
    """A report of the shipped model, or of `--checkpoint`; as `run_claim`."""
    parser = make_parser(module, doc)
    parser.add_argument("--checkpoint", type=pathlib.Path, help="(default: shipped)")
    options = parser.parse_args(argv)
    given = options.checkpoint
    other = f" --checkpoint {shlex.quote(str(given))}" if given else ""

    def of_model() -> Claim:
        model = generator.Generator.load(shipped.or_given(given))
        config = quick if options.quick else full
        claim = make(options.output, model, config=config)
        return dataclasses.replace(claim, quick=options.quick)

    return run_report(
        module,
        of_model,
        output=options.output,
        command=f"python -m experiments.reports.{module}{other}",
        interrupted="nothing was written",
    )


def run_report(
    module: str,
    make: Callable[[], Claim],
    *,
    output: pathlib.Path,
    command: str,
    interrupted: str = "the same command goes on",
) -> int:
    """Make a claim, save and print it; the exit status.

    Args:
      module: of the report, and its folder in `output`.
      make: makes the claim.
      output: folder of all reports.
      command: as it was typed, but for `--quick`.
      interrupted: what Ctrl-C leaves; a report that trains takes its runs up again.
    """

    def run() -> None:
        start = time.perf_counter()
        claim = make()
        seconds = round(time.perf_counter() - start, 1)
        typed = f"{command} --quick" if claim.quick else command
        claim = dataclasses.replace(claim, seconds=seconds, command=typed)
        claim.save(output / module)
        print(f"{module}: {claim.verdict}")
        for figure in claim.figures:
            print(f"  {_told(figure)}")

    return cli.run_command(module, run, extra="train", interrupted=interrupted)


def find(reports: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """The folder of every claim, in the order of `REPORTS`; others come after.

    Of several folders with a claim it is the first of a full form, or of a quick one.

    Raises:
      ValueError: there is none.
    """
    every = [
        path.parent for folder in reports for path in sorted(folder.glob(f"*/{CLAIM}"))
    ]
    every.sort(key=lambda folder: read(folder).quick)
    found: dict[str, pathlib.Path] = {}
    for folder in every:
        found.setdefault(folder.name, folder)
    if not found:
        where = ", ".join(map(str, reports))
        raise ValueError(f"{where}: no */{CLAIM} in it; run a report")
    ordered = [name for name in REPORTS if name in found]
    return [found[name] for name in dict.fromkeys([*ordered, *found])]


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(
        prog="python -m experiments.reports.scoreboard",
        description=(__doc__ or "").split("\n\n")[0],
    )
    add = parser.add_argument
    add(
        "reports",
        type=pathlib.Path,
        nargs="+",
        help="folder of the reports' folders; the first counts that has a full form",
    )
    add("--output", type=pathlib.Path, default=pathlib.Path("docs/report.md"))
    options = parser.parse_args(argv)

    def run() -> None:
        find(options.reports)  # what was kept alone makes no page
        kept = options.output.parent / KEPT
        folders = find([*options.reports, kept])
        claims = [keep(folder, kept / folder.name) for folder in folders]
        options.output.write_text(page(claims))
        print(f"page: {options.output}")

    return cli.run_command("scoreboard", run, extra="train")


if __name__ == "__main__":
    sys.exit(main())
