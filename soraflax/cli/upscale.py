"""`soraflax upscale`: make a clip larger, noising and denoising it at its new size."""

import argparse
from typing import TYPE_CHECKING, Any

from soraflax.cli import options
from soraflax.cli import parser as cli

if TYPE_CHECKING:
    from soraflax.generation import generator


def add_parser(subparsers: Any) -> cli.Parser:
    parser = options.add_command(
        subparsers,
        "upscale",
        summary="make a clip larger, noising and denoising it at its new size",
        example="upscale clip.mp4 --size 192x128 --tile 96x64 --out out.mp4",
    )
    options.add_clip(parser, resizable=False)
    options.add_prompt(parser)
    options.add_size(parser, required=True)
    options.add_strength(parser, 0.3, meaning="of the noise; 0 only enlarges")
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

    return jobs.upscale(
        model,
        inputs.read_video(args.clip, model, fps=args.fps),
        size=args.size,
        text=inputs.text(args),
        strength=args.strength,
        name=str(args.clip),
    )
