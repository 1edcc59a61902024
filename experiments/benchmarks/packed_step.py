"""Useful tokens per second of a training step: packed, padded, and in buckets.

    python -m experiments.benchmarks.packed_step [--tokens 4096 --steps 6]

The corpus has images and clips of many sizes, the longest as long as a row. Three ways
of batching it for the same step (model, loss, optimizer, parameter average):

    packed   our rows; attention visits the blocks that touch
    padded   one clip in each row, padded to the longest clip
    buckets  one clip in each row, padded to the longest of its bucket; as many rows as
             a packed row has tokens for

Padding is attended to like anything else, by whichever of our implementations is faster
on such rows. Buckets are eight ranges of length which hold as many tokens each. A line
has the tokens of clips per second of every way, steps of the buckets being as frequent
as their clips are, and two ratios: of packed over each of the others. A packed row has
room for the captions of the row with the most clips.
"""

import dataclasses
import functools
import math
import sys
import time
from collections.abc import Iterator, Sequence

import grain
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import packing
from experiments.benchmarks import measurement, packers
from soraflax import sharding
from soraflax.cli import parser as cli
from soraflax.nn import dit
from soraflax.ops import packing as packed_rows
from soraflax.train import denoising, optimizer, state, step

TEXT = 32
FULL_ROW = 32_768  # shorter rows see pictures with as many times fewer tokens
MODEL = dataclasses.replace(dit.VARIANTS["small"], depth=4, attention_block=128)
DENSE = ("reference", "blocks")
Lengths = Sequence[int]


@dataclasses.dataclass(frozen=True)
class StepRate:
    """Tokens and time of a step, for one way of batching.

    Attributes:
      tokens: useful tokens of one step.
      capacity: useful tokens and padding of one step.
      seconds: time of one step.
    """

    tokens: float
    capacity: int
    seconds: float


def rows_of(
    lengths: Lengths, shape: packed_rows.RowShape
) -> list[list[packed_rows.Segment]]:
    """The corpus in packed rows."""
    segments = [segment(length, MODEL) for length in lengths]
    return list(
        packing.PackIterDataset(
            grain.MapDataset.source(segments),
            shape=shape,
            open_rows=32,
            read=packers.IN_TURN,
        )
    )


def segment(length: int, config: dit.DiTConfig) -> packed_rows.Segment:
    """A clip of noise, for a model that reads captions."""
    rng = np.random.default_rng(length)
    return packed_rows.Segment(
        tokens=rng.standard_normal((length, config.patch_size), np.float32),
        positions=rng.uniform(0, 16, (length, 3)).astype(np.float32),
        cond_mask=np.zeros(length, bool),
        text=np.ones(TEXT, np.int32),
    )


class Trainer:
    """The training step, compiled for every shape that it meets."""

    def __init__(self, rows: packed_rows.Packed, config: dit.DiTConfig) -> None:
        module = dit.DiT(config)
        mesh = sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])
        key = jax.random.key(0)
        params, shardings = sharding.init(module, key, rows, mesh=mesh)
        rule = optimizer.OptimizerConfig(warmup=0)
        schedule = optimizer.make_schedule(rule, steps=100)
        transform = optimizer.make_optimizer(rule, steps=100)
        self.state, state_shardings = state.create(
            params, transform, shardings=shardings, mesh=mesh
        )
        predict = denoising.predict_with(module)
        loss = functools.partial(
            denoising.loss, predict=predict, config=denoising.DenoisingConfig()
        )
        self.step = step.make_train_step(
            loss,
            transform,
            schedule=schedule,
            ema_decay=0.999,
            shardings=state_shardings,
        )

    def seconds(self, packed: packed_rows.Packed, steps: int) -> float:
        """The least time of a step."""
        batch = jax.tree.map(jnp.asarray, packed)
        least = math.inf
        for _ in range(steps + 1):
            start = time.perf_counter()
            self.state, metrics = self.step(self.state, batch, jax.random.key(1))
            jax.block_until_ready(metrics)
            least = min(least, time.perf_counter() - start)
        return least


