"""`soraflax connect`: make a transition between two clips."""

import argparse
import pathlib
from typing import TYPE_CHECKING, Any

from soraflax.cli import options
from soraflax.cli import parser as cli

if TYPE_CHECKING:
    from soraflax.generation import generator


def add_parser(subparsers: Any) -> cli.Parser:
    parser = options.add_command(
        subparsers,
        "connect",
        summary="make a transition between two clips",
        example="connect first.mp4 second.mp4 --out out.mp4",
        details="The clips may differ in subject and composition, not in size.",
    )
    parser.add_argument("clip", type=pathlib.Path, help="the first")
    parser.add_argument("second", type=pathlib.Path, help="the second")
    options.add_prompt(parser, "what happens")
    options.add_fit(
        parser, "clips off the grid or of two sizes: an error, or resize them"
    )
    options.add_fps(parser, "the clips' own")
    options.add_no_audio(parser)
    options.add_new_frames(parser)
    options.add_strength(parser, 0.2, meaning=options.SIDES)
    options.add_sampling(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Read what is given, sample, and write every result."""
    from soraflax.cli import sampling

    files = {"first": args.clip, "second": args.second}
    sampling.run(args, make_job, files=files, positional=("clip", "second", "prompt"))


def make_job(args: argparse.Namespace, model: "generator.Generator") -> "generator.Job":
    """The job (`generation.jobs`) of the arguments, for their first seed."""
    from soraflax.cli import inputs
    from soraflax.generation import jobs

    return jobs.connect(
        model,
        inputs.read_video(args.clip, model, fps=args.fps),
        second=inputs.read_video(args.second, model, fps=args.fps),
        text=inputs.text(args),
        length=inputs.length(args),
        context=args.context,
        strength=args.strength,
        fit=args.fit,
        names=(str(args.clip), str(args.second)),
    )
