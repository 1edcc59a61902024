"""A scaling law of any runs: `python -m experiments.scaling.fit RUNS`.

RUNS is a folder of work folders, as `experiments.scaling.sweep` or `soraflax train`
leave them: three budgets of FLOPs or more, three sizes or more in each. Fits

    L(N, D) = E + A / N^a + B / D^b                                  (`law`, (1))

with intervals from a bootstrap within budgets, and IsoFLOP parabolas beside it, which
are known to be biased (arXiv:2603.22339). Says how well the law predicts each budget
from all others, and with `--held-out RUN` a larger run. Writes `fit.json` and the
curves of `experiments.scaling.plot` into `--output` (default: RUNS), and prints a line
for every figure: [low, high] are the 2.5th and 97.5th percentiles over resamples. What
is not defined, such as the minimum of a parabola that opens downward, is null there.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import json_values
from experiments.scaling import law, plot
from experiments.scaling import runs as run_records
from soraflax.cli import parser as cli

REPORT = "fit.json"
LEVEL = 95.0
LEAST_RESAMPLES = 1000
# The exponent of C in N_opt that others found: whose, of what, and where.
PUBLISHED = {
    "images, Liang et al. (arXiv:2410.08184)": 0.568,
    "images, HunyuanVideo (arXiv:2412.03603)": 0.563,
    "video, Yin et al. (arXiv:2411.17470)": 0.415,
    "video, HunyuanVideo (arXiv:2412.03603)": 0.362,
}


def analyse(
    runs: law.Runs,
    *,
    resamples: int = LEAST_RESAMPLES,
    seed: int = 0,
    held_out: run_records.Run | None = None,
) -> dict[str, Any]:
    """Everything that `fit.json` holds, of plain JSON values.

    Args:
      runs: the runs.
      resamples: number of bootstrap resamples.
      seed: PRNG seed of the bootstrap.
      held_out: a larger run that is no part of `runs`, to be predicted.

    Raises:
      RunsError: a loss that does not fall with size, or with data, has no optimum.
    """
    weights = law.bootstrap(runs.budget, resamples=resamples, seed=seed)
    best, resampled = law.fit(runs), law.fit(runs, weights)
    _check_falls(best)
    budgets = np.array(
        [runs.flops[runs.budget == group].mean() for group in np.unique(runs.budget)]
    )
    names = ("floor", "size", "data", "a", "b", "size_exponent", "data_exponent")
    residual = law.relative_residuals(runs, best)[0]
    report: dict[str, Any] = {
        "law": {n: estimate(getattr(best, n), getattr(resampled, n)) for n in names},
        "cost": {
            "factor": round(float(best.cost[0]), 4),
            "exponent": round(float(best.cost_exponent[0]), 4),
        },
        "optimum": _optima(best, resampled, budgets=budgets),
        "parabolas": _parabolas(runs, weights, budgets=budgets),
        "rms_residual": round(float(np.sqrt(np.mean(residual**2))), 6),
        "leave_one_budget_out": leave_one_budget_out(runs),
        "published_size_exponents": PUBLISHED,
        "runs": {
            field: getattr(runs, field).tolist()
            for field in ("parameters", "tokens", "flops", "loss", "budget")
        },
        "resamples": resamples,
        "level": LEVEL,
        "notes": run_records.unbracketed(runs) + _at_bounds(best),
    }
    if held_out is not None:
        report["held_out"] = predict(
            held_out, best, resampled=resampled, residual=residual
        )
    return report


def _check_falls(best: law.Law) -> None:
    """Refuse a law without one of its two terms: it has no optimum."""
    for term, what in ((best.size, "parameters"), (best.data, "tokens")):
        if not term[0] > 0:
            raise run_records.RunsError(
                f"the loss does not fall with {what}: these runs have no optimum; a "
                f"law needs sizes and budgets that lie further apart, and a loss of "
                "held-out clips"
            )


def _at_bounds(best: law.Law) -> list[str]:
    """A line for every exponent that is only held by the bounds of the search."""
    return [
        f"the exponent {name} is at {value[0]:.3g}, the bound of its search: these "
        "runs do not determine it, add larger and smaller budgets"
        for name, value in (("a", best.a), ("b", best.b))
        if not law.EXPONENTS[0] * 1.001 < value[0] < law.EXPONENTS[1] / 1.001
    ]


def estimate(value: np.ndarray, resampled: np.ndarray) -> dict[str, float]:
    """A number with its percentile interval; NaN resamples are left out and counted."""
    there = np.isfinite(resampled)
    edges = (50 - LEVEL / 2, 50 + LEVEL / 2)
    low, high = np.percentile(resampled[there], edges) if there.any() else (np.nan,) * 2
    values = {"value": float(value[0]), "low": float(low), "high": float(high)}
    undefined = float(1 - there.mean())
    return values | ({"undefined": undefined} if undefined else {})


def _optima(
    best: law.Law, resampled: law.Law, *, budgets: np.ndarray
) -> list[dict[str, Any]]:
    (n, d), (ns, ds) = best.optimum(budgets), resampled.optimum(budgets)
    least = best.loss(n[0], d[0])
    return [
        {
            "flops": float(flops),
            "parameters": estimate(n[:, i], ns[:, i]),
            "tokens": estimate(d[:, i], ds[:, i]),
            "loss": float(least[0, i]),
        }
        for i, flops in enumerate(budgets)
    ]


def _parabolas(
    runs: law.Runs, weights: np.ndarray, *, budgets: np.ndarray
) -> dict[str, Any]:
    """Minima of the IsoFLOP parabolas, and the exponent of a line through them."""
    best = law.parabolas(runs, np.ones((1, len(runs))))
    resampled = law.parabolas(runs, weights)
    return {
        "parameters": [
            estimate(best[:, i], resampled[:, i]) for i in range(len(budgets))
        ],
        "size_exponent": estimate(
            law.power_exponent(budgets, best), law.power_exponent(budgets, resampled)
        ),
    }


def leave_one_budget_out(runs: law.Runs) -> list[dict[str, float]]:
    """Relative errors of each budget's losses as predicted from all other budgets."""
    rows = []
    for group in np.unique(runs.budget):
        inside = runs.budget == group
        error = law.relative_residuals(
            runs.chosen(inside), law.fit(runs.chosen(~inside))
        )[0]
        rows.append(
            {
                "flops": float(runs.flops[inside].mean()),
                "mean_error": float(error.mean()),
                "rms_error": float(np.sqrt(np.mean(error**2))),
            }
        )
    return rows


