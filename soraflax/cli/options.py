"""Options that the commands which make videos share; light, so that --help is quick."""

import argparse
import pathlib
from typing import Any

from soraflax.cli import parser as cli

SAMPLERS = ("euler", "heun", "ddim", "ancestral", "dpm++", "unipc")
CACHE = 0.4  # --cache alone: `generation.caching.StepCacheConfig.threshold`
STEPS, GUIDANCE = 25, 2.0  # where neither the user nor the model says
FRAMES = 17  # of a new video, where neither --frames nor --seconds is given
MAX_COUNT = 10_000  # steps, videos
TEMPLATE = "template"  # `generation.expansion.TEMPLATE`


def add_command(
    subparsers: Any, name: str, *, summary: str, example: str, details: str = ""
) -> cli.Parser:
    """The parser of a command that makes videos, with its `--checkpoint`.

    Args:
      subparsers: of the program.
      name: of the command.
      summary: a line for the list of commands, and how the description begins.
      example: words after `soraflax` that run.
      details: the rest of the description.
    """
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}. {details}".strip(),
        epilog=f"example: soraflax {example}",
    )
    add_checkpoint(parser, "a trained video model")
    return parser


def add_checkpoint(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Which model; by default the one of `pretrained.shipped`."""
    parser.add_argument(
        "--checkpoint",
        type=pathlib.Path,
        metavar="DIR",
        help=f"{meaning} (default: the one shipped with soraflax, see `soraflax info`)",
    )
    parser.add_argument(
        "--no-compilation-cache",
        action="store_true",
        help="compile anew, and keep nothing in ~/.cache/soraflax",
    )


def add_prompt(parser: argparse.ArgumentParser, meaning: str = "what it shows") -> None:
    """A prompt that may be left out."""
    text = f"{meaning} (default: left to the model)"
    parser.add_argument("prompt", nargs="?", default="", help=text)


def add_clip(parser: argparse.ArgumentParser, *, resizable: bool = True) -> None:
    """The clip that a command works on, and what to do where it does not fit."""
    add = parser.add_argument
    add("clip", type=pathlib.Path, help="a video, or an image")
    if resizable:
        add_fit(parser, "a clip off the grid: an error, or resize it")
    add_fps(parser, "the clip's own")
    add_no_audio(parser)


def add_no_audio(parser: argparse.ArgumentParser) -> None:
    """Whether the sound of clips is kept."""
    parser.add_argument(
        "--no-audio",
        action="store_true",
        help="leave out the sound, which is kept over the clip's frames otherwise",
    )


def add_fit(parser: argparse.ArgumentParser, meaning: str) -> None:
    """What to do with clips that do not fit."""
    parser.add_argument(
        "--fit", default="refuse", choices=("refuse", "resize"), help=meaning
    )


def add_fps(parser: argparse.ArgumentParser, default: str) -> None:
    """A frame rate; `default` says which it is otherwise."""
    parser.add_argument(
        "--fps",
        type=cli.positive_float,
        metavar="F",
        help=f"frames per second (default: {default})",
    )


def add_size(
    parser: argparse.ArgumentParser,
    *,
    default: tuple[int, int] | None = None,
    required: bool = False,
    meaning: str = "width and height of the result in pixels",
) -> None:
    """The size of the result."""
    parser.add_argument(
        "--size",
        default=default,
        required=required,
        type=cli.size,
        metavar="WxH",
        help=meaning,
    )


def add_length(
    parser: argparse.ArgumentParser,
    *,
    meaning: str = "frames of the video; 1 is an image",
    default: str = f"the model's own, else {FRAMES}",
) -> None:
    """Frames to make, or seconds of them; `default` is said where there is neither."""
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--frames",
        type=cli.positive_int,
        metavar="N",
        help=f"{meaning} (default: {default})",
    )
    length.add_argument(
        "--seconds",
        type=cli.positive_float,
        metavar="S",
        help="the same in seconds, to the nearest legal number (default: --frames)",
    )


def add_new_frames(parser: argparse.ArgumentParser) -> None:
    """How many frames are added to a clip, and how much of it is shown."""
    add_length(parser, meaning="frames to add", default="what fits the model's window")
    parser.add_argument(
        "--context",
        type=cli.positive_int,
        metavar="N",
        help="frames of the clip that the model sees (default: what it was trained on)",
    )


def add_strength(
    parser: argparse.ArgumentParser, default: float, *, meaning: str
) -> None:
    """How strong the noise is that known pixels are given."""
    parser.add_argument(
        "--strength", default=default, type=cli.fraction, metavar="S", help=meaning
    )


BESIDE = "1 invents all of the new piece; less keeps more of the frames beside it"
SIDES = "1 invents all of the new piece; less keeps more of both clips going on"


def add_sampling(parser: argparse.ArgumentParser, *, out: str = "out.mp4") -> None:
    """How results are sampled, how many, and where they go; `out` by default."""
    _add_sampler(parser)
    add_wording(parser)
    add, count = parser.add_argument, cli.int_up_to(MAX_COUNT)
    add(
        "--negative-prompt",
        default="",
        metavar="TEXT",
        help="what guidance leads away from (default: no text)",
    )
    add("--seed", default=0, type=int, metavar="N", help="of the initial noise")
    add(
        "--num-videos",
        default=1,
        type=count,
        metavar="N",
        help="results, of seed, seed+1, …",
    )
    add(
        "--tile",
        type=cli.size,
        metavar="WxH",
        help="denoise large frames in tiles of so many pixels (default: whole frames)",
    )
    add(
        "--devices",
        type=cli.positive_int,
        metavar="N",
        help="split rows over N devices (default: for a model with an outside text "
        "encoder as many of all as divide the longer side, else 1)",
    )
    add(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:SCALE]",
        help="adapters merged into the transformer; may be given again (default: none)",
    )
    add(
        "--preview",
        action="store_true",
        help="write OUT.preview.gif while the result is made",
    )
    add(
        "--sign",
        nargs=2,
        type=pathlib.Path,
        metavar=("CERT", "KEY"),
        help="put content credentials (C2PA) into the result, signed with a chain of "
        "certificates and a private key in PEM (default: none)",
    )
    add(
        "--out",
        default=pathlib.Path(out),
        type=pathlib.Path,
        metavar="FILE",
        help=".mp4, .mkv, .gif or .png",
    )


def add_wording(parser: argparse.ArgumentParser) -> None:
    """What becomes of the prompt before it is sampled."""
    add = parser.add_argument
    add(
        "--expand",
        nargs="?",
        const=TEMPLATE,
        metavar="NAME",
        help="make the prompt longer first: alone by the template of `soraflax "
        "expand`, else by learned (the shipped expander, if any), the folder of a "
        "trained one, MODULE:FUNCTION or an entry point of soraflax.expanders "
        "(default: as it is)",
    )
    add(
        "--guard",
        action="append",
        default=[],
        metavar="NAME",
        help="refuse prompts and results that a filter does not let pass, with exit "
        "status 3: words, captions, a FILE.txt of words, MODULE:FUNCTION, or an entry "
        "point of soraflax.filters; may be repeated (default: none)",
    )


def _add_sampler(parser: argparse.ArgumentParser) -> None:
    add, count = parser.add_argument, cli.int_up_to(MAX_COUNT)
    add(
        "--steps",
        type=count,
        metavar="N",
        help=f"sampler steps (default: the model's own, else {STEPS})",
    )
    add(
        "--sampler",
        choices=SAMPLERS,
        help="the solver (default: the model's own, else euler)",
    )
    add(
        "--shift",
        type=cli.positive_float,
        metavar="S",
        help="shift of the noise levels (default: the model's own)",
    )
    _add_guidance(parser)
    add(
        "--cache",
        nargs="?",
        const=CACHE,
        type=cli.non_negative_float,
        metavar="THRESHOLD",
        help="skip steps that change little; alone it means a threshold of "
        f"{CACHE} (default: off)",
    )


def _add_guidance(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--guidance",
        type=cli.finite_float,
        metavar="G",
        help="guidance scale; 1 is no guidance (default: the model's own, else "
        f"{GUIDANCE:g})",
    )
    add(
        "--low-guidance",
        type=cli.finite_float,
        metavar="G",
        help="of two experts, the scale of the one for low noise levels (default: the "
        "model's own, else --guidance)",
    )
    add(
        "--guidance-interval",
        default=(0.0, 1.0),
        type=cli.interval,
        metavar="LOW,HIGH",
        help="noise levels that are guided",
    )
    add(
        "--guidance-rescale",
        default=0.0,
        type=cli.fraction,
        metavar="PHI",
        help="how far guidance is brought back to the spread of the prediction",
    )
    add(
        "--skip-guidance",
        type=cli.non_negative_float,
        metavar="G",
        help="how much more of what --skip-blocks do; 0 is none (default: the model's "
        "own, else 1 with --skip-blocks)",
    )
    add(
        "--skip-blocks",
        type=cli.block_numbers,
        metavar="N,N",
        help="blocks of skip guidance, from 0 (default: the model's own)",
    )
    add(
        "--zero-init",
        default=0,
        type=int,
        metavar="N",
        help="first steps with a velocity of zero (CFG-Zero*)",
    )
