"""A sweep of isoFLOP grids: one process a point, taken up where it was left.

    python -m experiments.scaling.sweep --preset two_cores --modality video \\
        --output SWEEP

Renders the data of a modality (images, video, or both mixed), encodes it with the
shipped autoencoder, plans the points (`grid`) and trains them one after the other, each
by `soraflax train` in a process of its own. The same command goes on where it was
stopped: finished points are left alone, a killed one resumes from its checkpoint. Then

    python -m experiments.scaling.fit SWEEP/points

`--matrix FILE` trains nothing here, but writes a Kubernetes JobSet with a job for each
point, for a pod; `--only NAME` trains one point, which is what those jobs run.
"""

import argparse
import dataclasses
import itertools
import json
import math
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from data_pipelines import latents, pipeline, prepare, records
from experiments.configs import bodies as bodies_config
from experiments.scaling import grid
from experiments.scaling import runs as run_records
from experiments.stages.video import data as video_data
from soraflax import config as config_lib
from soraflax import flops
from soraflax.cli import parser as cli
from soraflax.nn import dit
from soraflax.pretrained import shipped

POINTS = "points"
TRAIN = "experiments.train"
MODALITIES = {"images": "images", "video": "videos", "both": "short"}
HELD_OUT = 256
MEASURED_ROWS = 64
Run = Callable[[Sequence[str]], int]


