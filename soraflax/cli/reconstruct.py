"""`soraflax reconstruct`: a video of any length through an autoencoder, as a stream."""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import time
from typing import Any

from soraflax.cli import options
from soraflax.cli import parser as cli

_LESS_MEMORY = "--chunk 1, --tile 512x512, --devices N or --dtype bfloat16"


def add_parser(subparsers: Any) -> cli.Parser:
    parser = subparsers.add_parser(
        "reconstruct",
        help="encode and decode a video of any length",
        description="Encode a video and decode it again, as a stream: memory does not "
        "grow with its length. Prints PSNR and SSIM of the two, before the output is "
        "rounded to 8 bits. An .npy file is float32 [T, H, W, 3] in [-1, 1].",
        epilog="example: soraflax reconstruct clip.mp4 --out out.mp4 --fit pad",
    )
    add, number = parser.add_argument, cli.positive_int
    add("clip", type=pathlib.Path, help="a video, an image or an .npy file")
    options.add_checkpoint(parser, "an autoencoder, or a video model that has one")
    suffixes = ".mp4, .mkv, .gif, .png or .npy"
    add("--out", required=True, type=pathlib.Path, metavar="FILE", help=suffixes)
    add(
        "--fit",
        default="refuse",
        choices=("refuse", "pad"),
        help="frames and sides off the grid: an error, or repeat the last ones and "
        "crop the result (default: refuse)",
    )
    add("--chunk", default=2, type=number, metavar="N", help="latent frames a step")
    add("--tile", type=cli.size, metavar="WxH", help="pixels (default: whole frames)")
    add("--overlap", default=64, type=int, metavar="N", help="pixels that tiles share")
    add("--no-ssim", action="store_true", help="SSIM costs time on a CPU")
    add("--devices", default=1, type=number, metavar="N", help="split frames over N")
    add(
        "--dtype",
        choices=("bfloat16", "float32"),
        help="to compute in (default: the checkpoint's)",
    )
    add(
        "--fps",
        type=float,
        metavar="F",
        help="frames per second (default: the clip's, 24 of an .npy file)",
    )
    options.add_no_audio(parser)
    add("--json", action="store_true", help="print one JSON object instead of lines")
    return parser


def run(args: argparse.Namespace) -> None:
    """Check everything that can be, reconstruct, write, print the report."""
    from soraflax.autoencoding import padding, streaming
    from soraflax.cli import checkpoints, devices, outputs, reconstruction
    from soraflax.evaluation import metrics
    from soraflax.pretrained import shipped

    tile = args.tile and (args.tile[1], args.tile[0])
    config = streaming.StreamConfig(chunk=args.chunk, tile=tile, overlap=args.overlap)
    with contextlib.ExitStack() as stack:
        clip = stack.enter_context(reconstruction.open_clip(args.clip))
        fps = args.fps
        if fps is None:
            fps = clip.fps or reconstruction.ARRAY_FPS
        reconstruction.check_out(args.out, args.clip, clip=clip, fps=fps)
        kept = reconstruction.kept_sound(args, clip, fps=fps)
        told = [f"{args.clip}: {note}" for note in clip.notes] + list(kept.notes)
        outputs.print_notes("reconstruct", told)
        cache = stack.enter_context(devices.kept_programs(args))
        model = checkpoints.load_autoencoder(
            shipped.or_given(args.checkpoint), dtype=args.dtype, cache=cache
        )
        size = (clip.frames, clip.height, clip.width)
        try:
            fit = padding.grid_padding(model.config, size, rule=args.fit)
        except ValueError as error:
            raise ValueError(f"{args.clip}: {error}; or say --fit pad") from None
        start = time.perf_counter()
        with devices.split_over(args.devices), devices.memory_errors(_LESS_MEMORY):
            quality = reconstruction.write(
                args.out,
                clip,
                model=model,
                fit=fit,
                config=config,
                fps=fps,
                quality=metrics.Quality(similarity=None if args.no_ssim else 0.0),
                kept=kept.sounds,
            )
        seconds = time.perf_counter() - start
        more = [f"{args.clip}: {note}" for note in clip.notes]
        outputs.print_notes("reconstruct", [n for n in more if n not in told])
    report = reconstruction.measured_report(
        args.out, model, fit=fit, quality=quality, fps=fps, seconds=seconds
    )
    if args.json:
        print(json.dumps(dataclasses.asdict(report)))
    else:
        print(reconstruction.text(report))
