"""`soraflax generate`: a prompt in, videos out."""

import argparse
import dataclasses
import pathlib
from typing import Any

import tqdm

from soraflax import media
from soraflax.diffusion import sampler
from soraflax.generation import generator

DEFAULT_FRAMES = 17


def run(args: argparse.Namespace) -> None:
    """Sample, write every video, and print where each is."""
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
    with tqdm.tqdm(desc="sampling", unit="step") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return model(prompts, config, progress=progress)
