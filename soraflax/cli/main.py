"""The command `soraflax`: what a user does with a trained checkpoint.

    soraflax generate "a large red circle moves right" --checkpoint demo/video \\
        --size 96x64 --frames 17 --seed 0 --out out.mp4
    soraflax image | animate | extend | loop | connect | edit | inpaint | outpaint |
        upscale ...
    soraflax reconstruct clip.mp4 --checkpoint demo/autoencoder --out out.mp4
    soraflax convert --from wan2.1 --weights wan/vae --out autoencoder
    soraflax info demo/video
    soraflax plan --config=experiments/configs/wan2_1_t2v_14b.py --topology v5p:8x8x8

Bad input is one line on standard error and exit status 2; nothing is written then.
"""

import _thread
import argparse
import contextlib
import importlib
import pathlib
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from soraflax.cli import flags

EXIT_BAD_INPUT = 2
# All other commands make videos.
MODULES = {name: name for name in ("reconstruct", "convert", "plan", "info")}
FAMILIES = ("wan2.1", "wan2.2")
# What a module is installed with, where it is no dependency of the library itself.
EXTRAS = {"av": "media", "PIL": "media", "tqdm": "media", "sentencepiece": "train"}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and exits with 2.

    A prompt that may be left out can stand after flags, as others can: argparse of
    Python 3.11 takes it for absent where the arguments before it stand apart.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, rest = super().parse_known_args(args, namespace)
        if getattr(found, "prompt", None) == "" and _is_text(rest):
            return argparse.Namespace(**vars(found) | {"prompt": rest[-1]}), []
        return found, rest

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: {message} (see --help)\n")


