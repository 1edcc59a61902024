"""Flags of the commands that make videos; no JAX, no PyAV, so that --help is quick."""

import argparse
import pathlib
from typing import Any

from soraflax.cli import parser as cli

Commands = Any  # argparse keeps the class of its subparsers to itself
SAMPLERS = ("euler", "heun", "ddim", "dpm++", "unipc")
CACHE = 0.4  # what --cache alone means: `generation.caching.CacheConfig.threshold`
MOST = 10_000  # steps, videos


def add(commands: Commands) -> None:
    """All commands that make videos."""
    _text_commands(commands)
    _clip_commands(commands)
    _picture_commands(commands)


def _text_commands(commands: Commands) -> None:
    parser = _command(
        commands,
        "generate",
        summary="make a video or an image from a text prompt",
        example='generate "a large red circle moves right" --checkpoint demo/video '
        "--size 96x64 --frames 17 --seed 0 --out out.mp4",
        more="A video longer than the clips of training is made in windows that "
        "overlap, and written while it is made.",
    )
    parser.add_argument("prompt", help="what the video shows")
    _shape(parser, "of the video")
    _sampling(parser)
    parser = _command(
        commands,
        "image",
        summary="make an image from a text prompt",
        example='image "a large red circle on a white background" '
        "--checkpoint demo/video "
        "--size 96x96 --out out.png",
        more="Any size on the grid; large ones in tiles (--tile) or over devices.",
    )
    parser.add_argument("prompt", help="what the image shows")
    parser.add_argument("--size", default=(64, 64), type=cli.size, metavar="WxH")
    _sampling(parser, out="out.png")
    parser = _command(
        commands,
        "animate",
        summary="make a video that begins with an image",
        example='animate picture.png "a small red square moves right" '
        "--checkpoint demo/video "
        "--out out.mp4",
        more="With --last-frame it ends with another.",
    )
    parser.add_argument("image", type=pathlib.Path, help="the first frame")
    parser.add_argument("prompt", nargs="?", default="", help="what happens")
    parser.add_argument("--last-frame", type=pathlib.Path, metavar="IMAGE")
    _shape(parser, "of the video; default: the image's, on the grid", default=None)
    _sampling(parser)


def _clip_commands(commands: Commands) -> None:
    parser = _command(
        commands,
        "extend",
        summary="make what comes after a clip, or before it",
        example='extend clip.mp4 "a small red square moves right" '
        "--checkpoint demo/video "
        "--direction backward --seconds 1 --out out.mp4",
        more="The clip is in the result unchanged. The result can be extended again.",
    )
    _clip(parser)
    _added(parser)
    parser.add_argument(
        "--direction", default="forward", choices=("forward", "backward")
    )
    _freedom(parser, 0.8, where="backward: ")
    _sampling(parser)
    parser = _command(
        commands,
        "loop",
        summary="add the piece that makes a clip repeat without a seam",
        example="loop clip.mp4 --checkpoint demo/video --out out.gif",
    )
    _clip(parser)
    _added(parser)
    _freedom(parser)
    _sampling(parser)
    parser = _command(
        commands,
        "connect",
        summary="make a transition between two clips",
        example="connect first.mp4 second.mp4 --checkpoint demo/video --out out.mp4",
        more="The clips may differ in subject and composition, not in size.",
    )
    parser.add_argument("clip", type=pathlib.Path, help="the first")
    parser.add_argument("second", type=pathlib.Path, help="the second")
    parser.add_argument("prompt", nargs="?", default="", help="what happens")
    parser.add_argument(
        "--fit",
        default="refuse",
        choices=("refuse", "resize"),
        help="clips off the grid or of two sizes: an error (default), or resize them",
    )
    rate = "of both; default: their own"
    parser.add_argument("--fps", type=cli.positive_float, metavar="F", help=rate)
    _added(parser)
    _freedom(parser)
    _sampling(parser)


def _picture_commands(commands: Commands) -> None:
    parser = _command(
        commands,
        "edit",
        summary="make a clip anew after another prompt (SDEdit)",
        example='edit clip.mp4 "a large blue circle moves right" '
        "--checkpoint demo/video "
        "--strength 0.7 --out out.mp4",
    )
    _clip(parser, prompt="what it shall show")
    parser.add_argument(
        "--strength",
        default=0.7,
        type=cli.fraction,
        help="0 keeps all, 1 keeps nothing",
    )
    _sampling(parser)
    parser = _command(
        commands,
        "inpaint",
        summary="make anew what a mask marks",
        example="inpaint clip.mp4 --mask mask.png --checkpoint demo/video "
        "--out out.mp4",
        more="The mask is white where the clip shall be new: an image for all frames, "
        "or a video of as many.",
    )
    _clip(parser)
    parser.add_argument("--mask", required=True, type=pathlib.Path, metavar="FILE")
    _sampling(parser)
    parser = _command(
        commands,
        "outpaint",
        summary="make a larger or differently shaped frame around a clip",
        example="outpaint clip.mp4 --size 64x96 --checkpoint demo/video --out out.mp4",
        more="A clip that does not fit the frame is first made small enough.",
    )
    _clip(parser)
    parser.add_argument("--size", required=True, type=cli.size, metavar="WxH")
    _sampling(parser)
    _upscale_command(commands)


