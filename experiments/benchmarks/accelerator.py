"""What an accelerator that is at hand for ten minutes says of this code, as JSON lines.

    python -m experiments.benchmarks.accelerator | tee accelerator.jsonl
    python -m experiments.benchmarks.accelerator --size tiny    # a CPU, in a minute

The parts, in this order, none begun once `--minutes` are over:

    kernels      error of each attention kernel against the float32 reference, forward
                 and backward (at most `kernel_check.TOLERANCE`); its time over dense
                 attention on rows of equal segments
    mfu          a training step of a packed model of a billion parameters on rows of
                 16,384 and 32,768 tokens of images and clips: tokens a second, and the
                 model FLOP/s utilisation (at least 0.5)
    autoencoder  frames a second of Wan's autoencoder in bfloat16, encoding and
                 decoding, at 480p and 720p
    checkpoint   seconds to save, to verify and to restore a training state, and the
                 part of the saving that a run waits for (less than 0.05)
    peers        the training step over PyTorch's, eager (at most 0.67) and compiled (at
                 most 1.0), in bfloat16, same weights and clips; and the autoencoder
                 over a compiled one. They need the extra `parity`, with a build of
                 PyTorch for the device

Of a training step `attention` names what computed it (`text_attention` that to the
captions), and `fallback` says whether it was not the kernel for this platform: blocks
or the reference, where there is no such kernel, where it does not take these sizes, or
where it differs from the reference.

A part that fails is a line with its error, and the others go on. Exit status 1 where a
line says `"ok": false`. Bars hold on accelerators whose peak is known
(`train.metrics`); on a CPU the figures mean nothing.
"""

import argparse
import dataclasses
import functools
import importlib.util
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import (
    attention,
    autoencoder_accelerator,
    measurement,
    packed_step,
    train_step,
)
from soraflax import flops, sharding
from soraflax.cli import parser as cli
from soraflax.nn import autoencoder, dit
from soraflax.ops import packing
from soraflax.ops.attention import api, kernel_check
from soraflax.pretrained import abstract
from soraflax.train import checkpoint, optimizer, state

