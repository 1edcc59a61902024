"""Token efficiency and cost of packing a mixed corpus, ours beside grain's.

    python -m experiments.benchmarks.packing [--clips 8000]

Prints one JSON line per packer, row size and alignment: the fraction of tokens that
belong to clips (`bound`: what alignment alone allows) and microseconds per clip.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from data_pipelines import packing
from soraflax.ops import packing as packed_rows

SIDES = ((8, 8), (8, 12), (12, 8), (6, 10), (16, 9), (9, 16))
NO_THREADS = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)


def corpus(clips: int, *, seed: int = 0) -> list[packed_rows.Segment]:
    """30 % images and clips of 2 to 7 latent frames, six aspect ratios, captions."""
    rng = np.random.default_rng(seed)
    segments = []
    for _ in range(clips):
        frames = 1 if rng.random() < 0.3 else int(rng.integers(2, 8))
        tokens = frames * math.prod(SIDES[int(rng.integers(len(SIDES)))])
        segments.append(
            packed_rows.Segment(
                tokens=np.zeros((tokens, 4), np.float32),
                positions=np.zeros((tokens, 3), np.float32),
                known=np.zeros(tokens, bool),
                text=np.ones(int(rng.integers(3, 30)), np.int32),
            )
        )
    return segments


def packers(
    segments: Sequence[packed_rows.Segment], shape: packed_rows.RowShape
) -> dict[str, Any]:
    """Name to dataset of rows."""
    ours = packing.PackIterDataset(
        grain.MapDataset.source(segments), shape=shape, read_options=NO_THREADS
    )
    elements = grain.MapDataset.source(
        [{"tokens": s.tokens, "at": s.positions, "text": s.text} for s in segments]
    ).to_iter_dataset(NO_THREADS)
    found: dict[str, Any] = {"soraflax, 8 open rows": ours}
    for name in ("FirstFit", "BestFit"):
        for bins in (32, 128):
            found[f"grain {name}, {bins} bins"] = getattr(
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
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=8000)
    segments = corpus(parser.parse_args().clips)
    used = sum(len(segment) for segment in segments)
    for tokens in (2048, 8192):
        for align in (1, 128):
            shape = packed_rows.RowShape(tokens, tokens // 2, tokens // 64, align)
            bound = used / sum(shape.aligned(len(segment)) for segment in segments)
            for name, rows in packers(segments, shape).items():
                start = time.perf_counter()
                count = sum(1 for _ in rows)
                seconds = time.perf_counter() - start
                line = {
                    "packer": name,
                    "row": tokens,
                    "align": align,
                    "efficiency": round(used / (count * tokens), 4),
                    "bound": round(bound, 4),
                    "microseconds_per_clip": round(1e6 * seconds / len(segments), 1),
                }
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
