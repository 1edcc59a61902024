"""`soraflax loop`: add the piece that makes a clip repeat without a seam."""

import argparse
from typing import TYPE_CHECKING, Any

from soraflax.cli import options
from soraflax.cli import parser as cli

if TYPE_CHECKING:
    from soraflax.generation import generator


def add_parser(subparsers: Any) -> cli.Parser:
    parser = options.add_command(
        subparsers,
        "loop",
        summary="add the piece that makes a clip repeat without a seam",
        example="loop clip.mp4 --out out.gif",
    )
    options.add_clip(parser)
    options.add_prompt(parser)
    options.add_new_frames(parser)
    options.add_strength(parser, 0.5, meaning=options.BESIDE)
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

    return jobs.loop(
        model,
        inputs.read_video(args.clip, model, fps=args.fps),
        text=inputs.text(args),
        length=inputs.length(args),
        context=args.context,
        strength=args.strength,
        fit=args.fit,
        name=str(args.clip),
    )