BILLION = dataclasses.replace(dit.VARIANTS["large"], width=1536, heads=12, mlp=6144)
MIN_MFU = 0.5
MAX_BLOCKING = 0.05
LEAF = 2**24  # float32 values of an array of the checkpoint's state: 64 MiB
Grid = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes:
      head_sizes: of the kernels.
      tokens: lengths of rows; kernels are timed on the first.
      model: the packed transformer.
      codec: the autoencoder.
      videos: frames, height and width of its clips.
      leaves: arrays of `leaf` values of the parameters in a checkpoint, which holds
        four times as much.
      leaf: values of one of them.
      width, depth: of the transformer beside PyTorch's.
      grids: patches of its clips.
      repeats: runs of each, of which the least counts.
    """

    head_sizes: tuple[int, ...]
    tokens: tuple[int, ...]
    model: dit.DiTConfig
    codec: autoencoder.AutoencoderConfig
    videos: tuple[Grid, ...]
    leaves: int
    leaf: int
    width: int
    depth: int
    grids: tuple[Grid, ...]
    repeats: int


WAN = dataclasses.replace(autoencoder.VARIANTS["wan2_1"], dtype="bfloat16")
SIZES = {
    "full": Sizes(
        head_sizes=(64, 128),
        tokens=(16_384, 32_768),
        model=BILLION,
        codec=WAN,
        videos=((17, 480, 832), (17, 720, 1280)),
        leaves=16,
        leaf=LEAF,
        width=1536,
        depth=12,
        grids=((1, 32, 32), (3, 32, 32), (9, 32, 32)),
        repeats=5,
    ),
    "tiny": Sizes(
        head_sizes=(64,),
        tokens=(512,),
        model=dataclasses.replace(dit.VARIANTS["tiny"], dtype="bfloat16"),
        codec=dataclasses.replace(autoencoder.VARIANTS["tiny"], dtype="bfloat16"),
        videos=((5, 16, 16),),
        leaves=2,
        leaf=2**10,
        width=128,
        depth=1,
        grids=((1, 4, 4),),
        repeats=1,
    ),
}


def kernels(sizes: Sizes) -> Iterator[measurement.Line]:
    """Each kernel that runs here against the reference, and against dense attention."""
    own = kernels_of(sharding.platform())
    for name in own:
        for head_size in sizes.head_sizes:
            for dtype in ("bfloat16", "float32"):
                error = kernel_check.relative_error(
                    api.KERNELS[name], head_size, jnp.dtype(dtype)
                )
                yield {
                    "figure": "kernel error",
                    "kernel": name,
                    "head_size": head_size,
                    "dtype": dtype,
                    "error": error,
                    "ok": error <= kernel_check.TOLERANCE,
                }
    tokens, heads = sizes.tokens[0], sizes.model.heads
    for name in own:
        shape = (heads, sizes.head_sizes[-1])
        shared: dict[str, Any] = {"block": 128, "repeats": sizes.repeats}
        shared["implementation"] = name
        line = attention.dense(tokens, shape, **shared)
        yield line | {"tokens": tokens, "attention": [name]}


def kernels_of(platform: str) -> tuple[str, ...]:
    """Names of the kernels for a platform, without the reference."""
    name, _ = api.PLATFORM_KERNELS.get(platform, ("", None))
    return ("blocks", name) if name else ("blocks",)


def mfu(sizes: Sizes) -> Iterator[measurement.Line]:
    """The training step of the packed model on rows of every length."""
    for tokens in sizes.tokens:
        row = attention.mixed_segments(tokens, seed=0)
        lengths = [int(n) for n in np.bincount(row[0])[1:]]
        shape = packing.RowShape(tokens, packed_step.TEXT * len(lengths), len(lengths))
        segments = [packed_step.segment(n, sizes.model) for n in lengths]
        packed = packing.assemble([segments], shape)
        trainer = packed_step.Trainer(packed, sizes.model)
        seconds = trainer.seconds(packed, sizes.repeats)
        found = flops.lengths(packed.segments, packed.text_segments)
        rate = flops.training(flops.transformer_flops(sizes.model, found)) / seconds
        used = train_step.utilisation(
            rate, kind=jax.devices()[0].device_kind, dtype=sizes.model.dtype
        )
        yield {
            "figure": "packed step",
            "parameters": flops.transformer_parameters(sizes.model),
            "tokens": tokens,
            "segments": len(lengths),
            "seconds": seconds,
            "tokens_per_second": round(tokens / seconds),
            "teraflops_per_second": round(rate / 1e12, 3),
            **used,
            **train_step.attention_of(sizes.model, packed),
            "target": MIN_MFU if used else None,
            "ok": used.get("mfu", MIN_MFU) >= MIN_MFU,
        }


def frames(sizes: Sizes) -> Iterator[measurement.Line]:
    """Frames a second of the autoencoder, of random parameters."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(
            0.02 * rng.standard_normal(leaf.shape, np.float32), sizes.codec.dtype
        ),
        abstract.autoencoder_shapes(sizes.codec),
    )
    module = autoencoder.Autoencoder(sizes.codec)
    encode = jax.jit(functools.partial(module.apply, method="encode"))
    decode = jax.jit(functools.partial(module.apply, method="decode"))
    for video in sizes.videos:
        pixels = jax.device_put(rng.uniform(-1, 1, (1, *video, 3)).astype(np.float32))
        latent, _ = encode({"params": params}, pixels)
        calls = {
            "encode": lambda x=pixels: encode({"params": params}, x),
            "decode": lambda x=latent: decode({"params": params}, x),
        }
        waiting: dict[str, Callable[[], object]] = {
            name: lambda call=call: jax.block_until_ready(call())
            for name, call in calls.items()
        }
        seconds = measurement.least_seconds(waiting, sizes.repeats)
        yield {
            "figure": "autoencoder",
            "video": video,
            "frames_per_second": {
                n: round(video[0] / s, 2) for n, s in seconds.items()
            },
        }


def checkpoints(sizes: Sizes) -> Iterator[measurement.Line]:
    """A training state through a checkpoint, on the disk of temporary files."""
    mesh = sharding.make_mesh(fsdp=jax.device_count())
    place = jax.NamedSharding(mesh, jax.P("fsdp"))
    names = [f"layer_{number}" for number in range(sizes.leaves)]

    @functools.partial(jax.jit, out_shardings=dict.fromkeys(names, place))
    def draw() -> dict[str, jax.Array]:
        keys = jax.random.split(jax.random.key(0), len(names))
        pairs = zip(names, keys, strict=True)
        return {name: jax.random.normal(key, (sizes.leaf,)) for name, key in pairs}

    chain = optimizer.make_optimizer(optimizer.OptimizerConfig(), steps=1)
    with jax.set_mesh(mesh):
        current, places = state.create(
            draw(), chain, shardings=dict.fromkeys(names, place), mesh=mesh
        )
        jax.block_until_ready(current)
        gigabytes = sum(leaf.nbytes for leaf in jax.tree.leaves(current)) / 1e9
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder)
            seconds = _times(path, current, target=state.abstract(current, places))
    share = seconds.pop("blocking") / seconds["save"]
    yield {
        "figure": "checkpoint",
        "gigabytes": round(gigabytes, 3),
        "seconds": seconds,
        "gigabytes_per_second": {n: gigabytes / s for n, s in seconds.items()},
        "blocking": share,
        "target": MAX_BLOCKING,
        # Of a state that is written at once nothing can be hidden.
        "ok": share < MAX_BLOCKING or gigabytes < 1.0,
    }


