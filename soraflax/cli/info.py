"""`soraflax info`: what a checkpoint holds, and where its card is."""

import argparse
import json
import pathlib
from typing import Any

from soraflax.cli import parser as cli


def add_parser(subparsers: Any) -> cli.Parser:
    parser = subparsers.add_parser(
        "info",
        help="say what a checkpoint holds",
        description="Print a checkpoint's configuration and sizes as JSON, and where "
        "its card is: what it was trained on, how good it is, and what it cannot do.",
        epilog="examples: soraflax info; soraflax info demo/video",
    )
    parser.add_argument(
        "checkpoint",
        nargs="?",
        type=pathlib.Path,
        help="the directory of any model (default: the one shipped with soraflax)",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Print the facts as JSON."""
    from soraflax.pretrained import io, shipped

    directory = io.find_model(shipped.or_given(args.checkpoint))
    params, config = io.load_model(directory)
    count = sum(leaf.size for leaf in io.flatten(params).values())
    card = shipped.card(directory)
    facts = {
        "directory": str(directory),
        "card": None if card is None else str(card),
        "parameters": count,
        "bytes": io.stored_bytes(directory),
        "digest": io.model_digest(directory),
        "config": config,
    }
    print(json.dumps(facts, indent=2))
