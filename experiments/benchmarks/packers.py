"""Token efficiency and cost of packing a mixed corpus, ours beside grain's.

    python -m experiments.benchmarks.packers [--clips 8000]

Prints one JSON line per packer, row size and alignment: the fraction of tokens that
belong to clips (`bound`: what alignment alone allows) and microseconds per clip; and
for every row size what padding makes of it: every clip to the longest, or to the
longest of its bucket.
"""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from data_pipelines import packing, reading
from experiments.benchmarks import measurement
from soraflax.cli import parser as cli
from soraflax.ops import packing as packed_rows

ROWS = (32_768, 131_072)
ALIGNMENTS = (1, 128)
BUCKETS = 8
LINES = (256, 480, 720)  # of a 16:9 picture; one token is 16 x 16 pixels
LINE_RATES = (0.5, 0.35, 0.15)
ASPECTS = (9 / 16, 3 / 4, 1.0, 4 / 3, 16 / 9)
IMAGES = 0.3
FRAMES = (2, 36)  # latent frames; 36 of them are 141 frames at 4:1
CAPTION = (20, 200)
IN_TURN = reading.ReadConfig(threads=0, buffer=0)


def corpus(row: int, clips: int, *, shrink: int = 1, seed: int = 0) -> list[int]:
    """Tokens of images and clips of many sizes, shapes and durations.

    Durations are log-uniform. A clip that does not fit a row is shortened.

    Args:
      row: greatest number of tokens of a clip.
      clips: number of clips.
      shrink: factor by which pictures have fewer tokens.
      seed: seed of the random sizes.
    """
    rng = np.random.default_rng(seed)
    lengths = []
    for _ in range(clips):
        area = (rng.choice(LINES, p=LINE_RATES) / 16) ** 2 * 16 / 9 / shrink
        height = max(1, round(math.sqrt(area / rng.choice(ASPECTS))))
        picture = height * max(1, round(area / height))
        frames = FRAMES[0] * (FRAMES[1] / FRAMES[0]) ** rng.random()
        frames = 1 if rng.random() < IMAGES else round(frames)
        lengths.append(picture * max(1, min(frames, row // picture)))
    return lengths


def segments_of(lengths: Sequence[int]) -> list[packed_rows.Segment]:
    """Clips of such lengths and captions; their numbers take no memory."""
    rng = np.random.default_rng(0)
    return [
        packed_rows.Segment(
            tokens=np.broadcast_to(np.float32(0), (length, 1)),
            positions=np.broadcast_to(np.float32(0), (length, 3)),
            cond_mask=np.broadcast_to(np.False_, length),
            text=np.ones(int(rng.integers(*CAPTION)), np.int32),
        )
        for length in lengths
    ]


def buckets(lengths: Sequence[int]) -> list[list[int]]:
    """Eight ranges of length, the shortest first, of as many tokens each."""
    ordered = sorted(lengths)
    fraction = np.cumsum(ordered) / sum(ordered)
    indices = np.minimum((fraction * BUCKETS).astype(int), BUCKETS - 1)
    ranges: list[list[int]] = [[] for _ in range(BUCKETS)]
    for length, index in zip(ordered, indices, strict=True):
        ranges[index].append(length)
    return [bucket for bucket in ranges if bucket]


def padded_efficiency(lengths: Sequence[int]) -> dict[str, float]:
    """Token efficiency of padding to the longest clip, of all or of each bucket."""
    capacity = sum(max(bucket) * len(bucket) for bucket in buckets(lengths))
    return {
        "longest": sum(lengths) / (max(lengths) * len(lengths)),
        "buckets": sum(lengths) / capacity,
    }


def packers(
    segments: Sequence[packed_rows.Segment], shape: packed_rows.RowShape
) -> dict[str, Any]:
    """Name to dataset of rows."""
    stream = grain.MapDataset.source(segments)
    ours = {
        "soraflax, 8 open rows": {},
        "soraflax, 32 open rows": {"open_rows": 32},
        "soraflax, 64 clips ahead": {"look_ahead": 64},
    }
    elements = grain.MapDataset.source(
        [{"tokens": s.tokens, "at": s.positions, "text": s.text} for s in segments]
    ).to_iter_dataset(IN_TURN.options)
    datasets: dict[str, Any] = {
        name: packing.PackIterDataset(stream, shape=shape, read=IN_TURN, **options)
        for name, options in ours.items()
    }
    for name in ("FirstFit", "BestFit"):
        for bins in (32, 128):
            datasets[f"grain {name}, {bins} bins"] = getattr(
                grain.experimental, f"{name}PackIterDataset"
            )(
                elements,
                length_struct={
                    "tokens": shape.tokens,
                    "at": shape.tokens,
                    "text": shape.text,
                },
                pack_alignment_struct={
                    "tokens": shape.align,
                    "at": shape.align,
                    "text": 1,
                },
                num_packing_bins=bins,
                max_sequences_per_bin=shape.segments,
                shuffle_bins=False,
            )
    return datasets


def lines(clips: int, *, only: str = "") -> Iterator[measurement.Line]:
    """A line for every way of padding, and for every packer and alignment.

    Args:
      clips: of the corpus.
      only: part of the names of the packers that run.
    """
    for tokens in ROWS:
        lengths = corpus(tokens, clips)
        for target, efficiency in padded_efficiency(lengths).items():
            yield {
                "padded_to": target,
                "row": tokens,
                "efficiency": round(efficiency, 4),
            }
        segments = segments_of(lengths)
        for align in ALIGNMENTS:
            shape = packed_rows.RowShape(tokens, tokens // 4, tokens // 64, align)
            bound = sum(lengths) / sum(map(shape.aligned, lengths))
            for name, rows in packers(segments, shape).items():
                if only not in name:
                    continue
                start = time.perf_counter()
                count = sum(1 for _ in rows)
                seconds = time.perf_counter() - start
                yield {
                    "packer": name,
                    "row": tokens,
                    "align": align,
                    "efficiency": round(sum(lengths) / (count * tokens), 4),
                    "bound": round(bound, 4),
                    "microseconds_per_clip": round(1e6 * seconds / clips, 1),
                }


def main(argv: Sequence[str] | None = None) -> int:
    parser = measurement.make_parser("packers", __doc__)
    parser.add_argument("--clips", type=cli.positive_int, default=8000)
    parser.add_argument("--only", default="", help="part of the names of packers")
    options = parser.parse_args(argv)
    return measurement.run_benchmark(
        "packers", lambda: lines(options.clips, only=options.only)
    )


if __name__ == "__main__":
    sys.exit(main())
