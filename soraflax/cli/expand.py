"""`soraflax expand`: a short prompt made longer, as `--expand` does."""

import argparse
import pathlib
from typing import Any

from soraflax.cli import options
from soraflax.cli import parser as cli


def add_parser(subparsers: Any) -> cli.Parser:
    parser = subparsers.add_parser(
        "expand",
        help="make a short prompt longer, in the words of training",
        description="Print a longer prompt that asks for the same: every word stays, "
        "nothing is contradicted, and only what was left open is said. A prompt "
        "without a body of the embedded world stays as it is.",
        epilog='example: soraflax expand "a red ball"',
    )
    add = parser.add_argument
    add("prompt", help="what a video shall show")
    add("--image", action="store_true", help="add no motion")
    add(
        "--checkpoint",
        type=pathlib.Path,
        metavar="VIDEO",
        help="the model whose words are added (default: the shipped)",
    )
    add("--seed", default=0, type=int, metavar="N", help="of what is added")
    add(
        "--count",
        default=1,
        type=cli.positive_int,
        metavar="N",
        help="prompts, of seed, seed+1, …",
    )
    add(
        "--expander",
        default=options.TEMPLATE,
        metavar="NAME",
        help="template, MODULE:FUNCTION, or an entry point of soraflax.expanders",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Print each prompt."""
    from soraflax.generation import expansion
    from soraflax.pretrained import io as model_io
    from soraflax.pretrained import shipped

    record = model_io.model_config(shipped.or_given(args.checkpoint))
    trained_on = record.get("model", {}).get("trained_on") or {}
    words = trained_on.get("words", ())
    template = expansion.Template(words=words, moving=not args.image)
    expander = expansion.load(args.expander, template)
    for seed in range(args.seed, args.seed + args.count):
        print(expansion.expanded(args.prompt, expander, seed=seed, name=args.expander))
