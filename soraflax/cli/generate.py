"""`soraflax generate`: make a video or an image from a text prompt."""

import argparse
from typing import TYPE_CHECKING, Any

from soraflax.cli import options
from soraflax.cli import parser as cli

if TYPE_CHECKING:
    from soraflax.generation import generator


def add_parser(subparsers: Any) -> cli.Parser:
    parser = options.add_command(
        subparsers,
        "generate",
        summary="make a video or an image from a text prompt",
        example='generate "a large red circle moves right" '
        "--size 96x64 --frames 17 --seed 0 --out out.mp4",
        details="A video longer than the clips of training is made in windows that "
        "overlap, and written while it is made.",
    )
    parser.add_argument("prompt", help="what the video shows")
    options.add_size(
        parser,
        meaning="width and height in pixels (default: the model's own, else 64x64)",
    )
    options.add_length(parser)
    options.add_fps(parser, "the model's own")
    options.add_sampling(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Read what is given, sample, and write every result."""
    from soraflax.cli import sampling

    sampling.run(args, make_job, positional=("prompt",))


def make_job(args: argparse.Namespace, model: "generator.Generator") -> "generator.Job":
    """The job (`generation.jobs`) of the arguments, for their first seed."""
    from soraflax.cli import inputs
    from soraflax.generation import jobs

    return jobs.generate(
        model,
        inputs.text(args),
        size=args.size,
        length=inputs.length(args),
        fps=args.fps,
    )
