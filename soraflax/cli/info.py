"""`soraflax info`: what a checkpoint holds."""

import argparse
import json
import pathlib
from typing import Any

from soraflax.cli import parser as cli


def add_parser(subparsers: Any) -> cli.Parser:
    parser = subparsers.add_parser(
        "info",
        help="say what a checkpoint holds",
        description="Print a checkpoint's configuration and sizes as JSON.",
        epilog="example: soraflax info demo/video",
    )
    parser.add_argument(
        "checkpoint", type=pathlib.Path, help="the directory of any model"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Print the facts as JSON."""
    from soraflax.pretrained import io

    directory = io.find_model(args.checkpoint)
    params, config = io.load_model(directory)
    count = sum(leaf.size for leaf in io.flatten(params).values())
    facts = {
        "directory": str(directory),
        "parameters": count,
        "digest": io.model_digest(directory),
        "config": config,
    }
    print(json.dumps(facts, indent=2))
