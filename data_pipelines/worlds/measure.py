"""Accuracy of the judge on clips whose truth is known.

    python -m data_pipelines.worlds.measure --world room --variant full --count 500

prints one JSON line: per attribute the accuracy over the clips in which it is visible,
the fraction of those clips, and milliseconds per clip to render and to read.
"""

import argparse
import collections
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import tqdm
from jaxtyping import UInt8
from scipy import ndimage

from data_pipelines.worlds import (
    blocks,
    blocks_judge,
    bodies,
    canvas,
    canvas_judge,
    judge,
    room,
    room_judge,
)
from soraflax.cli import parser as cli

# The world and the judge of each name.
JUDGES: dict[str, tuple[Any, Any]] = {
    "bodies": (bodies, judge),
    "room": (room, room_judge),
    "canvas": (canvas, canvas_judge),
    "blocks": (blocks, blocks_judge),
}


def accuracy(
    config: Any,
    *,
    world: str = "bodies",
    seed: int,
    count: int,
    blur: float = 0.0,
    noise: float = 0.0,
) -> dict[str, dict[str, float]]:
    """Accuracy of the judge on rendered clips, attribute by attribute.

    Args:
      config: configuration of the world.
      world: a key of `JUDGES`.
      seed: PRNG seed of the world.
      count: number of clips.
      blur: standard deviation of a Gaussian blur in pixels.
      noise: standard deviation of added noise in levels of 255.

    Returns:
      For each attribute its `accuracy` over the clips that show it and the fraction
      `visible` of such clips; under `milliseconds` the mean time to `render` and to
      `read` a clip.
    """
    renderer, reader = JUDGES[world]
    correct, seen = collections.Counter(), collections.Counter()
    durations = {"render": 0.0, "read": 0.0}
    for index in tqdm.tqdm(range(count), unit="clip", disable=not sys.stderr.isatty()):
        start = time.perf_counter()
        clip = renderer.render_clip(seed, index, config=config)
        drawn = time.perf_counter()
        video = disturb(clip.video, seed=index, blur=blur, noise=noise)
        reread = time.perf_counter()
        agrees = reader.agreement(reader.read(video), clip.truth["attributes"])
        durations["render"] += drawn - start
        durations["read"] += time.perf_counter() - reread
        for key, visible in clip.truth["visible"].items():
            seen[key] += visible
            correct[key] += visible and agrees[key]
    result = {
        key: {
            "accuracy": correct[key] / max(seen[key], 1),
            "visible": seen[key] / count,
        }
        for key in seen
    }
    times = {key: 1e3 * seconds / count for key, seconds in durations.items()}
    return result | {"milliseconds": times}


def disturb(
    video: UInt8[np.ndarray, "T H W 3"], *, seed: int, blur: float, noise: float
) -> UInt8[np.ndarray, "T H W 3"]:
    """A blurred and noisy copy."""
    levels = video.astype(np.float32)
    if blur:
        levels = ndimage.gaussian_filter(levels, (0, blur, blur, 0))
    if noise:
        random = np.random.default_rng(seed)
        levels += noise * random.standard_normal(levels.shape, np.float32)
    return np.clip(np.round(levels), 0, 255).astype(np.uint8)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = cli.Parser(
        prog="python -m data_pipelines.worlds.measure",
        description=(__doc__ or "").split("\n")[0],
    )
    add = parser.add_argument
    add("--world", choices=list(JUDGES), default="bodies", help="(default: bodies)")
    add("--variant", default="full", help="variant of the world (default: full)")
    add("--count", type=cli.positive_int, default=500, help="clips to read")
    add("--seed", type=int, default=0, help="PRNG seed of the world")
    add("--blur", type=float, default=0.0, help="pixels")
    add("--noise", type=float, default=0.0, help="levels of 255")
    options = parser.parse_args(argv)
    return cli.run_command("measure", lambda: _run(options), extra="data")


def _run(options: argparse.Namespace) -> None:
    variants = JUDGES[options.world][0].VARIANTS
    if options.variant not in variants:
        names = ", ".join(variants)
        raise ValueError(f"no variant {options.variant!r}; there are: {names}")
    result = accuracy(
        dataclasses.replace(variants[options.variant], holdout="any"),
        world=options.world,
        seed=options.seed,
        count=options.count,
        blur=options.blur,
        noise=options.noise,
    )
    rounded = {
        key: {name: round(value, 4) for name, value in row.items()}
        for key, row in result.items()
    }
    print(json.dumps({"options": vars(options)} | rounded))


if __name__ == "__main__":
    sys.exit(main())
