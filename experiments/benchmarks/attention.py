"""Packed attention beside dense attention, forward and backward, as JSON lines.

    python -m experiments.benchmarks.attention [--tokens 4096 --heads 4 --head-size 64]

Every ratio is of times taken in turns in one run, the least of `--repeats` each:

    dense        blocks over each dense implementation, on a row of equal segments with
                 sum(l^2) / N^2 = 0.2
    skipping     visited fraction x time of the full row / time; 1 is a perfect skip
    scaling      time of 1, 2, 4, ... segments over that of one, beside sum(l^2) / N^2
    small rows   blocks over the reference on rows of 1,024 tokens and short segments
    balance      share of the time that the devices of a ring compute, by visited block
                 pairs, each step as long as its longest: rows of mixed images and clips
                 as packed, and in stripes (`packing.stripe`); nothing is timed

Splash and Triton take the place of blocks with `--implementation`, on what they run on.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import measurement
from soraflax import sharding
from soraflax.cli import parser as cli
from soraflax.ops import attention, packing

Sizes = tuple[int, int]


def equal_segments(tokens: int, count: int) -> np.ndarray:
    """`[1, N]`: one row of `count` segments as equal as they can be."""
    return (1 + np.arange(tokens) * count // tokens).astype(np.int32)[None]


def short_segments(rows: int, tokens: int, *, seed: int = 0) -> np.ndarray:
    """`[rows, N]`: rows filled with segments of 20 to 150 tokens."""
    rng = np.random.default_rng(seed)
    segments = np.zeros((rows, tokens), np.int32)
    for row in segments:
        start = number = 0
        while start + (length := int(rng.integers(20, 151))) <= tokens:
            number += 1
            row[start : start + length] = number
            start += length
    return segments


def mixed_segments(tokens: int, *, seed: int) -> np.ndarray:
    """`[1, N]`: images and clips, log-uniform between 256 tokens and half a row."""
    rng = np.random.default_rng(seed)
    blocks = np.exp(rng.uniform(np.log(2), np.log(tokens / 256), tokens // 256))
    row = np.repeat(np.arange(1, len(blocks) + 1), 128 * blocks.astype(int))
    return row[None, :tokens].astype(np.int32)


def square_fraction(segments: np.ndarray) -> float:
    """sum(l^2) / N^2, over all rows."""
    same = sum(int(np.square(np.bincount(row)[1:]).sum()) for row in segments)
    return same / (segments.shape[0] * segments.shape[1] ** 2)


def visited_fraction(segments: np.ndarray, block: int) -> float:
    plan = attention.make_plan(segments, segments, block=block)
    pairs = plan.keys_of.start.shape[-1] * plan.queries_of.start.shape[-1]
    return float(jnp.sum(plan.visited)) / (pairs * segments.shape[0])


def packed_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array,
    *,
    implementation: str,
    block: int,
) -> jax.Array:
    plan = attention.make_plan(segments, segments, block=block)
    return attention.attention(q, k, v, plan=plan, implementation=implementation)


def masked_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array
) -> jax.Array:
    mask = segments[:, None, :, None] == segments[:, None, None, :]
    return jax.nn.dot_product_attention(q, k, v, mask=mask)


def step(f: Callable[..., jax.Array], segments: np.ndarray, sizes: Sizes) -> Any:
    """A call that runs `f` forward and backward on rows of these segment ids."""
    shape = (*segments.shape, *sizes)
    arrays = [jax.random.normal(jax.random.key(i), shape) for i in range(4)]
    ids = jnp.asarray(segments)

    @jax.jit
    def gradients(q: jax.Array, k: jax.Array, v: jax.Array, w: jax.Array) -> Any:
        return jax.grad(lambda *x: jnp.vdot(f(*x, ids), w), argnums=(0, 1, 2))(q, k, v)

    return lambda: jax.block_until_ready(gradients(*arrays))


def dense(
    tokens: int,
    sizes: Sizes,
    *,
    block: int,
    repeats: int,
    implementation: str = "blocks",
) -> dict[str, Any]:
    segments = equal_segments(tokens, 5)
    use = functools.partial(packed_attention, block=block)
    calls = {
        name: step(functools.partial(use, implementation=name), segments, sizes)
        for name in (implementation, "reference")
    }
    calls["jax.nn"] = step(masked_attention, segments, sizes)
    seconds = measurement.least_seconds(calls, repeats)
    packed = seconds[implementation]
    return {
        "figure": "dense",
        "square_fraction": square_fraction(segments),
        "seconds": seconds,
        f"{implementation} / reference": packed / seconds["reference"],
        f"{implementation} / jax.nn": packed / seconds["jax.nn"],
    }


def scaling(
    tokens: int,
    sizes: Sizes,
    *,
    block: int,
    repeats: int,
    implementation: str = "blocks",
) -> list[dict[str, Any]]:
    """Time against the number of segments, and how well skipping pays."""
    counts = (1, 2, 4, 8, 16)
    rows = {count: equal_segments(tokens, count) for count in counts}
    use = functools.partial(
        packed_attention, implementation=implementation, block=block
    )
    seconds = measurement.least_seconds(
        {n: step(use, row, sizes) for n, row in rows.items()}, repeats
    )
    lines = []
    for count, row in rows.items():
        visited = visited_fraction(row, block)
        lines.append(
            {
                "figure": "scaling",
                "segments": count,
                "square_fraction": square_fraction(row),
                "visited_fraction": visited,
                "seconds": seconds[count],
                "time / one segment": seconds[count] / seconds[1],
                "skip_efficiency": visited * seconds[1] / seconds[count],
            }
        )
    return lines


def small_rows(sizes: Sizes, *, blocks: Sequence[int], repeats: int) -> dict[str, Any]:
    segments = short_segments(8, 1024)
    calls = {
        f"blocks of {block}": step(
            functools.partial(packed_attention, implementation="blocks", block=block),
            segments,
            sizes,
        )
        for block in blocks
    }
    use = functools.partial(packed_attention, implementation="reference", block=128)
    calls["reference"] = step(use, segments, sizes)
    seconds = measurement.least_seconds(calls, repeats)
    return {
        "figure": "small rows",
        "square_fraction": square_fraction(segments),
        "seconds": seconds,
        "over reference": {n: s / seconds["reference"] for n, s in seconds.items()},
    }


def busy_fraction(segments: np.ndarray, shards: int, *, block: int) -> float:
    """Fraction of the time in which the devices of a ring compute."""
    sizes = tuple({"context": shards}.get(axis, 1) for axis in sharding.MESH_AXES)
    mesh = jax.sharding.AbstractMesh(sizes, sharding.MESH_AXES)
    with jax.sharding.use_abstract_mesh(mesh):
        plan = attention.make_plan(segments, segments, block=block, heads=1)
    # In step n of the ring, device i has the keys of device i + n.
    pairs = np.asarray(plan.visited_by_shard[0])
    device = np.arange(shards)
    longest = [pairs[device, (device + step) % shards].max() for step in device]
    return float(pairs.sum() / (shards * sum(longest)))


def balance(tokens: int, *, block: int, rows: int = 4) -> list[dict[str, Any]]:
    """Busy fraction of rings of several sizes, with and without stripes."""
    lines = []
    for shards in (2, 4, 8, 16):
        order = packing.stripe_order(tokens, shards=shards, block=block)
        mixed = [mixed_segments(tokens, seed=seed) for seed in range(rows)]
        lines.append(
            {
                "figure": "balance",
                "shards": shards,
                "as packed": float(
                    np.mean([busy_fraction(row, shards, block=block) for row in mixed])
                ),
                "dealt": float(
                    np.mean(
                        [
                            busy_fraction(row[:, order], shards, block=block)
                            for row in mixed
                        ]
                    )
                ),
            }
        )
    return lines


def lines(options: argparse.Namespace) -> Iterator[measurement.Line]:
    """All measurements, each with the sizes that it was taken at."""
    sizes = options.heads, options.head_size
    shared = {
        "block": options.block,
        "repeats": options.repeats,
        "implementation": options.implementation,
    }
    about = {
        **measurement.environment(),
        "tokens": options.tokens,
        "heads": options.heads,
        "head_size": options.head_size,
        "block": options.block,
    }
    yield dense(options.tokens, sizes, **shared) | about
    for line in scaling(options.tokens, sizes, **shared):
        yield line | about
    about |= {"tokens": 1024, "block": (64, 128)}
    yield small_rows(sizes, blocks=(64, 128), repeats=options.repeats) | about
    for line in balance(131072, block=128):
        yield line | {"tokens": 131072, "block": 128}


def main(argv: Sequence[str] | None = None) -> int:
    parser = measurement.make_parser("attention", __doc__)
    add = parser.add_argument
    add("--tokens", type=cli.positive_int, default=4096, help="length of a row")
    add("--heads", type=cli.positive_int, default=4)
    add("--head-size", type=cli.positive_int, default=64)
    add("--block", type=cli.positive_int, default=128, help="tokens in a block")
    add("--repeats", type=cli.positive_int, default=5, help="runs, of which the least")
    names = ("blocks", "splash", "triton")
    add("--implementation", default="blocks", choices=names)
    options = parser.parse_args(argv)
    return measurement.run_benchmark("attention", lambda: lines(options))


if __name__ == "__main__":
    sys.exit(main())
