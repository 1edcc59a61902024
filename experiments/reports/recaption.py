"""Re-captioning: captions of uploaders, of a captioner, and true ones, same compute.

    python -m experiments.reports.recaption [--quick] [--output report]

The report trains on captions that a captioner wrote, as DALL-E 3 does. Here one model
is trained for one number of steps on the same clips of the world `bodies`, and only the
captions differ:

    uploader    what people type: words left out, shuffled, wrong, or a file's name
    captioner   what the captioner says of the clips (`data_pipelines.recaption`)
    detailed    the ground truth

Runs of one seed begin with the same parameters and see the same clips and noise in the
same order. Each makes what the same held-out prompts ask for, and the judge reads it
back. With a the share of attributes that agree with the prompt, the mean over prompts
and seeds,

    gain      = a(captioner) - a(uploader)                                        (1)
    recovered = gain / (a(detailed) - a(uploader))                                (2)

with intervals from a bootstrap that draws the same seeds and prompts for all arms. The
claim holds where (1) is above 0. The Fréchet distance of each arm is to real renders,
and short prompts ("a red circle") are made as they are and expanded.

The default form is one that a CPU core does within the hour: still images, and the
attributes that a small model learns in as few views of them. Shape takes about ten
times as many, and motion `--modality both`; all attributes are among the figures.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines import caption_statistics, latents, records
from experiments import configs
from experiments.plots import figures as plots
from experiments.reports import recaption_arms as arms
from experiments.reports import scoreboard, worlds
from experiments.scaling import sweep
from soraflax import config as config_lib
from soraflax.cli import parser as cli
from soraflax.evaluation import frechet
from soraflax.pretrained import io as model_io
from soraflax.pretrained import models, shipped

NAME = "recaption"
CLAIM = "Captions that a captioner wrote teach a model to do what it is told."
SHEET = "prompts.png"
SETTINGS = "settings.json"


def resampled(tables: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Means of tables `[seeds, prompts]`, of seeds and prompts drawn alike for all.

    Returns:
      for each table, `[scoreboard.RESAMPLES]`.
    """
    rng = np.random.default_rng(0)
    seeds, prompts = next(iter(tables.values())).shape
    drawn = [
        np.ix_(rng.integers(seeds, size=seeds), rng.integers(prompts, size=prompts))
        for _ in range(scoreboard.RESAMPLES)
    ]
    return {k: np.array([t[at].mean() for at in drawn]) for k, t in tables.items()}


def _figure(
    name: str, value: float, *, draws: np.ndarray, count: int, **beside: Any
) -> scoreboard.Figure:
    low, high = np.percentile(draws, (2.5, 97.5))
    return scoreboard.Figure(
        name, float(value), float(low), float(high), count, **beside
    )


def comparison(tables: Mapping[str, np.ndarray]) -> list[scoreboard.Figure]:
    """Equation (1), and (2) where there is a way to go.

    Args:
      tables: of every arm, the share of attributes that agree, `[seeds, prompts]`.
    """
    draws, count = resampled(tables), tables[arms.UPLOADER].size
    low, middle, high = (
        np.append(tables[arm].mean(), draws[arm])
        for arm in (arms.UPLOADER, arms.CAPTIONER, arms.TRUTH)
    )
    gain, way = middle - low, high - low
    name = "captioner less uploader"
    figures = [_figure(name, gain[0], draws=gain[1:], count=count, chance=0.0)]
    if np.percentile(way[1:], 2.5) > 0:
        name, shares = "recovered of the way to the truth", gain / way
        told = shares[1:][way[1:] > 0]
        figures.append(_figure(name, shares[0], draws=told, count=count))
    return figures


