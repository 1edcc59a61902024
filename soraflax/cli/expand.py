"""`soraflax expand`: a short prompt made longer, as `--expand` does."""

import argparse
import pathlib
from typing import Any

from soraflax.cli import parser as cli


def add_parser(subparsers: Any) -> cli.Parser:
    parser = subparsers.add_parser(
        "expand",
        help="make a short prompt longer, in the words of training",
        description="Print a longer prompt that asks for the same: everything that it "
        "says stays, nothing is contradicted, and only what was left open is said. "
        "The template keeps a prompt without a body of the embedded world as it is; a "
        'trained expander also reads "red" or "something moves left", and where it '
        "does not understand a word, the template is used, which is said.",
        epilog='example: soraflax expand "a red ball"',
    )
    add = parser.add_argument
    add("prompt", help="what a video shall show")
    add("--image", action="store_true", help="add no motion")
    add(
        "--checkpoint",
        type=pathlib.Path,
        metavar="DIR",
        help="a video model, whose words are added, or a trained expander (default: "
        "the shipped model)",
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
        metavar="NAME",
        help="template, learned (the shipped expander, if any), the folder of a "
        "trained one, MODULE:FUNCTION, or an entry point of soraflax.expanders "
        "(default: template)",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Print each prompt."""
    from soraflax.cli import outputs
    from soraflax.generation import expansion
    from soraflax.pretrained import expanders, shipped
    from soraflax.pretrained import io as model_io

    folder = shipped.or_given(args.checkpoint)
    record, name = model_io.model_config(folder), args.expander
    if record.get("kind") == expanders.KIND:
        if name is not None:
            raise ValueError(
                f"{folder} is an expander, and --expander {name} another: give one"
            )
        record, name = model_io.model_config(shipped.folder()), str(folder)
    trained_on = record.get("model", {}).get("trained_on") or {}
    words = trained_on.get("words", ())
    template = expansion.Template(words=words, moving=not args.image)
    name = name or expansion.TEMPLATE
    expander = expansion.load(name, template)
    for seed in range(args.seed, args.seed + args.count):
        made = expansion.expanded(args.prompt, expander, seed=seed, name=name)
        if seed == args.seed:
            outputs.print_notes("expand", made.notes)
        print(made.text)
