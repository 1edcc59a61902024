"""The command `soraflax`: what a user does with a trained checkpoint.

    soraflax generate "a large red circle moves right" --checkpoint demo/video \\
        --size 96x64 --frames 17 --seed 0 --out out.mp4

Bad input is one line on standard error and exit status 2; nothing is written then.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

EXIT_BAD_INPUT = 2
DEFAULT_FRAMES = 17


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: {message} (see --help)\n")


def _size(text: str) -> tuple[int, int]:
    """`WIDTHxHEIGHT` in pixels."""
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not WIDTHxHEIGHT, for example 96x64"
        ) from None
    return width, height


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is too small: use 1 or more")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="soraflax", description="Generate videos and images from text."
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=Parser
    )
    generate = commands.add_parser(
        "generate",
        help="make a video or an image from a text prompt",
        description="Make a video or an image from a text prompt.",
        epilog='example: soraflax generate "a large red circle moves right" '
        "--checkpoint demo/video --size 96x64 --frames 17 --seed 0 --out out.mp4",
    )
    add = generate.add_argument
    add("prompt", help="what the video shows")
    add("--checkpoint", required=True, type=pathlib.Path, metavar="DIR")
    add("--size", default=(64, 64), type=_size, metavar="WxH", help="pixels")
    length = generate.add_mutually_exclusive_group()
    length.add_argument("--frames", type=_positive, metavar="N", help="1 is an image")
    length.add_argument("--seconds", type=float, metavar="S", help="nearest legal")
    add("--fps", type=float, metavar="F", help="default: the model's own")
    add("--steps", default=25, type=_positive, metavar="N", help="sampler steps")
    add("--sampler", default="euler", choices=("euler", "heun", "ddim"))
    add("--guidance", default=4.0, type=float, metavar="G", help="1 is no guidance")
    add("--negative-prompt", default="", metavar="TEXT")
    add("--seed", default=0, type=int, metavar="N")
    add("--num-videos", default=1, type=_positive, metavar="N", help="seed, seed+1, …")
    add("--out", default="out.mp4", type=pathlib.Path, help=".mp4, .gif or .png")
    info = commands.add_parser(
        "info",
        help="say what a checkpoint holds",
        description="Print a checkpoint's configuration and sizes as JSON.",
        epilog="example: soraflax info demo/video",
    )
    info.add_argument("checkpoint", type=pathlib.Path)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 2 after one line that says what was wrong."""
    parser = _parser()
    args = parser.parse_args(argv)
    commands = {"generate": _generate, "info": _info}
    try:
        commands[args.command](args)
    except (ValueError, OSError, ImportError) as error:
        message = " ".join(str(error).split())
        print(f"soraflax {args.command}: {message}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("soraflax: stopped; nothing was written", file=sys.stderr)
        return 130
    return 0


def _generate(args: argparse.Namespace) -> None:
    from soraflax import media
    from soraflax.diffusion import sampler
    from soraflax.generation import generator

    model = generator.Generator.load(args.checkpoint)
    prompts = _prompts(args, model)
    paths = _outputs(args.out, args.num_videos)
    for path in paths:
        media.check_target(path, frames=prompts[0].frames, fps=prompts[0].fps)
    rules = {"euler": sampler.Euler, "heun": sampler.Heun, "ddim": sampler.DDIM}
    config = generator.SamplingConfig(
        steps=args.steps, guidance=args.guidance, sampler=rules[args.sampler]()
    )
    videos = _with_bar(model, prompts, config)
    for path, prompt, video in zip(paths, prompts, videos, strict=True):
        made_by = {"generator": "soraflax", "model": model.model.digest}
        metadata = made_by | dataclasses.asdict(prompt) | dataclasses.asdict(config)
        metadata["sampler"] = args.sampler
        media.write_video(path, video, model.frame_rate(prompt), metadata=metadata)
        print(path)


def _prompts(args: argparse.Namespace, model: Any) -> list[Any]:
    """One prompt per video that is asked for, their sizes checked."""
    from soraflax.generation import generator

    fps = model.model.config.reference_fps if args.fps is None else args.fps
    frames = args.frames or DEFAULT_FRAMES
    for name, value in (("fps", fps), ("seconds", args.seconds)):
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"--{name} {value}: use a finite number above 0")
    if args.seconds is not None:
        frames = model.grid.nearest_frames(args.seconds, fps)
    prompts = [
        generator.Prompt(
            text=args.prompt,
            size=args.size,
            frames=frames,
            fps=fps,
            seed=args.seed + number,
            negative=args.negative_prompt,
        )
        for number in range(args.num_videos)
    ]
    for prompt in prompts:
        model.check(model.request(prompt))
    return prompts


def _outputs(out: pathlib.Path, count: int) -> list[pathlib.Path]:
    """`out` itself, or `out-0`, `out-1`, ... for several videos."""
    if count == 1 or not out.name:
        return [out]
    return [out.with_name(f"{out.stem}-{n}{out.suffix}") for n in range(count)]


def _with_bar(model: Any, prompts: list[Any], config: Any) -> list[Any]:
    """The videos, with a progress bar over the sampler's steps."""
    import tqdm

    with tqdm.tqdm(desc="sampling", unit="step") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return model(prompts, config, progress=progress)


def _info(args: argparse.Namespace) -> None:
    from soraflax import model_io

    directory = model_io.find_model(args.checkpoint)
    params, config = model_io.load_model(directory)
    count = sum(leaf.size for leaf in model_io.flatten(params).values())
    facts = {
        "directory": str(directory),
        "parameters": count,
        "digest": model_io.model_digest(directory),
        "config": config,
    }
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    sys.exit(main())
