"""`soraflax animate`: make a video that begins with an image."""

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
        "animate",
        summary="make a video that begins with an image",
        example='animate picture.png "a small red square moves right" --out out.mp4',
        details="With --last-frame it ends with another. With --path what lies at the "
        "path's start is dragged along it, and the clip made anew from that.",
    )
    parser.add_argument("image", type=pathlib.Path, help="the first frame")
    options.add_prompt(parser, "what happens")
    parser.add_argument(
        "--last-frame",
        type=pathlib.Path,
        metavar="IMAGE",
        help="the last frame (default: left to the model)",
    )
    parser.add_argument(
        "--path",
        action="append",
        metavar="X0,Y0:X1,Y1",
        help="where the body at x0,y0 goes, in pixels of the video from its upper left "
        "corner; more points and more paths may follow (default: left to the model)",
    )
    parser.add_argument(
        "--path-strength",
        type=cli.fraction,
        metavar="S",
        help="of the noise that a dragged clip starts from; more moves more freely "
        "(default: 0.6)",
    )
    options.add_size(
        parser,
        meaning="width and height of the video in pixels (default: the image's, on the "
        "grid)",
    )
    options.add_length(parser)
    options.add_fps(parser, "the model's own")
    options.add_sampling(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Read what is given, sample, and write every result."""
    from soraflax.cli import sampling

    files = {"image": args.image, "last_frame": args.last_frame}
    sampling.run(args, make_job, files=files, positional=("image", "prompt"))


def make_job(args: argparse.Namespace, model: "generator.Generator") -> "generator.Job":
    """The job (`generation.jobs`) of the arguments, for their first seed."""
    from soraflax.cli import inputs
    from soraflax.generation import jobs, paths

    last = args.last_frame
    drawn = [paths.parse(text) for text in args.path or ()]
    if args.path_strength is not None and not drawn:
        raise ValueError("--path-strength is of dragged clips: give a --path too")
    strength = paths.STRENGTH if args.path_strength is None else args.path_strength
    job = jobs.animate(
        model,
        inputs.read_image(args.image),
        text=inputs.text(args),
        last=None if last is None else inputs.read_image(last),
        size=args.size,
        length=inputs.length(args),
        fps=args.fps,
        names=(str(args.image), str(last)),
    )
    return paths.follow(job, drawn, strength=strength)
