"""The clips that a step held: `python -m experiments.clips WORKDIR --step 1200`.

What a step saw follows from the run's configuration and the place of its data, so that
it is read again from the last checkpoint up to the step; nothing is trained. A line has
the clips of a row, those of all processes together; of crops, a line has one clip.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines import budgets, elastic, latents, pipeline, records
from soraflax import config as config_lib
from soraflax.cli import parser as cli
from soraflax.pretrained import io as model_io
from soraflax.pretrained import migration, models
from soraflax.train import checkpoint, saved_steps

EXTRA = "train"


def step_clips(workdir: pathlib.Path, step: int) -> list[list[str]]:
    """Ids of the clips of each row of the batch of a step.

    Args:
      workdir: of the run.
      step: number of updates before it.

    Raises:
      ValueError: no such step.
      CheckpointError: the run has no checkpoint, which holds its configuration.
      DatasetError: its data are not there any more.
    """
    folder = workdir / "checkpoints"
    saved = saved_steps.SavedSteps(folder, keep=2).committed()
    if not saved:
        raise checkpoint.CheckpointError(f"{folder}: no checkpoint")
    before = [number for number in saved if number <= step]
    known = folder / str(before[-1] if before else saved[0])
    config = migration.migrate(_item(known, "config"), "run")
    if not 0 <= step < config["train"]["steps"]:
        last = config["train"]["steps"] - 1
        raise ValueError(f"step {step}: the run has steps 0 to {last}")
    if "row" not in config["data"]:
        return [[clip] for clip in _crop_clips(config, step)]
    positions = [json.loads(text) for text in _item(known, "iterator")["positions"]]
    batches = _packed(config, workdir, position=positions[0])
    if before:
        batches.set_states(positions)
    start = before[-1] if before else 0
    return batches.row_clips(batches.get_state(), ahead=step - start)


def _item(folder: pathlib.Path, name: str) -> Any:
    return json.loads((folder / name / "metadata").read_text())


def _packed(
    config: dict[str, Any], workdir: pathlib.Path, *, position: dict[str, Any]
) -> elastic.LaneBatches:
    """The batches of a run of any number of processes, from its start, in this one."""
    data = config_lib.to_dataclass(config["data"], pipeline.PackedDataConfig)
    cached = workdir / "latents"
    data = dataclasses.replace(
        data,
        path=str(cached) if cached.exists() else data.path,
        rows=position["rows"],
        lanes=position["lanes"],
    )
    sources = [] if config["cache"]["enabled"] else _unencoded(config, data)
    return pipeline.make_batches(data, host=pipeline.HostShard(), latents=sources)


def _unencoded(config: dict[str, Any], data: pipeline.PackedDataConfig) -> list[Any]:
    """The clips of a run without cached latents, their latents all zero."""
    directory = config.get("autoencoder") or (
        model_io.find_model(config["base"]) / models.AUTOENCODER
    )
    model = models.load_autoencoder(directory)
    sizes = model.config

    def encode(video: np.ndarray) -> np.ndarray:
        grid = sizes.latent_grid(*video.shape[1:4])
        return np.zeros((len(video), *grid, sizes.latent_channels), np.float32)

    zeros = np.zeros(sizes.latent_channels, np.float32)
    cache = config_lib.to_dataclass(config["cache"], latents.LatentCacheConfig)
    encoder = dataclasses.replace(latents.LatentEncoder.of_model(model), encode=encode)
    return [
        budgets.VideoLatents(
            records.open_dataset(path, data.split),
            encoder,
            cache,
            zeros,
            zeros + 1,
            budgets=data.budgets,
            seed=data.seed,
        )
        for path in (data.path, *data.also)
    ]


def _crop_clips(config: dict[str, Any], step: int) -> list[str]:
    data = config_lib.to_dataclass(config["data"], pipeline.VideoDataConfig)
    batches = pipeline.make_video_batches(data, batch=config["batch"])
    return batches.clips({"next_index": step})


def add_parser(subparsers: Any) -> cli.Parser:
    """The parser of the command."""
    parser = subparsers.add_parser(
        "clips", help="the clips that a step of a run held", description=__doc__
    )
    parser.add_argument("workdir", type=pathlib.Path, metavar="WORKDIR")
    parser.add_argument(
        "--step", type=int, required=True, help="number of updates before it"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Print the clips of a step.

    Raises:
      ValueError, OSError: no such run or step.
    """
    for number, row in enumerate(step_clips(args.workdir, args.step)):
        print(f"row {number}: {', '.join(row)}")


def main(argv: Sequence[str] | None = None) -> int:
    this: Any = sys.modules[__name__]
    words = sys.argv[1:] if argv is None else argv
    return cli.dispatch([this], ["clips", *words])


if __name__ == "__main__":
    sys.exit(main())