def to_claim(
    readings: Mapping[str, arms.Readings],
    *,
    ablation: arms.Ablation,
    statistics: Mapping[str, Mapping[str, Any]],
    expansion: Mapping[str, np.ndarray],
    renders: np.ndarray,
    training_flops: float = 0.0,
) -> scoreboard.Claim:
    """All figures.

    Args:
      readings: of every arm.
      ablation: sizes.
      statistics: of every arm's captions.
      expansion: of `arms.read_short`, by the captioner's arm.
      renders: features of real renders.
      training_flops: of all runs.
    """
    tables = {arm: found.share(ablation.attributes) for arm, found in readings.items()}
    figures = comparison(tables)
    notes = [
        f"(1) and (2) are of {', '.join(ablation.attributes)}; "
        f"{ablation.seeds} seeds of {ablation.steps} steps, {ablation.samples} of each "
        f"of {ablation.prompts} prompts"
    ]
    if len(figures) == 1:
        notes.append(
            "true captions are not shown to do better than uploaders' here: there is "
            "no way of which a share could be recovered"
        )
    means = resampled(tables)
    for arm, found in readings.items():
        chance = float(np.mean([found.others[name] for name in ablation.attributes]))
        beside = {"count": tables[arm].size, "chance": chance}
        mean = tables[arm].mean()
        figures.append(_figure(f"attributes, {arm}", mean, draws=means[arm], **beside))
    for name in readings[arms.TRUTH].own:
        for arm, found in readings.items():
            right = [bool(value) for value in found.own[name].ravel()]
            chance = found.others[name]
            figures.append(scoreboard.share(f"{name}, {arm}", right, chance=chance))
    for arm, found in readings.items():
        name = f"Fréchet distance, {arm}"
        figures.append(_distance(name, found.features, renders=renders))
        said = ", ".join(f"{k} {v:.2f}" for k, v in statistics[arm]["accuracy"].items())
        notes.append(f"captions of {arm}, read by the grammar: {said}")
    figures.append(_expansion(expansion))
    return scoreboard.Claim(
        NAME,
        CLAIM,
        "",
        tuple(figures),
        pictures=((SHEET, "the same prompts and noise, by each arm's first seed"),),
        notes=tuple(notes),
        flops=training_flops,
    )


def _distance(name: str, made: np.ndarray, *, renders: np.ndarray) -> scoreboard.Figure:
    """The Fréchet distance, with its bootstrap over what was made."""
    real = frechet.moments([renders])

    def distance(features: np.ndarray) -> float:
        return frechet.distance(frechet.moments([features]), real, too_few="allow")

    rng = np.random.default_rng(0)
    draws = [
        distance(made[rng.integers(len(made), size=len(made))]) for _ in range(100)
    ]
    about: Any = {"draws": np.array(draws), "count": len(made), "better": "low"}
    return _figure(name, distance(made), **about)


def _expansion(found: Mapping[str, np.ndarray]) -> scoreboard.Figure:
    """What expansion adds to the share of short prompts of which all holds."""
    draws = resampled(found)
    return _figure(
        "short prompts, expanded less as they are",
        found["expanded"].mean() - found["short"].mean(),
        draws=draws["expanded"] - draws["short"],
        count=found["short"].size,
        chance=0.0,
    )


def make(
    output: pathlib.Path,
    ablation: arms.Ablation,
    *,
    captioner: pathlib.Path | None = None,
    data: pathlib.Path | None = None,
    run: arms.Run = sweep.train_here,
) -> scoreboard.Claim:
    """The claim, from nothing; what was trained before is left alone.

    Args:
      output: folder of all reports.
      ablation: sizes.
      captioner: its folder; None for the shipped one.
      data: latents of the shipped encoder, to which both sources of captions are added;
        None renders and encodes `ablation.clips`.
      run: trains, given the words of `soraflax train`; its exit status.

    Raises:
      ValueError: a config, captioner or latents that do not fit, or runs of other sizes
        in `output`.
    """
    folder = output / NAME
    arms.prompts(ablation)  # of which there may be fewer
    values: Any = configs.load(ablation.config)
    who = model_io.find_model(shipped.captioner_or_given(captioner))
    if data is not None:
        latents.open_latents(data, "train", digest=arms.encoder().encoder_digest)
    folder.mkdir(parents=True, exist_ok=True)
    _check_settings(folder, ablation, captioner=model_io.model_digest(who), data=data)
    data = data or sweep.make_data(
        folder,
        ablation.modality,
        clips=ablation.clips,
        autoencoder=shipped.folder() / models.AUTOENCODER,
        values=values,
    )
    statistics = arms.add_sources(data, captioner=who)
    runs: dict[str, list[pathlib.Path]] = {arm: [] for arm in arms.ARMS}
    for seed in range(ablation.seeds):
        for arm in arms.ARMS:
            about: Any = {"data": data, "arm": arm, "seed": seed, "run": run}
            runs[arm].append(arms.train(ablation, folder, **about))
    readings = {arm: arms.read(ablation, paths) for arm, paths in runs.items()}
    _draw(folder / SHEET, readings, prompts=[t for t, _ in arms.prompts(ablation)])
    return to_claim(
        readings,
        ablation=ablation,
        statistics=statistics,
        expansion=arms.read_short(ablation, runs[arms.CAPTIONER]),
        renders=arms.renders(ablation),
        training_flops=sum(
            worlds.training_flops(path) for paths in runs.values() for path in paths
        ),
    )


