"""Repeat a step that went wrong: `python -m experiments.replay RECORD`.

RECORD is a file of a run's `incidents/`. The run goes on from its last checkpoint
before that step, in `replays/STEP` beside `incidents`, up to the step and no further;
its metrics are compared with the recorded ones bit for bit. Exit status 0 if they are
equal, 2 if not. With several processes, launch it as the run was launched.
"""

import argparse
import contextlib
import importlib
import math
import pathlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from experiments.stages import runtime
from soraflax import config as config_lib
from soraflax.cli import parser as cli
from soraflax.train import cluster, incidents, loop, metrics, saved_steps

EXTRA = "train"


def replay(path: pathlib.Path) -> tuple[incidents.Incident, dict[str, float]]:
    """The record of an incident, and the metrics of the same step done again.

    Raises:
      ValueError, OSError: no such record, or no checkpoint before its step.
    """
    record = incidents.Incident.read(path)
    values, workdir = dict(record.config), path.absolute().parents[1]
    if values["distributed"]:
        cluster.start(config_lib.to_dataclass(values["cluster"], cluster.ClusterConfig))
    scratch = workdir / "replays" / str(record.step)
    if jax.process_index() == 0:
        prepare(workdir, scratch, step=record.step)
    runtime.barrier("prepared")
    values["train"] = values["train"] | {
        "stop_at": record.step + 1,
        "log_every": 1,
        "evaluate_every": 0,
        "checkpoint_every": 0,
        "checkpoint_minutes": 0.0,
        "wandb": "",
    }
    stage = importlib.import_module(f"experiments.stages.{values['stage']}.stage")
    # It stops where it was told to, and where nothing of its log window was finite.
    with contextlib.suppress(runtime.Interrupted, loop.DivergenceError):
        stage.run(values, scratch)
    lines = [m for m in metrics.read(scratch) if m["step"] == record.step + 1]
    return record, lines[-1]


def prepare(workdir: pathlib.Path, scratch: pathlib.Path, *, step: int) -> None:
    """A work folder with the run's last checkpoint up to `step`, and its latents.

    Raises:
      ValueError: there is none, and the run did not begin at step 0.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "checkpoints").mkdir(parents=True)
    folder = workdir / "checkpoints"
    steps = saved_steps.SavedSteps(folder, keep=2).committed()
    before = [number for number in steps if number <= step]
    if before:
        name = str(before[-1])
        # Two steps are kept, this one and the one after the incident.
        (scratch / "checkpoints" / name).symlink_to((folder / name).absolute())
    elif min(metrics.read(workdir), key=lambda m: m["step"])["step"] > step + 1:
        raise ValueError(f"{folder}: no checkpoint up to step {step} is left")
    if (workdir / "latents").exists():
        (scratch / "latents").symlink_to(workdir / "latents")


def differences(
    recorded: Mapping[str, float], repeated: Mapping[str, float]
) -> list[str]:
    """A line for each metric that is not the same, bit for bit."""
    return [
        f"{name}: was {value!r}, is {repeated.get(name)!r}"
        for name, value in recorded.items()
        if repeated.get(name) != value
        and not (math.isnan(value) and math.isnan(repeated.get(name, 0.0)))
    ]


def add_parser(subparsers: Any) -> cli.Parser:
    """The parser of the command."""
    parser = subparsers.add_parser(
        "replay", help="repeat a step that went wrong", description=__doc__
    )
    parser.add_argument("record", type=pathlib.Path, metavar="RECORD")
    return parser


def run(args: argparse.Namespace) -> None:
    """Repeat the step and say whether it came out the same.

    Raises:
      ValueError: it did not, naming the metrics.
    """
    record, repeated = replay(args.record)
    print(f"step {record.step}: {record.reason}")
    for clip in record.clips:
        print(f"clip: {clip}")
    if found := differences(record.metrics, repeated):
        raise ValueError(f"step {record.step} came out otherwise: {'; '.join(found)}")
    print("repeated bit for bit")


def main(argv: Sequence[str] | None = None) -> int:
    this: Any = sys.modules[__name__]
    words = sys.argv[1:] if argv is None else argv
    return cli.dispatch([this], ["replay", *words])


if __name__ == "__main__":
    sys.exit(main())
