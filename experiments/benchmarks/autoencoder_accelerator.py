"""Frames per second of Wan's autoencoders in bfloat16, beside `torch.compile`.

    python -m experiments.benchmarks.autoencoder_accelerator [--family wan2.1]
        [--size 832x480 1280x720] [--frames 17] [--width 96] [--dtype bfloat16]

Needs the extra `parity`, with a build of PyTorch for the accelerator; on a CPU it runs
too, and the figures mean little. Both sides encode and decode the same clip on the same
device, compiled whole; the least of `--repeats` runs in turns counts. One JSON line per
size: frames per second of both, time ratio over diffusers (1 is as fast, below is
faster) and the relative difference of the decoded videos.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import autoencoder as benchmark
from experiments.benchmarks import measurement
from soraflax.cli import parser as cli
from soraflax.nn import autoencoder

DTYPES = ("bfloat16", "float32")


def compare(
    config: autoencoder.AutoencoderConfig,
    shape: tuple[int, int, int],
    *,
    repeats: int,
) -> dict[str, Any]:
    """One line: a clip of `(frames, height, width)` through both."""
    from experiments.benchmarks.peers import wan_autoencoder

    pair = wan_autoencoder.make(config)
    pixels = wan_autoencoder.video(shape)
    theirs = wan_autoencoder.compiled(pair, pixels, dtype=config.dtype)
    ours = _ours(pair, pixels)
    difference = measurement.relative_error(
        ours(), wan_autoencoder.channels_last(theirs())
    )
    calls = {"diffusers": theirs, "soraflax": ours}
    seconds = measurement.least_seconds(calls, repeats)
    return {
        "video": shape,
        "frames_per_second": {
            name: round(shape[0] / time, 2) for name, time in seconds.items()
        },
        "ratio": round(seconds["soraflax"] / seconds["diffusers"], 3),
        "difference": round(difference, 5),
    }


def _ours(pair: Any, pixels: np.ndarray) -> Callable[[], Any]:
    """Returns the video, float32 on the host, as the other side does."""
    dtype = jnp.dtype(pair.config.dtype)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), pair.params)
    video = jax.device_put(pixels)

    @jax.jit
    def run(params: Any, x: jax.Array) -> jax.Array:
        return jnp.clip(pair.module.apply({"params": params}, x).video, -1, 1)

    return lambda: np.asarray(run(params, video), np.float32)


def lines(arguments: argparse.Namespace) -> Iterator[measurement.Line]:
    """A line for every size.

    Raises:
      ValueError: a size off the grid of the autoencoder.
    """
    from experiments.benchmarks.peers import wan_autoencoder

    config = autoencoder.VARIANTS[benchmark.FAMILIES[arguments.family]]
    if arguments.width is not None:
        config = wan_autoencoder.narrowed(config, arguments.width)
    config = dataclasses.replace(config, dtype=arguments.dtype)
    about = {"family": arguments.family, "width": config.width, "dtype": config.dtype}
    about |= measurement.environment()
    for width, height in arguments.size:
        config.latent_grid(arguments.frames, height, width)
    for width, height in arguments.size:
        shape = (arguments.frames, height, width)
        yield compare(config, shape, repeats=arguments.repeats) | about


def main(argv: Sequence[str] | None = None) -> int:
    parser = measurement.make_parser("autoencoder_accelerator", __doc__)
    add = parser.add_argument
    add("--family", choices=benchmark.FAMILIES, default="wan2.1")
    add("--size", nargs="+", type=cli.size, default=[(832, 480), (1280, 720)])
    add("--frames", type=cli.positive_int, default=17)
    add("--width", type=int, help="channels of the first stage; default: Wan's")
    add("--dtype", choices=DTYPES, default="bfloat16")
    add("--repeats", type=cli.positive_int, default=3)
    arguments = parser.parse_args(argv)
    return measurement.run_benchmark(
        "autoencoder_accelerator", lambda: lines(arguments)
    )


if __name__ == "__main__":
    sys.exit(main())