def _is_text(words: Sequence[str]) -> bool:
    """Whether they are one word, and no flag."""
    if len(words) == 1:
        return not words[0].startswith("-") or " " in words[0]
    return len(words) == 2 and words[0] == "--"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 2 after one line that says what was wrong."""
    args = _parser().parse_args(argv)
    try:
        # Loaded only now: parsing and --help need neither JAX nor PyAV.
        module = MODULES.get(args.command, "generate")
        with _heeding_ctrl_c():
            importlib.import_module(f"soraflax.cli.{module}").run(args)
    except (ValueError, OSError, ImportError) as error:
        message = " ".join(str(error).split()) + _hint(error)
        print(f"soraflax {args.command}: {message}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt as stop:
        what = str(stop) or "nothing was written"
        print(f"soraflax {args.command}: stopped; {what}", file=sys.stderr)
        return 130
    return 0


@contextlib.contextmanager
def _heeding_ctrl_c() -> Iterator[None]:
    """Ctrl-C stops the work even where Python ignores it.

    What interrupts a callback of the garbage collector is printed and forgotten, and
    JAX has such a callback.
    """
    plain, timers = sys.unraisablehook, []

    def hook(unraisable: Any) -> None:
        if unraisable.exc_type is not KeyboardInterrupt:
            plain(unraisable)
            return
        # Not at once: here it would be ignored again.
        again = threading.Timer(0.1, _thread.interrupt_main)
        again.daemon = True
        timers.append(again)
        again.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = plain
        for timer in timers:
            timer.cancel()


def _hint(error: Exception) -> str:
    """Which extra holds a module that is missing."""
    extra = EXTRAS.get(getattr(error, "name", None) or "")
    return f": pip install 'soraflax[{extra}]'" if extra else ""


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="soraflax",
        description="Make videos from text, images, clips; reconstruct, convert, plan.",
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=Parser
    )
    flags.add(commands)
    _add_reconstruct(commands)
    _add_convert(commands)
    _add_plan(commands)
    info = commands.add_parser(
        "info",
        help="say what a checkpoint holds",
        description="Print a checkpoint's configuration and sizes as JSON.",
        epilog="example: soraflax info demo/video",
    )
    info.add_argument("checkpoint", type=pathlib.Path)
    return parser


def _add_reconstruct(commands: "argparse._SubParsersAction[Parser]") -> None:
    reconstruct = commands.add_parser(
        "reconstruct",
        help="encode and decode a video of any length",
        description="Encode a video and decode it again, as a stream: memory does not "
        "grow with its length. Prints PSNR and SSIM of the two, before the output is "
        "rounded to 8 bits. An .npy file is float32 [T, H, W, 3] in [-1, 1].",
        epilog="example: soraflax reconstruct clip.mp4 --checkpoint demo/autoencoder "
        "--out out.mp4 --fit pad",
    )
    add = reconstruct.add_argument
    add("clip", type=pathlib.Path, help="a video, an image or an .npy file")
    add(
        "--checkpoint",
        required=True,
        type=pathlib.Path,
        metavar="DIR",
        help="an autoencoder, or a video model that has one",
    )
    suffixes = ".mp4, .mkv, .gif, .png or .npy"
    add("--out", required=True, type=pathlib.Path, help=suffixes)
    add(
        "--fit",
        default="refuse",
        choices=("refuse", "pad"),
        help="frames and sides off the grid: an error (default), or repeat the last "
        "ones and crop the result",
    )
    number = flags.positive
    add("--chunk", default=2, type=number, metavar="N", help="latent frames a step")
    add("--tile", type=flags.size, metavar="WxH", help="pixels; default: whole frames")
    add("--overlap", default=64, type=int, metavar="N", help="pixels tiles share")
    add("--no-ssim", action="store_true", help="SSIM costs time on a CPU")
    add("--devices", default=1, type=number, metavar="N", help="split frames over N")
    add("--dtype", choices=("bfloat16", "float32"), help="default: the checkpoint's")
    add("--fps", type=float, metavar="F", help="default: the clip's, 24 for .npy")
    add("--json", action="store_true", help="print one JSON object instead of lines")


def _add_convert(commands: "argparse._SubParsersAction[Parser]") -> None:
    convert = commands.add_parser(
        "convert",
        help="convert the weights of Wan's models, both ways",
        description="Convert an autoencoder or a transformer between Wan's "
        "safetensors, in the layout of diffusers, and a soraflax checkpoint; the "
        "config.json there says which it is. Adapters that a fine-tuning wrote become "
        "the one file that diffusers loads, where their base has Wan's form.",
        epilog="examples: soraflax convert --from wan2.1 --weights wan/vae --out ae; "
        "soraflax convert --from wan2.1 --weights wan/transformer --out dit; "
        "soraflax convert --to wan2.1 --checkpoint ae --out wan/vae; "
        "soraflax convert --to wan2.1 --checkpoint tuned/adapters --out lora",
    )
    way = convert.add_mutually_exclusive_group(required=True)
    way.add_argument("--from", dest="source", choices=FAMILIES, help="needs --weights")
    way.add_argument("--to", dest="target", choices=FAMILIES, help="needs --checkpoint")
    add = convert.add_argument
    add("--weights", type=pathlib.Path, metavar="DIR", help="of safetensors")
    add("--checkpoint", type=pathlib.Path, metavar="DIR", help="of soraflax")
    add("--out", required=True, type=pathlib.Path, metavar="DIR", help="to write")


def _add_plan(commands: "argparse._SubParsersAction[Parser]") -> None:
    plan = commands.add_parser(
        "plan",
        help="what a train step takes on a TPU pod, without one",
        description="Compile the train step of a config for a TPU topology and print "
        "memory, traffic between chips, and a roofline of its time. Needs the extra "
        "'plan', no TPU.",
        epilog="example: soraflax plan --config=experiments/configs/wan2_1_t2v_14b.py "
        "--topology v5p:8x8x8 --slices 2",
    )
    add = plan.add_argument
    add("--config", required=True, metavar="FILE.py[:preset]")
    add("--topology", required=True, metavar="CHIP:SIDES", help="v5p:8x8x8, v6e:16x16")
    add("--slices", default=1, type=flags.positive, metavar="N", help="joined by DCN")
    add(
        "--rows",
        type=flags.positive,
        metavar="N",
        help="of a batch; default: the config's",
    )
    add("--clip", type=flags.positive, metavar="N", help="tokens; default: the most")
    add("--quick", action="store_true", help="end before machine code is written")
    add("--search", action="store_true", help="try other meshes, remat policies, rows")
    add(
        "--trials",
        default=6,
        type=flags.positive,
        metavar="N",
        help="compiled in a search",
    )
    add("--json", type=pathlib.Path, metavar="FILE", help="a line for each plan")


if __name__ == "__main__":
    sys.exit(main())