def _check_settings(
    folder: pathlib.Path,
    ablation: arms.Ablation,
    *,
    captioner: str,
    data: pathlib.Path | None,
) -> None:
    """Refuse a folder with runs of other settings; write these where there are none.

    Raises:
      ValueError: naming the setting that differs.
    """
    digest = records.dataset_digest(data) if data else ""
    ours = dataclasses.asdict(ablation) | {"captioner": captioner, "latents": digest}
    ours = json.loads(json.dumps(ours))
    path = folder / SETTINGS
    if path.is_file():
        difference = config_lib.first_difference(ours, json.loads(path.read_text()))
        if difference:
            key, mine, theirs = difference
            raise ValueError(
                f"{key} is {mine!r}, but {folder} holds runs of {theirs!r}; use that "
                "or another --output"
            )
    path.write_text(json.dumps(ours, indent=2) + "\n")


def _draw(
    path: pathlib.Path, readings: Mapping[str, arms.Readings], *, prompts: Sequence[str]
) -> None:
    """The sheet: a row for each prompt, a column for each arm."""
    count = min(arms.SHOWN, len(prompts))
    plots.contact_sheet(
        path,
        [found.shown[n] for n in range(count) for found in readings.values()],
        labels=[f"{arm}: {prompts[n]}" for n in range(count) for arm in readings],
        columns=len(readings),
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = scoreboard.make_parser(NAME, __doc__)
    full = arms.Ablation()
    add, some = parser.add_argument, cli.positive_int
    add("--latents", type=pathlib.Path, help="of the shipped encoder (default: made)")
    add("--captioner", type=pathlib.Path, help="its folder (default: the shipped)")
    add("--config", help=f"of training (default: {full.config})")
    add("--modality", choices=list(sweep.MODALITIES), help="(default: images)")
    add("--clips", type=some, help=f"rendered for the data (default: {full.clips})")
    add("--rows", type=some, help=f"of a batch (default: {full.rows})")
    add("--steps", type=some, help=f"of every run (default: {full.steps})")
    add("--seeds", type=some, help=f"runs of an arm (default: {full.seeds})")
    add("--prompts", type=some, help=f"of every run (default: {full.prompts})")
    add("--samples", type=some, help=f"of each prompt (default: {full.samples})")
    add(
        "--attributes",
        nargs="+",
        choices=caption_statistics.ATTRIBUTES,
        help=f"that are compared (default: {' '.join(full.attributes)})",
    )
    options = parser.parse_args(argv)
    words = sys.argv[1:] if argv is None else argv
    given = [w for w in sweep.without(words, "--output") if w != "--quick"]
    return scoreboard.run_report(
        NAME,
        lambda: _make(options),
        output=options.output,
        command=" ".join([f"python -m experiments.reports.{NAME}", *given]),
    )


def _make(options: argparse.Namespace) -> scoreboard.Claim:
    names = (
        *("config", "modality", "clips", "rows", "steps", "seeds", "prompts"),
        *("samples", "attributes"),
    )
    given: dict[str, Any] = {name: getattr(options, name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    if "attributes" in given:
        given["attributes"] = tuple(given["attributes"])
    ablation = dataclasses.replace(
        arms.QUICK if options.quick else arms.Ablation(), **given
    )
    claim = make(
        options.output, ablation, captioner=options.captioner, data=options.latents
    )
    return dataclasses.replace(claim, quick=options.quick)


if __name__ == "__main__":
    sys.exit(main())
