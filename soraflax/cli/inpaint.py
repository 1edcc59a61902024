"""`soraflax inpaint`: make anew what a mask marks."""

import argparse
import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

from soraflax.cli import options
from soraflax.cli import parser as cli

if TYPE_CHECKING:
    from soraflax.generation import generator


def add_parser(subparsers: Any) -> cli.Parser:
    parser = options.add_command(
        subparsers,
        "inpaint",
        summary="make anew what a mask marks",
        example="inpaint clip.mp4 --mask mask.png --out out.mp4",
        details="The mask is white where the clip shall be new: an image for all "
        "frames, or a video of as many.",
    )
    options.add_clip(parser)
    options.add_prompt(parser)
    parser.add_argument(
        "--mask",
        required=True,
        type=pathlib.Path,
        metavar="FILE",
        help="white where the clip shall be new",
    )
    options.add_sampling(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Read what is given, sample, and write every result."""
    from soraflax.cli import sampling

    files = {"clip": args.clip, "mask": args.mask}
    sampling.run(args, make_job, files=files, positional=("clip", "prompt"))


def make_job(args: argparse.Namespace, model: "generator.Generator") -> "generator.Job":
    """The job (`generation.jobs`) of the arguments, for their first seed."""
    from soraflax.cli import inputs
    from soraflax.generation import jobs

    clip = inputs.read_video(args.clip, model, fps=args.fps)
    frames, height, width = clip.frames.shape[:3]
    size = {"height": height, "width": width}
    mask, notes = inputs.read_mask(args.mask, frames=frames, **size)
    job = jobs.inpaint(
        model,
        clip,
        mask=mask,
        text=inputs.text(args),
        fit=args.fit,
        name=str(args.clip),
    )
    return dataclasses.replace(job, notes=(*job.notes, *notes))
