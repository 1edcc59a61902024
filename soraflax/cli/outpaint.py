"""`soraflax outpaint`: make a larger or differently shaped frame around a clip."""

import argparse
from typing import TYPE_CHECKING, Any

from soraflax.cli import options
from soraflax.cli import parser as cli

if TYPE_CHECKING:
    from soraflax.generation import generator


def add_parser(subparsers: Any) -> cli.Parser:
    parser = options.add_command(
        subparsers,
        "outpaint",
        summary="make a larger or differently shaped frame around a clip",
        example="outpaint clip.mp4 --size 64x96 --out out.mp4",
        details="A clip that does not fit the frame is first made small enough.",
    )
    options.add_clip(parser, resizable=False)
    options.add_prompt(parser)
    options.add_size(parser, required=True)
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

    return jobs.outpaint(
        model,
        inputs.read_video(args.clip, model, fps=args.fps),
        size=args.size,
        text=inputs.text(args),
        name=str(args.clip),
    )
