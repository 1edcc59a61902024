"""`soraflax image`: make an image from a text prompt."""

import argparse
from typing import TYPE_CHECKING, Any

from soraflax.cli import options
from soraflax.cli import parser as cli

if TYPE_CHECKING:
    from soraflax.generation import generator


def add_parser(subparsers: Any) -> cli.Parser:
    parser = options.add_command(
        subparsers,
        "image",
        summary="make an image from a text prompt",
        example='image "a large red circle on a white background" '
        "--size 96x96 --out out.png",
        details="Any size on the grid; large ones in tiles (--tile) or over devices.",
    )
    parser.add_argument("prompt", help="what the image shows")
    options.add_size(
        parser,
        meaning="width and height in pixels (default: the model's own, else 64x64)",
    )
    options.add_sampling(parser, out="out.png")
    return parser


def run(args: argparse.Namespace) -> None:
    """Read what is given, sample, and write every result."""
    from soraflax.cli import sampling

    sampling.run(args, make_job, positional=("prompt",))


def make_job(args: argparse.Namespace, model: "generator.Generator") -> "generator.Job":
    """The job (`generation.jobs`) of the arguments, for their first seed."""
    from soraflax.cli import inputs
    from soraflax.generation import jobs

    return jobs.image(model, inputs.text(args), size=args.size)