def _times(folder: pathlib.Path, current: Any, *, target: Any) -> dict[str, float]:
    """Seconds of saving, of the wait for it, of verifying and of restoring."""
    place = _Place()
    with checkpoint.Checkpointer(folder) as keeper:
        keeper.save(0, current, iterator=place, config={})
        keeper.wait()  # what is made once
        start = time.perf_counter()
        keeper.save(1, current, iterator=place, config={})
        blocking = time.perf_counter() - start
        keeper.wait()
        save = time.perf_counter() - start
    with checkpoint.Checkpointer(folder) as keeper:
        start = time.perf_counter()
        keeper.saved.last_whole()
        verify = time.perf_counter() - start
        start = time.perf_counter()
        jax.block_until_ready(keeper.restore(target, iterator=place, config={}))
        restore = time.perf_counter() - start
    found = {"save": save, "verify": verify, "restore": restore}
    return found | {"blocking": blocking}


class _Place:
    """Data without a position."""

    def __next__(self) -> Any:
        raise StopIteration

    def get_state(self) -> int:
        return 0

    def set_state(self, state: int) -> None:
        del state


def peers(sizes: Sizes) -> Iterator[measurement.Line]:
    """Beside PyTorch, where it is installed; else a line that says so."""
    absent = [n for n in ("torch", "diffusers") if importlib.util.find_spec(n) is None]
    if absent:
        hint = f"{absent[0]} not installed: pip install 'soraflax[parity]'"
        yield {"figure": "peers", "left_out": hint}
        return
    config = train_step.narrowed(
        width=sizes.width, depth=sizes.depth, dtype="bfloat16", remat="none"
    )
    yield from train_step.compare(
        config,
        grids=sizes.grids,
        count=1,
        pack=True,
        repeats=sizes.repeats,
        peers=train_step.PEERS,
    )
    for video in sizes.videos:
        codec = WAN if sizes.codec == WAN else dataclasses.replace(WAN, width=16)
        compared = autoencoder_accelerator.compare(codec, video, repeats=sizes.repeats)
        yield {"figure": "autoencoder beside diffusers"} | compared


PARTS: dict[str, Callable[[Sizes], Iterator[measurement.Line]]] = {
    "kernels": kernels,
    "mfu": mfu,
    "autoencoder": frames,
    "checkpoint": checkpoints,
    "peers": peers,
}


def lines(
    names: Sequence[str],
    sizes: Sizes,
    *,
    minutes: float,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[measurement.Line]:
    """The lines of parts, of those that fail their errors, until the time is up."""
    began = clock()
    for name in names:
        if clock() - began > 60 * minutes:
            yield {"figure": name, "left_out": f"{minutes:g} minutes are over"}
            continue
        try:
            yield from PARTS[name](sizes)
        except Exception as error:  # such as no memory: the device is lent, so go on
            said = " ".join(str(error).split())[:300]
            fault = f"{type(error).__name__}: {said}"
            yield {"figure": name, "error": fault, "ok": False}


def _run(options: argparse.Namespace) -> Iterator[measurement.Line]:
    about = measurement.environment() | {"size": options.size}
    sizes = SIZES[options.size]
    for line in lines(options.only, sizes, minutes=options.minutes):
        yield line | about


def main(argv: Sequence[str] | None = None) -> int:
    parser = measurement.make_parser("accelerator", __doc__)
    add = parser.add_argument
    add("--size", choices=sorted(SIZES), default="full")
    add("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    add("--minutes", type=cli.positive_float, default=10.0, help="no part begins later")
    options = parser.parse_args(argv)
    return measurement.run_benchmark("accelerator", lambda: _run(options))


if __name__ == "__main__":
    sys.exit(main())