def packed_rate(lengths: Lengths, *, tokens: int, steps: int) -> StepRate:
    """The row whose attention costs what that of the mean row does."""
    room = packed_rows.RowShape(tokens, tokens * TEXT, tokens)
    rows = rows_of(lengths, room)
    segments = max(map(len, rows))
    mean = float(np.mean([_pairs(row) for row in rows]))
    middle = min(rows, key=lambda row: abs(_pairs(row) - mean))
    shape = packed_rows.RowShape(tokens, segments * TEXT, segments)
    packed = packed_rows.assemble([middle], shape)
    useful = sum(lengths) / len(rows)
    trainer = Trainer(packed, dataclasses.replace(MODEL, attention="blocks"))
    return StepRate(useful, tokens, trainer.seconds(packed, steps))


def _pairs(row: Sequence[packed_rows.Segment]) -> int:
    return sum(len(s) ** 2 for s in row)


def padded_rate(lengths: Lengths, *, tokens: int, steps: int) -> StepRate:
    """Rows of one clip each, as long as the longest of `lengths`."""
    longest = max(lengths)
    count = max(1, tokens // longest)
    shape = packed_rows.RowShape(longest, TEXT, 1)
    packed = packed_rows.assemble([[segment(longest, MODEL)]] * count, shape)
    models = [dataclasses.replace(MODEL, attention=name) for name in DENSE]
    seconds = min(Trainer(packed, model).seconds(packed, steps) for model in models)
    return StepRate(count * float(np.mean(lengths)), count * longest, seconds)


def bucket_rate(lengths: Lengths, *, tokens: int, steps: int) -> StepRate:
    """The mean step over all buckets, each as often as its clips ask for."""
    parts = [
        (bucket, padded_rate(bucket, tokens=tokens, steps=steps))
        for bucket in packers.buckets(lengths)
    ]
    weights = [sum(bucket) / rate.tokens for bucket, rate in parts]
    total = sum(weights)

    def mean(values: Sequence[float]) -> float:
        return float(np.dot(weights, values)) / total

    return StepRate(
        mean([rate.tokens for _, rate in parts]),
        round(mean([rate.capacity for _, rate in parts])),
        mean([rate.seconds for _, rate in parts]),
    )


def lines(tokens: int, *, clips: int, steps: int) -> Iterator[measurement.Line]:
    """One line: all three ways, and the ratios of their rates."""
    lengths = packers.corpus(tokens, clips, shrink=max(1, FULL_ROW // tokens))
    measured = {
        "packed": packed_rate(lengths, tokens=tokens, steps=steps),
        "padded": padded_rate(lengths, tokens=tokens, steps=steps),
        "buckets": bucket_rate(lengths, tokens=tokens, steps=steps),
    }
    rates = {name: rate.tokens / rate.seconds for name, rate in measured.items()}
    yield {
        "benchmark": "packed_step",
        "row": tokens,
        "used": {n: round(r.tokens / r.capacity, 4) for n, r in measured.items()},
        "tokens_per_second": {n: round(rate) for n, rate in rates.items()},
        "packed_over_padded": round(rates["packed"] / rates["padded"], 2),
        "packed_over_buckets": round(rates["packed"] / rates["buckets"], 2),
        "aim": {"packed_over_padded": 3.5, "packed_over_buckets": 1.2},
        **measurement.environment(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = measurement.make_parser("packed_step", __doc__)
    add = parser.add_argument
    add("--tokens", type=cli.positive_int, default=4096, help="length of a row")
    add("--clips", type=cli.positive_int, default=2000, help="size of the corpus")
    add("--steps", type=cli.positive_int, default=6, help="steps that are timed")
    options = parser.parse_args(argv)
    return measurement.run_benchmark(
        "packed_step",
        lambda: lines(options.tokens, clips=options.clips, steps=options.steps),
    )


if __name__ == "__main__":
    sys.exit(main())
