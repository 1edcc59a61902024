"""How much faster captions are written with a cache of keys and values than without.

    python -m experiments.benchmarks.decoding [--tokens 128] [--repeats 3]

Both write the same captions of the same clips, in turns, from random parameters, and no
caption ends before its last token. Without a cache every step computes all tokens of
the caption, those to come among them: a compiled loop has one shape. Prints one JSON
line with both times and their ratio; `ok` is whether it is at least `--least`.
"""

import argparse
import functools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import measurement
from soraflax.cli import parser as cli
from soraflax.nn import caption_decoding, captioner, decoding
from soraflax.ops import packing
from soraflax.pretrained import captioners

NO_END = -1  # an id that no token has
GRID = (5, 8, 12)  # latent frames, rows and columns: 17 frames of 96x64 pixels


def measure(
    config: captioner.CaptionerConfig,
    *,
    tokens: int,
    clips: int,
    beams: int,
    repeats: int,
) -> measurement.Line:
    """Seconds of both, and their ratio."""
    keys = iter(jax.random.split(jax.random.key(0), 1000))
    params = jax.tree.map(
        lambda leaf: 0.1 * jax.random.normal(next(keys), leaf.shape),
        captioners.shapes(config),
    )
    rng = np.random.default_rng(0)
    shape = (*GRID, config.latent_channels)
    rows = [
        [
            packing.Segment.from_latent(
                rng.normal(size=shape).astype(np.float32),
                np.ones(1, np.int32),
                patch=config.patch,
            )
        ]
        for _ in range(clips)
    ]
    packed = jax.device_put(packing.assemble(rows, packing.RowShape.fitting(rows)))
    how = decoding.DecodingConfig(tokens, beams=beams)

    @functools.partial(jax.jit, static_argnames="implementation")
    def decode(params: Any, packed: packing.Packed, *, implementation: str) -> Any:
        return caption_decoding.decode(
            params,
            packed,
            config=config,
            decoding_config=how,
            end=NO_END,
            implementation=implementation,
        ).ids

    calls = {
        name: functools.partial(
            lambda name: jax.block_until_ready(
                decode(params, packed, implementation=name)
            ),
            name,
        )
        for name in ("cache", "recompute")
    }
    same = bool(np.array_equal(*(call() for call in calls.values())))
    seconds = measurement.least_seconds(calls, repeats)
    return {
        "tokens": tokens,
        "clips": clips,
        "beams": beams,
        "same_captions": same,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "ratio": round(seconds["recompute"] / seconds["cache"], 2),
    }


def lines(options: argparse.Namespace) -> Iterator[measurement.Line]:
    """The measurement, with what it was taken of."""
    line = measure(
        captioner.VARIANTS[options.variant],
        tokens=options.tokens,
        clips=options.clips,
        beams=options.beams,
        repeats=options.repeats,
    )
    ok = line["same_captions"] and line["ratio"] >= options.least
    about = {"variant": options.variant, "ok": ok}
    yield about | line | measurement.environment()


def main(argv: Sequence[str] | None = None) -> int:
    parser = measurement.make_parser("decoding", __doc__)
    add = parser.add_argument
    add("--variant", default="small", choices=list(captioner.VARIANTS))
    add("--tokens", type=cli.positive_int, default=128, help="of a caption")
    add("--clips", type=cli.positive_int, default=4, help="captioned together")
    add("--beams", type=cli.positive_int, default=1, help="hypotheses kept")
    add("--repeats", type=cli.positive_int, default=3, help="of each, in turns")
    add("--least", type=float, default=5.0, help="ratio below which it fails")
    options = parser.parse_args(argv)
    return measurement.run_benchmark("decoding", lambda: lines(options))


if __name__ == "__main__":
    sys.exit(main())
