"""`soraflax edit`: make a clip anew after another prompt (SDEdit)."""

import argparse
from typing import TYPE_CHECKING, Any

from soraflax.cli import options
from soraflax.cli import parser as cli

if TYPE_CHECKING:
    from soraflax.generation import generator


def add_parser(subparsers: Any) -> cli.Parser:
    parser = options.add_command(
        subparsers,
        "edit",
        summary="make a clip anew after another prompt (SDEdit)",
        example='edit clip.mp4 "a large blue circle moves right" '
        "--strength 0.7 --out out.mp4",
    )
    options.add_clip(parser)
    parser.add_argument("prompt", help="what it shall show")
    options.add_strength(parser, 0.7, meaning="0 keeps all, 1 keeps nothing")
    options.add_sampling(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Read what is given, sample, and write every result."""
    from soraflax.cli import sampling

    files = {"clip": args.clip}
    sampling.run(args, make_job, files=files, positional=("clip", "prompt"))


def make_job(args: argparse.Namespace, model: "generator.Generator") -> "generator.Job":
    """The job (`generation.jobs`) of the arguments, for their first seed."""
    from soraflax.cli import inputs
    from soraflax.generation import jobs

    return jobs.edit(
        model,
        inputs.read_video(args.clip, model, fps=args.fps),
        text=inputs.text(args),
        strength=args.strength,
        fit=args.fit,
        name=str(args.clip),
    )
