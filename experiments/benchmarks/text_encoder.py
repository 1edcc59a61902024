"""The text encoder: packed attention with its bias, and UMT5 beside transformers.

    python -m experiments.benchmarks.text_encoder [--only attention peer]

JSON lines; every ratio is of times taken in turns in one run, the least of `--repeats`.
Exits with 1 if a line says `"ok": false`.

    attention   rows of captions of `--caption` tokens, forward and backward: seconds of
                the encoder at 512 text tokens over those at 256, by the dense reference
                and by touching blocks. A row twice as long holds twice the captions, so
                2 is the least.
    peer        UMT5 of `--width` and `--depth` on captions of 8 to 120 tokens, over
                transformers in eager PyTorch (needs the extra `parity`) with as many
                threads; there, captions are sorted by length and batches padded. 1 is
                as fast, less is faster.
"""

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import measurement
from soraflax import sharding, tokenizer
from soraflax.generation import text_features
from soraflax.nn import text_encoder
from soraflax.ops import attention
from soraflax.pretrained import text_encoders

LENGTHS = (256, 512)
BLOCK = 64
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}
VOCABULARY = 1024


def sizes(*, width: int, depth: int) -> text_encoder.TextEncoderConfig:
    """UMT5 in small: heads of 64 over the width, an MLP of 2.5 widths."""
    return text_encoder.TextEncoderConfig(
        vocabulary=VOCABULARY,
        width=width,
        depth=depth,
        heads=max(1, width // 64),
        head_size=64,
        mlp=width * 5 // 2,
    )


def packed_attention(
    config: text_encoder.TextEncoderConfig, *, caption: int, rows: int, repeats: int
) -> measurement.Line:
    """Cost of a row of 512 text tokens over one of 256, forward and backward."""
    key = jax.random.key(0)
    ids = jnp.ones((1, LENGTHS[0]), jnp.int32)
    params, _ = sharding.init(text_encoder.TextEncoder(config), key, ids, ids)
    calls: dict[Any, Callable[[], object]] = {}
    for length in LENGTHS:
        row = np.arange(length, dtype=np.int32) // caption + 1
        segments = np.tile(row, (rows, 1))
        tokens = np.random.default_rng(0).integers(1, VOCABULARY, segments.shape)
        for kind in attention.BIASED:
            calls[kind, length] = functools.partial(
                _step(config, kind), params, tokens.astype(np.int32), segments
            )
    seconds = measurement.least_seconds(calls, repeats)
    return {
        "benchmark": "attention",
        "text tokens": LENGTHS,
        "caption": caption,
        "seconds": {f"{kind} {n}": round(s, 4) for (kind, n), s in seconds.items()},
        **{
            f"{kind}, 512 over 256": round(
                seconds[kind, LENGTHS[1]] / seconds[kind, LENGTHS[0]], 3
            )
            for kind in attention.BIASED
        },
        "blocks over reference at 512": round(
            seconds["blocks", LENGTHS[1]] / seconds["reference", LENGTHS[1]], 3
        ),
    }


def _step(
    config: text_encoder.TextEncoderConfig, implementation: str
) -> Callable[..., object]:
    """A call that computes the gradient of every parameter."""
    module = text_encoder.TextEncoder(config, implementation=implementation)

    def loss(params: Any, ids: jax.Array, segments: jax.Array) -> jax.Array:
        plan = attention.make_plan(segments, segments, block=BLOCK)
        out: Any = module.apply({"params": params}, ids, segments, plan=plan)
        return jnp.sum(jnp.square(out))

    step = jax.jit(jax.grad(loss))
    return lambda *inputs: jax.block_until_ready(step(*inputs))


def peer(
    config: text_encoder.TextEncoderConfig,
    *,
    captions: int,
    dtype: str,
    batch: int,
    repeats: int,
) -> measurement.Line:
    """Captions per second, ours over transformers'."""
    import torch  # pyright: ignore[reportMissingImports]

    from experiments.benchmarks.peers import umt5

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rng = np.random.default_rng(0)
    ids = [
        rng.integers(1, VOCABULARY, n).astype(np.int32)
        for n in rng.integers(8, 121, captions)
    ]
    theirs, params = umt5.make(config)
    words = tokenizer.Tokenizer.embedded()
    model = text_encoders.TextEncoderModel(config, params, words, "random")
    encoder = text_features.FeatureEncoder(model, dtype=dtype)
    calls: dict[Any, Callable[[], Any]] = {
        "soraflax": lambda: encoder.encode_ids(ids),
        "transformers": umt5.encode(theirs, ids, batch=batch, dtype=dtype),
    }
    pairs = zip(calls["soraflax"](), calls["transformers"](), strict=True)
    error = max(measurement.relative_error(ours, other) for ours, other in pairs)
    seconds = measurement.least_seconds(calls, repeats)
    return {
        "benchmark": "peer",
        "width": config.width,
        "depth": config.depth,
        "dtype": dtype,
        "captions": captions,
        "tokens": sum(map(len, ids)),
        "captions_per_second": {n: round(captions / s, 2) for n, s in seconds.items()},
        "ratio": round(seconds["soraflax"] / seconds["transformers"], 3),
        "relative_error": error,
        "ok": error <= TOLERANCE[dtype],
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = measurement.make_parser("text_encoder", __doc__)
    add = parser.add_argument
    tasks = ("attention", "peer")
    add("--only", nargs="+", choices=tasks, default=tasks)
    add("--width", type=int, default=512)
    add("--depth", type=int, default=6)
    add("--rows", type=int, default=4, help="rows of the task attention")
    add("--caption", type=int, default=64, help="tokens of its captions")
    add("--captions", type=int, default=64, help="captions of the task peer")
    add("--batch", type=int, default=16, help="captions in a batch of transformers")
    add("--dtype", nargs="+", choices=sorted(TOLERANCE), default=["float32"])
    add("--repeats", type=int, default=3, help="runs, of which the least")
    options = parser.parse_args(argv)
    config = sizes(width=options.width, depth=options.depth)

    def lines() -> Iterator[measurement.Line]:
        yield measurement.environment()
        if "attention" in options.only:
            yield packed_attention(
                config,
                caption=options.caption,
                rows=options.rows,
                repeats=options.repeats,
            )
        for dtype in options.dtype if "peer" in options.only else ():
            yield peer(
                config,
                captions=options.captions,
                dtype=dtype,
                batch=options.batch,
                repeats=options.repeats,
            )

    return measurement.run_benchmark("text_encoder", lines)


if __name__ == "__main__":
    sys.exit(main())
