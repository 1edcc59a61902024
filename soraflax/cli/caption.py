"""`soraflax caption`: say in words what a clip shows."""

import argparse
import json
import pathlib
from typing import Any

from soraflax.cli import parser as cli

MAX_BEAMS = 64  # `nn.decoding.MAX_BEAMS`, which imports JAX


def add_parser(subparsers: Any) -> cli.Parser:
    parser = subparsers.add_parser(
        "caption",
        help="say in words what a clip shows",
        description="Print what a captioner says of each clip: a video or an image of "
        "any size and length, which is brought to a size that it was trained on. "
        "Captions of the shipped captioner are of the embedded world: of anything "
        "else it says what of that world is nearest.",
        epilog="example: soraflax caption clip.mp4 --beams 4",
    )
    add = parser.add_argument
    add("clips", nargs="+", type=pathlib.Path, metavar="CLIP", help="video or image")
    add(
        "--checkpoint",
        type=pathlib.Path,
        metavar="DIR",
        help="a trained captioner (default: the one shipped with soraflax)",
    )
    add(
        "--no-compilation-cache",
        action="store_true",
        help="compile anew, and keep nothing in ~/.cache/soraflax",
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--beams",
        default=1,
        type=cli.int_up_to(MAX_BEAMS),
        metavar="N",
        help="hypotheses kept; 1 takes the most probable word each time",
    )
    choice.add_argument(
        "--top-p",
        type=cli.fraction,
        metavar="P",
        help="draw each word from the smallest set of this probability (default: draw "
        "none)",
    )
    add(
        "--temperature",
        default=1.0,
        type=cli.positive_float,
        metavar="T",
        help="of words that are drawn: less is more certain",
    )
    add("--seed", default=0, type=int, metavar="N", help="of words that are drawn")
    add("--json", action="store_true", help="a line of JSON for each clip")
    return parser


def run(args: argparse.Namespace) -> None:
    """Read every clip, and print a line for each."""
    from soraflax.cli import devices
    from soraflax.generation import captioner as captioners

    with devices.kept_programs(args) as cache:
        model = captioners.Captioner.load(args.checkpoint, cache=cache)
        config = model.decoding_config(
            beams=args.beams, top_p=args.top_p, temperature=args.temperature
        )
        captions = model.captions(args.clips, config, seed=args.seed)
        for clip, caption in zip(args.clips, captions, strict=True):
            if args.json:
                digest = model.model.digest
                line = {"file": str(clip), "caption": caption, "captioner": digest}
                print(json.dumps(line), flush=True)
            else:
                name = f"{clip}: " if len(args.clips) > 1 else ""
                print(f"{name}{caption}", flush=True)
