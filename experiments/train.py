"""Train one stage: `soraflax train`, or `python -m experiments.train`.

    soraflax train --config=autoencoder_small --config.data.path=DATASET --workdir=AE
    soraflax train --config=video_small --config.data.path=DATASET \\
        --config.autoencoder=AE --workdir=VIDEO

`autoencoder_adversarial` takes what `video_small` takes, `video_lora` VIDEO as
--config.base. A config is a name in experiments/configs or a FILE.py, with or without
:argument; any field of it may be given as --config.FIELD=VALUE. The same command
resumes a run that was stopped. Bad input is one line and exit status 2.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from experiments import configs
from soraflax import config as config_lib
from soraflax.cli import parser as cli

EXTRA = "train"
STAGES = ("autoencoder", "adversarial", "video", "finetune", "captioner", "expander")


def add_parser(subparsers: Any) -> cli.Parser:
    """The parser of the command; unknown arguments are overrides of the config."""
    parser = subparsers.add_parser(
        "train", help="train one stage", description=__doc__, allow_abbrev=False
    )
    parser.overrides = "overrides"
    add = parser.add_argument
    add("--config", required=True, metavar="NAME", help="NAME or FILE.py, [:argument]")
    add("--workdir", required=True, metavar="DIR", help="checkpoints, metrics, model")
    return parser


def run(args: argparse.Namespace) -> None:
    """Train, and print the measurements of the result."""
    values = configs.load(args.config)
    configs.override(values, args.overrides)
    if values.get("stage") not in STAGES:
        hint = config_lib.nearest(str(values.get("stage")), STAGES)
        raise config_lib.ConfigError(f"config.stage {values.get('stage')!r}: {hint}")
    stage = importlib.import_module(f"experiments.stages.{values.stage}.stage")
    for name, value in stage.run(values, args.workdir).items():
        print(f"{name}: {value:.4g}")
    print(f"model: {args.workdir}/model")


def main(argv: Sequence[str] | None = None) -> int:
    this: Any = sys.modules[__name__]
    words = sys.argv[1:] if argv is None else argv
    return cli.dispatch([this], ["train", *words])


if __name__ == "__main__":
    sys.exit(main())