def make_data(
    output: pathlib.Path,
    modality: str,
    *,
    clips: int,
    autoencoder: pathlib.Path,
    values: Any,
) -> pathlib.Path:
    """Latents of a modality in `output/latents`, made where they are not there yet."""
    target = output / "latents"
    if target.exists():
        return target
    dataset = output / "dataset"
    held_out = min(HELD_OUT, max(1, clips // 10))
    if not dataset.exists():
        prepare.prepare_world(
            "bodies",
            dataset,
            variant=MODALITIES[modality],
            count=clips + held_out,
            validation=prepare.ValidationSplit(count=held_out),
        )
    encode_data(dataset, target, autoencoder=autoencoder, values=values)
    return target


def encode_data(
    dataset: pathlib.Path,
    target: pathlib.Path,
    *,
    autoencoder: pathlib.Path,
    values: Any,
) -> None:
    """Latents of a dataset, by a trained autoencoder."""
    latents.cache_latents(
        dataset,
        target,
        encoder=video_data.TrainedEncoder.load(str(autoencoder)).for_cache(),
        config=config_lib.to_dataclass(values.cache, latents.LatentCacheConfig),
    )


def measure_rows(values: Any, data: pathlib.Path) -> list[flops.Lengths]:
    """Lengths of the segments of the first rows that a point would see."""
    config = config_lib.to_dataclass(values.data, pipeline.PackedDataConfig)
    config = dataclasses.replace(config, path=str(data), rows=1)
    rows = itertools.islice(pipeline.make_dataset(config), MEASURED_ROWS)
    return [flops.lengths(row.segments, row.text_segments) for row in rows]


def arguments(
    point: grid.Point,
    folder: pathlib.Path,
    *,
    data: pathlib.Path,
    autoencoder: pathlib.Path,
    size: str = "small",
) -> list[str]:
    """The words after `soraflax train` of a point."""
    model, text = point.model, point.model.text
    sizes = {name: getattr(model, name) for name in ("width", "depth", "heads", "mlp")}
    sizes["text_width"] = model.text_width
    if text is not None:
        for name in ("width", "head_size", "mlp"):
            sizes[f"text.{name}"] = getattr(text, name)
    fields = {f"model.{name}": value for name, value in sizes.items()} | {
        "data.path": data,
        "data.rows": point.rows,
        "autoencoder": autoencoder,
        "optimizer.learning_rate": point.learning_rate,
        "evaluation.batches": 8,
        "evaluation.words": "()",
    }
    fields |= schedule(point.steps)
    config = f"bodies:{size}" if size != "small" else "bodies"
    words = [f"--config.{name}={value}" for name, value in fields.items()]
    return [f"--config={config}", *words, f"--workdir={folder / point.name}"]


def schedule(steps: int) -> dict[str, Any]:
    """Fields of a run of so many steps that follow from their number."""
    return {
        "optimizer.warmup": max(1, min(100, steps // 10)),
        "train.steps": steps,
        "train.log_every": max(1, min(50, steps // 5)),
        "train.checkpoint_every": max(50, steps // 5),
        "train.evaluate_every": 0,
        "train.ema_decay": min(0.998, 1 - 10 / (steps + 10)),
    }


def write_point(folder: pathlib.Path, point: grid.Point, *, settings: Any) -> None:
    """`point.json`, by which a fit knows a point that did not end, and mixed sweeps."""
    path = folder / point.name
    path.mkdir(parents=True, exist_ok=True)
    planned = {
        "budget": point.budget,
        "parameters": point.parameters,
        "steps": point.steps,
        "learning_rate": point.learning_rate,
        "settings": settings,
    }
    (path / run_records.POINT).write_text(json.dumps(planned, indent=2) + "\n")


def train_here(words: Sequence[str]) -> int:
    """Train a point in a process of its own; its exit status.

    Where this process is told to stop, that one is too, and saves before it ends.
    """
    process = subprocess.Popen([sys.executable, "-m", TRAIN, *words])
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise


def run_points(
    points: Sequence[grid.Point],
    words: Callable[[grid.Point], Sequence[str]],
    *,
    folder: pathlib.Path,
    run: Run = train_here,
) -> list[str]:
    """Train every point that has no result yet; the names of those that failed.

    Raises:
      KeyboardInterrupt: a point was interrupted.
    """
    failed = []
    for number, point in enumerate(points, start=1):
        about = f"point {number} of {len(points)}, {point.name}"
        if is_done(folder / point.name):
            print(f"{about}: done before", file=sys.stderr)
            continue
        print(f"{about}: {point.steps} steps", file=sys.stderr, flush=True)
        status = run(words(point))
        if status == cli.EXIT_INTERRUPTED:
            raise KeyboardInterrupt("the same command goes on")
        if status:
            failed.append(point.name)
    return failed


def is_done(path: pathlib.Path) -> bool:
    """Whether a point has a result, its model beside it."""
    if not (path / "result.json").is_file():
        return False
    try:
        run_records.read_run(path)
    except run_records.RunsError:
        return False
    return True


def jobset(
    points: Sequence[grid.Point],
    preset: grid.Preset,
    *,
    name: str,
    image: str,
    words: Sequence[str],
) -> dict[str, Any]:
    """A JobSet with a job for every point; a killed pod starts again and resumes.

    Args:
      points: the points.
      preset: placement and devices of a point.
      name: of the JobSet.
      image: container with soraflax.
      words: the sweep's own command line, to which `--only` is added.
    """
    limits = {"limits": {preset.resource: preset.devices}} if preset.resource else {}

    def job(point: grid.Point) -> dict[str, Any]:
        container = {
            "name": "train",
            "image": image,
            "command": ["python", "-m", "experiments.scaling.sweep"],
            "args": [*words, f"--only={point.name}"],
            "resources": limits,
        }
        pod = {
            "restartPolicy": "OnFailure",
            "nodeSelector": dict(preset.topology),
            "containers": [container],
        }
        job_spec = {"backoffLimit": 20, "template": {"spec": pod}}
        label = point.name.replace(".", "-")
        return {"name": label, "replicas": 1, "template": {"spec": job_spec}}

    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": name},
        "spec": {"replicatedJobs": [job(point) for point in points]},
    }


def table(points: Sequence[grid.Point], preset: grid.Preset) -> str:
    """The points, a line each, and the time that all of them may take."""
    lines = [
        f"{p.name:22s} {p.parameters:>12,} parameters {p.steps:>8,} steps, rate "
        f"{p.learning_rate:.2g}"
        for p in points
    ]
    hours = sum(p.budget for p in points) / preset.flops_per_second / 3600
    return "\n".join([*lines, f"{len(points)} points, about {hours:.1f} hours"])


def _budgets(text: str) -> tuple[float, ...]:
    """`1e12,1e13,...`: FLOPs of each budget."""
    try:
        values = tuple(sorted(float(word) for word in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: use 1e12,1e13,1e14") from None
    if not all(0 < value < math.inf for value in values):
        raise argparse.ArgumentTypeError(f"{text!r}: use FLOPs above 0")
    return values


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(
        prog="python -m experiments.scaling.sweep",
        description=(__doc__ or "").split("\n\n")[0],
    )
    add = parser.add_argument
    add("--output", type=pathlib.Path, required=True, help="the sweep's folder")
    add("--preset", choices=list(grid.PRESETS), default="two_cores")
    add("--modality", choices=list(MODALITIES), default="video")
    add("--data", type=pathlib.Path, help="latents of your own, for any modality")
    add("--autoencoder", type=pathlib.Path, help="of those latents (default: shipped)")
    add("--budgets", type=_budgets, help="FLOPs, as 1e12,1e13,1e14 (default: preset's)")
    add("--sizes", type=cli.positive_int, help="models of each budget")
    add("--clips", type=cli.positive_int, help="clips rendered for the data")
    add("--fit", type=pathlib.Path, help="fit.json whose optimum is the centre")
    add(
        "--learning-rate",
        type=pathlib.Path,
        help="of experiments.scaling.learning_rate",
    )
    add("--only", metavar="POINT", help="train this point alone")
    add("--plan", action="store_true", help="print the points and train none")
    add("--matrix", type=pathlib.Path, help="write a JobSet here and train none")
    add("--image", default="soraflax:latest", help="container image of the JobSet")
    options = parser.parse_args(argv)
    words = without(sys.argv[1:] if argv is None else argv, "--matrix")
    return cli.run_command(
        "sweep",
        lambda: _run(options, words),
        extra="train",
        interrupted="the same command goes on",
    )


def without(words: Sequence[str], flag: str) -> list[str]:
    """A command line without `FLAG VALUE` or `FLAG=VALUE`."""
    kept, skip = [], False
    for word in words:
        if not skip and word != flag and not word.startswith(f"{flag}="):
            kept.append(word)
        skip = word == flag
    return kept


def preset_of(options: argparse.Namespace) -> grid.Preset:
    """The preset with what the command line says otherwise."""
    given = {name: getattr(options, name) for name in ("budgets", "sizes", "clips")}
    return dataclasses.replace(
        grid.PRESETS[options.preset], **{k: v for k, v in given.items() if v}
    )


def _run(
    options: argparse.Namespace,
    words: Sequence[str],
    *,
    size: str = "small",
    run: Run = train_here,
) -> None:
    preset = preset_of(options)
    autoencoder = options.autoencoder or shipped.folder() / "autoencoder"
    values: Any = bodies_config.get_config(size)
    fit = grid.read_fit(options.fit) if options.fit else None
    rate = grid.LearningRate(values.optimizer.learning_rate, values.model.width)
    if options.learning_rate:
        rate = grid.LearningRate.read(options.learning_rate)
    options.output.mkdir(parents=True, exist_ok=True)
    data = options.data or make_data(
        options.output,
        options.modality,
        clips=preset.clips,
        autoencoder=autoencoder,
        values=values,
    )
    points = grid.plan(
        preset,
        measure_rows(values, data),
        base=config_lib.to_dataclass(values.model, dit.DiTConfig),
        rate=rate,
        fit=fit,
    )
    if options.matrix:
        name = f"soraflax-{options.modality}-{options.preset}".replace("_", "-")
        made = jobset(points, preset, name=name, image=options.image, words=words)
        options.matrix.write_text(json.dumps(made, indent=2) + "\n")
    if options.matrix or options.plan:
        print(table(points, preset))
        return
    if options.only:
        names = [point.name for point in points]
        if options.only not in names:
            hint = config_lib.nearest(options.only, names)
            raise ValueError(f"no point {options.only!r}: {hint}")
        points = [point for point in points if point.name == options.only]
    settings = {
        "data": records.dataset_digest(data),
        "learning_rate": dataclasses.asdict(rate),
    }
    folder = options.output / POINTS
    for point in points:
        write_point(folder, point, settings=settings)
    failed = run_points(
        points,
        lambda point: arguments(
            point, folder, data=data, autoencoder=autoencoder, size=size
        ),
        folder=folder,
        run=run,
    )
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(points)} points failed, first {failed[0]}; the "
            "same command tries them again"
        )
    print(f"points: {folder}   python -m experiments.scaling.fit {folder}")


if __name__ == "__main__":
    sys.exit(main())
