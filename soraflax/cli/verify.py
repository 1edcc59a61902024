"""`soraflax verify`: whether a file says that it was generated, and how."""

import argparse
import json
import pathlib
from typing import Any

from soraflax.cli import parser as cli


def add_parser(subparsers: Any) -> cli.Parser:
    parser = subparsers.add_parser(
        "verify",
        help="say whether and how a file was generated",
        description="Read the record that results carry, in themselves and in the "
        "FILE.json beside them. A file without a record may have been generated all "
        "the same: whoever copies frames can leave it out.",
        epilog="example: soraflax verify out.mp4",
    )
    add = parser.add_argument
    add("file", type=pathlib.Path, metavar="FILE", help="a video or an image")
    add("--json", action="store_true", help="the whole record")
    return parser


def run(args: argparse.Namespace) -> None:
    """Print what the file says."""
    from soraflax.generation import verification

    found = verification.verify(args.file)
    print(json.dumps(found.values) if args.json else found.text)
