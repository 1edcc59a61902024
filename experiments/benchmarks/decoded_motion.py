"""What an autoencoder keeps of motion: clips of the world, decoded, as JSON lines.

    python -m experiments.benchmarks.decoded_motion AUTOENCODER ... [--clips 80]

A latent frame stands for r frames, and a decoder may draw them all alike: then what
moves stands still for r frames and jumps. With d_k the root mean square difference of
frames k and k + 1 of a clip, d'_k of the same clip decoded,

    pace_i = mean over k = i mod r of d'_k / mean over all k of d_k                (1)

is 1 for every i where the motion is kept; pace_0 is the step from one latent frame to
the next. Beside it stand the PSNR and what the judge reads in the decoded clips that
agrees with what it reads in the clips themselves.
"""

import argparse
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.worlds import bodies, judge
from experiments.benchmarks import measurement
from soraflax.cli import parser as cli
from soraflax.evaluation import metrics
from soraflax.nn import autoencoder
from soraflax.pretrained import models

WORLD = bodies.VARIANTS["short"]
SHAPE = (17, 64, 64)
SEED = 3_000_000  # of clips that no training draws
MIN_STEP = 0.01  # least mean of d_k, pixels in [0, 1], of a clip that moves
BATCH = 8


def clips(count: int) -> UInt8[np.ndarray, "N T H W 3"]:
    """Clips of `SHAPE` that move."""
    found: list[np.ndarray] = []
    number = 0
    while len(found) < count:
        video = bodies.render_clip(SEED, number, config=WORLD).video
        number += 1
        if video.shape[:3] == SHAPE and steps(video[None]).mean() >= MIN_STEP:
            found.append(video)
    return np.stack(found)


def steps(videos: UInt8[np.ndarray, "N T H W 3"]) -> Float[np.ndarray, "N T1"]:
    """d of equation (1), of pixels in [0, 1]."""
    pixels = videos.astype(np.float32) / 255.0
    return np.sqrt(np.mean(np.square(np.diff(pixels, axis=1)), axis=(2, 3, 4)))


def paces(
    real: UInt8[np.ndarray, "N T H W 3"],
    decoded: UInt8[np.ndarray, "N T H W 3"],
    *,
    ratio: int,
) -> Float[np.ndarray, "ratio"]:
    """Equation (1), the mean over clips of 1 + r n frames; `ratio` is r."""
    shares = steps(decoded) / steps(real).mean(axis=1, keepdims=True)
    return shares.reshape(len(real), -1, ratio).mean(axis=(0, 1))


def measure(
    model: models.AutoencoderModel, videos: UInt8[np.ndarray, "N T H W 3"]
) -> dict[str, Any]:
    """The figures of one autoencoder."""
    module = autoencoder.Autoencoder(model.config)

    @jax.jit
    def run(params: Any, x: Any) -> Any:
        output: Any = module.apply({"params": params}, x)
        return output.video

    pixels = videos.astype(np.float32) / 127.5 - 1.0
    made = [
        np.clip(run(model.params, pixels[start : start + BATCH]), -1.0, 1.0)
        for start in range(0, len(pixels), BATCH)
    ]
    raw = np.concatenate(made)
    decoded = np.round((raw + 1.0) * 127.5).astype(np.uint8)
    agreed: dict[str, list[bool]] = {}
    for video, again in zip(videos, decoded, strict=True):
        pairs = judge.agreement(judge.read(again), judge.read(video))
        for name, right in pairs.items():
            agreed.setdefault(name, []).append(right)
    ratio = model.config.temporal_ratio
    return {
        "clips": len(videos),
        "psnr_db": round(float(np.mean(metrics.psnr(raw, pixels))), 2),
        "pace": [round(float(p), 2) for p in paces(videos, decoded, ratio=ratio)],
        "agreement": {name: round(float(np.mean(v)), 3) for name, v in agreed.items()},
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = measurement.make_parser("decoded_motion", __doc__)
    add = parser.add_argument
    add("autoencoders", nargs="+", type=pathlib.Path, metavar="AUTOENCODER")
    add("--clips", type=cli.positive_int, default=80, help="(default: 80)")
    arguments = parser.parse_args(argv)
    return measurement.run_benchmark("decoded_motion", lambda: _lines(arguments))


def _lines(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    loaded = [models.load_autoencoder(path) for path in arguments.autoencoders]
    videos = clips(arguments.clips)
    for path, model in zip(arguments.autoencoders, loaded, strict=True):
        about = {"benchmark": "decoded_motion", "autoencoder": str(path)}
        yield about | measure(model, videos) | measurement.environment()


if __name__ == "__main__":
    sys.exit(main())