def _upscale_command(commands: Commands) -> None:
    parser = _command(
        commands,
        "upscale",
        summary="make a clip larger, noising and denoising it at its new size",
        example="upscale clip.mp4 --size 192x128 --tile 96x64 --checkpoint demo/video "
        "--out out.mp4",
    )
    _clip(parser)
    parser.add_argument("--size", required=True, type=cli.size, metavar="WxH")
    parser.add_argument(
        "--strength",
        default=0.3,
        type=cli.fraction,
        help="of the noise; 0 only enlarges",
    )
    _sampling(parser)


def _command(
    commands: Commands, name: str, *, summary: str, example: str, more: str = ""
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}. {more}".strip(),
        epilog=f"example: soraflax {example}",
    )
    parser.add_argument("--checkpoint", required=True, type=pathlib.Path, metavar="DIR")
    return parser


def _clip(parser: argparse.ArgumentParser, *, prompt: str = "") -> None:
    add = parser.add_argument
    add("clip", type=pathlib.Path, help="a video, or an image")
    if prompt:
        add("prompt", help=prompt)
    else:
        add("prompt", nargs="?", default="", help="what it shows")
    add(
        "--fit",
        default="refuse",
        choices=("refuse", "resize"),
        help="a clip off the grid: an error (default), or resize it",
    )
    add("--fps", type=cli.positive_float, metavar="F", help="default: the clip's own")


def _shape(
    parser: argparse.ArgumentParser,
    what: str,
    *,
    default: tuple[int, int] | None = (64, 64),
) -> None:
    add = parser.add_argument
    add("--size", default=default, type=cli.size, metavar="WxH", help=what)
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--frames", type=cli.positive_int, metavar="N", help="1 is an image"
    )
    length.add_argument(
        "--seconds", type=cli.positive_float, metavar="S", help="nearest legal"
    )
    add("--fps", type=cli.positive_float, metavar="F", help="default: the model's own")


def _added(parser: argparse.ArgumentParser) -> None:
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--frames", type=cli.positive_int, metavar="N", help="new ones")
    length.add_argument(
        "--seconds", type=cli.positive_float, metavar="S", help="nearest legal"
    )
    parser.add_argument(
        "--context",
        type=cli.positive_int,
        metavar="N",
        help="frames of a clip that are shown",
    )


def _freedom(
    parser: argparse.ArgumentParser, default: float = 0.5, *, where: str = ""
) -> None:
    parser.add_argument(
        "--strength",
        default=default,
        type=cli.fraction,
        help=f"{where}1 invents all of the piece; less keeps more of the frames beside",
    )


def _sampling(parser: argparse.ArgumentParser, *, out: str = "out.mp4") -> None:
    add = parser.add_argument
    add(
        "--steps",
        default=25,
        type=cli.int_up_to(MOST),
        metavar="N",
        help="sampler steps",
    )
    add("--sampler", default="euler", choices=SAMPLERS)
    add(
        "--guidance",
        default=2.0,
        type=cli.finite_float,
        metavar="G",
        help="1 is no guidance",
    )
    add(
        "--guidance-interval", default=(0.0, 1.0), type=cli.interval, metavar="LOW,HIGH"
    )
    add("--guidance-rescale", default=0.0, type=cli.fraction, metavar="PHI")
    add("--zero-init", default=0, type=int, metavar="N", help="steps that stand still")
    add(
        "--cache",
        nargs="?",
        const=CACHE,
        type=cli.non_negative_float,
        metavar="THRESHOLD",
        help=f"skip steps that change little; {CACHE} if no threshold is given",
    )
    add("--negative-prompt", default="", metavar="TEXT")
    add("--seed", default=0, type=int, metavar="N")
    add(
        "--num-videos",
        default=1,
        type=cli.int_up_to(MOST),
        metavar="N",
        help="seed, seed+1, …",
    )
    add("--tile", type=cli.size, metavar="WxH", help="denoise large frames in tiles")
    add(
        "--devices",
        default=1,
        type=cli.positive_int,
        metavar="N",
        help="split rows over N",
    )
    add("--preview", action="store_true", help="write OUT.preview.gif meanwhile")
    add("--out", default=out, type=pathlib.Path, help=".mp4, .mkv, .gif or .png")
