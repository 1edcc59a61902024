"""`soraflax extend`: make what comes after a clip, or before it."""

import argparse
from typing import TYPE_CHECKING, Any

from soraflax.cli import options
from soraflax.cli import parser as cli

if TYPE_CHECKING:
    from soraflax.generation import generator


def add_parser(subparsers: Any) -> cli.Parser:
    parser = options.add_command(
        subparsers,
        "extend",
        summary="make what comes after a clip, or before it",
        example='extend clip.mp4 "a small red square moves right" '
        "--direction backward --seconds 1 --out out.mp4",
        details="The clip is in the result unchanged. The result can be extended "
        "again.",
    )
    options.add_clip(parser)
    options.add_prompt(parser)
    options.add_new_frames(parser)
    parser.add_argument(
        "--direction",
        default="forward",
        choices=("forward", "backward"),
        help="after the clip, or before it",
    )
    options.add_strength(parser, 0.8, meaning=f"backward: {options.BESIDE}")
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

    return jobs.extend(
        model,
        inputs.read_video(args.clip, model, fps=args.fps),
        text=inputs.text(args),
        direction=args.direction,
        length=inputs.length(args),
        context=args.context,
        strength=args.strength,
        fit=args.fit,
        name=str(args.clip),
    )