def predict(
    run: run_records.Run, best: law.Law, *, resampled: law.Law, residual: np.ndarray
) -> dict[str, Any]:
    """The loss of a run by the law, with an interval for one run, beside its own.

    A resample's law is taken times one of the fit's relative residuals, which are
    enlarged by what a law of five numbers takes from them.
    """
    where = np.array([run.parameters]), np.array([run.tokens])
    random = np.random.default_rng(0)
    lost = np.sqrt(len(residual) / max(1, len(residual) - 5))
    drawn = random.choice(residual, size=len(resampled.a)) * lost
    expected = best.loss(*where)[:, 0]
    values = estimate(expected, resampled.loss(*where)[:, 0] * (1 + drawn))
    return {
        "run": run.name,
        "flops": run.flops,
        "predicted": values,
        "loss": run.loss,
        "relative_error": float(expected[0] / run.loss - 1),
        "inside": bool(values["low"] <= run.loss <= values["high"]),
    }


def lines(report: dict[str, Any]) -> list[str]:
    """The figures of a report, a line each."""

    def shown(values: dict[str, float]) -> str:
        return f"{values['value']:.4g} [{values['low']:.4g}, {values['high']:.4g}]"

    fitted = report["law"]
    text = [f"{name:14s} {shown(fitted[name])}" for name in fitted]
    text.append(f"{'by parabolas':14s} {shown(report['parabolas']['size_exponent'])}")
    text += [f"{'published':14s} {v} {k}" for k, v in PUBLISHED.items()]
    for row in report["optimum"]:
        text.append(
            f"C {row['flops']:.3g}: N_opt {shown(row['parameters'])}, "
            f"D_opt {shown(row['tokens'])}"
        )
    for row in report["leave_one_budget_out"]:
        text.append(f"C {row['flops']:.3g} left out: error {row['rms_error']:.2%}")
    if "held_out" in report:
        found = report["held_out"]
        text.append(
            f"held out {found['run']}: predicted {shown(found['predicted'])}, found "
            f"{found['loss']:.4g}, error {found['relative_error']:+.2%}"
        )
    return text


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(
        prog="python -m experiments.scaling.fit",
        description=(__doc__ or "").split("\n\n")[0],
    )
    add = parser.add_argument
    add("runs", type=pathlib.Path, metavar="RUNS", help="folder of work folders")
    add("--held-out", type=pathlib.Path, metavar="RUN", help="a larger run to predict")
    add("--output", type=pathlib.Path, help="folder of fit.json and curves")
    add("--resamples", type=cli.positive_int, default=LEAST_RESAMPLES)
    add("--seed", type=int, default=0, help="of the bootstrap")
    add("--finished", action="store_true", help="leave out runs without a result")
    options = parser.parse_args(argv)
    return cli.run_command("fit", lambda: _run(options), extra="train")


def _run(options: argparse.Namespace) -> None:
    if options.resamples < LEAST_RESAMPLES:
        raise ValueError(
            f"--resamples {options.resamples}: percentiles need {LEAST_RESAMPLES}"
        )
    output = options.output or options.runs
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output}: is a file; give a folder")
    found = run_records.read(options.runs, finished=options.finished)
    held_out = None
    if options.held_out is not None:
        held_out = run_records.read_run(options.held_out)
        run_records.check_alike([held_out, *found])
        inside = options.held_out.resolve()
        found = [r for r in found if (options.runs / r.name).resolve() != inside]
    report = analyse(
        run_records.to_law(found),
        resamples=options.resamples,
        seed=options.seed,
        held_out=held_out,
    )
    output.mkdir(parents=True, exist_ok=True)
    json_values.write(output / REPORT, report)
    for note in report["notes"]:
        print(f"note: {note}", file=sys.stderr)
    print("\n".join(lines(report)))
    for path in plot.draw(report, output):
        print(f"picture: {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
