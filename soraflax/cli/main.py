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

import argparse
import importlib
import pathlib
import sys
from collections.abc import Sequence

from soraflax.cli import flags
from soraflax.cli import parser as cli

# All other commands make videos.
MODULES = {name: name for name in ("reconstruct", "convert", "plan", "info")}
FAMILIES = ("wan2.1", "wan2.2")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 2 after one line that says what was wrong."""
    args = _parser().parse_args(argv)

    def run() -> None:
        # Loaded only now: parsing and --help need neither JAX nor PyAV.
        module = MODULES.get(args.command, "generate")
        importlib.import_module(f"soraflax.cli.{module}").run(args)

    return cli.run_command(f"soraflax {args.command}", run)


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(
        prog="soraflax",
        description="Make videos from text, images, clips; reconstruct, convert, plan.",
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=cli.Parser
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


def _add_reconstruct(commands: "argparse._SubParsersAction[cli.Parser]") -> None:
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
    number = cli.positive_int
    add("--chunk", default=2, type=number, metavar="N", help="latent frames a step")
    add("--tile", type=cli.size, metavar="WxH", help="pixels; default: whole frames")
    add("--overlap", default=64, type=int, metavar="N", help="pixels tiles share")
    add("--no-ssim", action="store_true", help="SSIM costs time on a CPU")
    add("--devices", default=1, type=number, metavar="N", help="split frames over N")
    add("--dtype", choices=("bfloat16", "float32"), help="default: the checkpoint's")
    add("--fps", type=float, metavar="F", help="default: the clip's, 24 for .npy")
    add("--json", action="store_true", help="print one JSON object instead of lines")


def _add_convert(commands: "argparse._SubParsersAction[cli.Parser]") -> None:
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


def _add_plan(commands: "argparse._SubParsersAction[cli.Parser]") -> None:
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
    add("--slices", default=1, type=cli.positive_int, metavar="N", help="joined by DCN")
    add(
        "--rows",
        type=cli.positive_int,
        metavar="N",
        help="of a batch; default: the config's",
    )
    add("--clip", type=cli.positive_int, metavar="N", help="tokens; default: the most")
    add("--quick", action="store_true", help="end before machine code is written")
    add("--search", action="store_true", help="try other meshes, remat policies, rows")
    add(
        "--trials",
        default=6,
        type=cli.positive_int,
        metavar="N",
        help="compiled in a search",
    )
    add("--json", type=pathlib.Path, metavar="FILE", help="a line for each plan")


if __name__ == "__main__":
    sys.exit(main())
