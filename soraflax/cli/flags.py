"""Flags of the commands that make videos; no JAX, no PyAV, so that --help is quick."""

import argparse
import math
import pathlib
from typing import Any

Commands = Any  # argparse keeps the class of its subparsers to itself
SAMPLERS = ("euler", "heun", "ddim", "dpm++", "unipc")
CACHE = 0.4  # what --cache alone means: `generation.caching.CacheConfig.threshold`
MOST = 10_000  # steps, videos


def size(text: str) -> tuple[int, int]:
    """`WIDTHxHEIGHT` in pixels."""
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not WIDTHxHEIGHT, for example 96x64"
        ) from None
    return width, height


def positive(text: str) -> int:
    """A whole number above 0."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is too small: use 1 or more")
    return value


def limited(text: str) -> int:
    """A whole number from 1 to `MOST`."""
    value = positive(text)
    if value > MOST:
        raise argparse.ArgumentTypeError(f"{value} is too large: use {MOST} or less")
    return value


def at_least_zero(text: str) -> float:
    """A finite number from 0."""
    value = finite(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is too small: use 0 or more")
    return value


def above_zero(text: str) -> float:
    """A finite number above 0."""
    value = finite(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text}: use a number above 0")
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= value <= 1:
        near = "1" if value > 1 else "0"
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1]: use {near}")
    return value


def interval(text: str) -> tuple[float, float]:
    """`LOW,HIGH`, noise levels."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not LOW,HIGH, for example 0.1,0.9"
        ) from None
    if not 0 <= low <= high <= 1:
        raise argparse.ArgumentTypeError(f"{text}: need 0 <= LOW <= HIGH <= 1")
    return low, high


def finite(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text}: use a finite number")
    return value


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
    parser.add_argument("--size", default=(64, 64), type=size, metavar="WxH")
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
    parser.add_argument("--fps", type=above_zero, metavar="F", help=rate)
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
        "--strength", default=0.7, type=share, help="0 keeps all, 1 keeps nothing"
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
    parser.add_argument("--size", required=True, type=size, metavar="WxH")
    _sampling(parser)
    parser = _command(
        commands,
        "upscale",
        summary="make a clip larger, noising and denoising it at its new size",
        example="upscale clip.mp4 --size 192x128 --tile 96x64 --checkpoint demo/video "
        "--out out.mp4",
    )
    _clip(parser)
    parser.add_argument("--size", required=True, type=size, metavar="WxH")
    parser.add_argument(
        "--strength", default=0.3, type=share, help="of the noise; 0 only enlarges"
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
    add("--fps", type=above_zero, metavar="F", help="default: the clip's own")


def _shape(
    parser: argparse.ArgumentParser,
    what: str,
    *,
    default: tuple[int, int] | None = (64, 64),
) -> None:
    add = parser.add_argument
    add("--size", default=default, type=size, metavar="WxH", help=what)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--frames", type=positive, metavar="N", help="1 is an image")
    length.add_argument("--seconds", type=above_zero, metavar="S", help="nearest legal")
    add("--fps", type=above_zero, metavar="F", help="default: the model's own")


def _added(parser: argparse.ArgumentParser) -> None:
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--frames", type=positive, metavar="N", help="new ones")
    length.add_argument("--seconds", type=above_zero, metavar="S", help="nearest legal")
    parser.add_argument(
        "--context", type=positive, metavar="N", help="frames of a clip that are shown"
    )


def _freedom(
    parser: argparse.ArgumentParser, default: float = 0.5, *, where: str = ""
) -> None:
    parser.add_argument(
        "--strength",
        default=default,
        type=share,
        help=f"{where}1 invents all of the piece; less keeps more of the frames beside",
    )


def _sampling(parser: argparse.ArgumentParser, *, out: str = "out.mp4") -> None:
    add = parser.add_argument
    add("--steps", default=25, type=limited, metavar="N", help="sampler steps")
    add("--sampler", default="euler", choices=SAMPLERS)
    add("--guidance", default=2.0, type=finite, metavar="G", help="1 is no guidance")
    add("--guidance-interval", default=(0.0, 1.0), type=interval, metavar="LOW,HIGH")
    add("--guidance-rescale", default=0.0, type=share, metavar="PHI")
    add("--zero-init", default=0, type=int, metavar="N", help="steps that stand still")
    add(
        "--cache",
        nargs="?",
        const=CACHE,
        type=at_least_zero,
        metavar="THRESHOLD",
        help=f"skip steps that change little; {CACHE} if no threshold is given",
    )
    add("--negative-prompt", default="", metavar="TEXT")
    add("--seed", default=0, type=int, metavar="N")
    add("--num-videos", default=1, type=limited, metavar="N", help="seed, seed+1, …")
    add("--tile", type=size, metavar="WxH", help="denoise large frames in tiles")
    add("--devices", default=1, type=positive, metavar="N", help="split rows over N")
    add("--preview", action="store_true", help="write OUT.preview.gif meanwhile")
    add("--out", default=out, type=pathlib.Path, help=".mp4, .mkv, .gif or .png")
