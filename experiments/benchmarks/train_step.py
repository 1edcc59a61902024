"""A training step of Wan's transformer beside diffusers', as JSON lines.

    python -m experiments.benchmarks.train_step [--width 512 --depth 6 --grid 5x16x16]
    python -m experiments.benchmarks.train_step --dtype bfloat16 --pack \\
        --grid 1x32x32 3x32x32 9x32x32 --clips 2

Needs the extra `parity` (PyTorch and diffusers). The same weights and clips, the mean
squared error of the prediction, gradients of all parameters, AdamW; times taken in
turns in one run with the same threads, the least of `--repeats` each. PyTorch runs
eagerly and under torch.compile; a ratio below 1 says that ours is faster. The first
losses must agree and the ratio must be within its target: a line that says
`"ok": false` exits with 1. Run it with nothing beside it: on a busy machine the two
suffer differently, and the ratio says nothing.

With `--pack` the clips of all grids are one row of ours (26,624 tokens above). PyTorch
then runs the clips of each grid as a batch of their own, one after another, gradients
added up: it pads nothing either.

`attention` names what computed ours (`text_attention` that to captions), and `fallback`
says whether it was not the kernel for this platform. `mfu` is equation (1) of
`train.metrics`, where the maker says what the device can do in bfloat16 and the step
computes in that.
"""

import argparse
import dataclasses
import functools
import os
import platform
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import measurement
from experiments.benchmarks.peers import wan_clips
from soraflax import flops, sharding
from soraflax.nn import dit
from soraflax.ops import attention, packing
from soraflax.ops.attention import api
from soraflax.pretrained import abstract
from soraflax.train import metrics, optimizer

RATE = 1e-4
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
# Ratios that ours should not exceed, by platform.
BOUNDS = {
    "cpu": {"eager": 0.9, "compile": 1.0},
    "gpu": {"eager": 0.67, "compile": 1.0},
}
PEERS = ("eager", "compile")
STEPS = 3
# Shapes that torch.compile specialises a function for before it gives up.
GRIDS = 8


def narrowed(*, width: int, depth: int, dtype: str, remat: str) -> dit.DiTConfig:
    """Wan's form at another width, heads of 128 and the same proportions."""
    wan = dit.WAN2_1_T2V_1_3B
    heads = max(1, width // 128)
    mlp = 64 * round(wan.mlp * width / wan.width / 64)
    return dataclasses.replace(
        wan,
        width=width,
        depth=depth,
        heads=heads,
        mlp=mlp,
        text_width=width,
        dtype=dtype,
        remat=remat,
    )


def our_step(
    config: dit.DiTConfig, params: Any, *, packed: packing.Packed, target: np.ndarray
) -> Callable[[], float]:
    """A call that trains ours for one step, and gives its loss."""
    rule = optimizer.make_optimizer(
        optimizer.OptimizerConfig(
            learning_rate=RATE,
            schedule="constant",
            warmup=0,
            beta2=0.999,
            clip_norm=0.0,
        ),
        steps=1,
    )
    packed, target = jax.device_put((packed, target))
    module: Any = dit.DiT(config)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, packed: Any, target: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            prediction = module.apply({"params": params}, packed)
            return jnp.mean(jnp.square(prediction - target))

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = rule.update(grads, state, params)
        return jax.tree.map(jnp.add, params, updates), state, value

    params = jax.tree.map(jnp.array, params)
    current = [params, jax.jit(rule.init)(params)]

    def run() -> float:
        current[0], current[1], value = step(*current, packed, target)
        jax.block_until_ready(current)
        return float(value)

    return run


def compare(
    config: dit.DiTConfig,
    *,
    grids: Sequence[wan_clips.Grid],
    count: int,
    pack: bool,
    repeats: int,
    peers: Sequence[str],
) -> list[dict[str, Any]]:
    """A line for every peer."""
    clips = [
        wan_clips.batch(config, count=count, grid=grid, seed=number)
        for number, grid in enumerate(grids)
    ]
    packed, target = wan_clips.rows(clips, config, pack=pack)
    calls = _calls(config, clips, packed=packed, target=target, peers=peers)
    losses = {name: [call() for _ in range(STEPS)] for name, call in calls.items()}
    seconds = measurement.least_seconds(calls, repeats)
    lengths = [int(np.prod(grid)) for grid in grids for _ in range(count)]
    sizes = flops.Lengths(lengths, [wan_clips.TEXT] * len(lengths))
    step_flops = flops.training(flops.transformer_flops(config, sizes))
    rate = step_flops / seconds["soraflax"]
    kind = jax.devices()[0].device_kind
    ran, lines = attention_of(config, packed), []
    for name in peers:
        ratio = seconds["soraflax"] / seconds[name]
        error = np.max(np.abs(np.subtract(losses["soraflax"], losses[name])))
        error = float(error / np.max(np.abs(losses[name])))
        target_ratio = BOUNDS.get(jax.default_backend(), {}).get(name)
        lines.append(
            {
                "figure": "train step",
                "against": f"diffusers, {name}",
                "seconds": {n: round(seconds[n], 3) for n in ("soraflax", name)},
                "ratio": round(ratio, 3),
                "target": target_ratio,
                "loss_error": error,
                "teraflops_per_second": round(rate / 1e12, 3),
                **utilisation(rate, kind=kind, dtype=config.dtype),
                **ran,
                "tokens": sum(lengths),
                "rows": target.shape[0],
                "ok": error <= TOLERANCE[config.dtype]
                and (target_ratio is None or ratio <= target_ratio),
            }
        )
    return lines


def _calls(
    config: dit.DiTConfig,
    clips: Sequence[wan_clips.Batch],
    *,
    packed: packing.Packed,
    target: np.ndarray,
    peers: Sequence[str],
) -> dict[str, Callable[[], float]]:
    """A step of ours and of every peer, all from the same parameters."""
    import torch  # pyright: ignore[reportMissingImports]

    from experiments.benchmarks.peers import wan_transformer as peer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    calls: dict[str, Callable[[], float]] = {}
    for name in peers:
        theirs, params = peer.make(config, device=device)
        calls[name] = peer.train_step(
            theirs, clips, rate=RATE, compile=name == "compile", dtype=config.dtype
        )
        calls["soraflax"] = our_step(config, params, packed=packed, target=target)
    return calls


def attention_of(config: dit.DiTConfig, packed: packing.Packed) -> dict[str, Any]:
    """What computes a model's attention on such rows on this device.

    Returns:
      `attention`, names as of `ops.attention`; `text_attention`, those of the tokens to
      their text; and `fallback`, whether the first is not the kernel for this platform,
      or there is none for it.
    """
    shapes = {"params": abstract.transformer_shapes(config)}
    program = jax.jit(dit.DiT(config).apply).lower(shapes, packed)
    ran = attention.implementations_in(program, module="self_attention")
    text = attention.implementations_in(program, module="cross_attention")
    own, _ = api.PLATFORM_KERNELS.get(sharding.platform(), ("", None))
    return {"attention": ran, "text_attention": text, "fallback": ran != [own]}


def utilisation(rate: float, *, kind: str, dtype: str) -> dict[str, float]:
    """`mfu` of FLOP/s on one device of a kind; nothing where its peak is not known."""
    peaks = [peak for name, peak in metrics.PEAK_FLOPS.items() if name in kind]
    if not peaks or dtype != "bfloat16":
        return {}
    return {"mfu": round(rate / peaks[0], 3)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = measurement.make_parser("train_step", __doc__)
    add = parser.add_argument
    add("--width", type=int, default=512)
    add("--depth", type=int, default=6)
    add("--grid", type=_grid, nargs="+", default=[(5, 16, 16)], help="patches, TxHxW")
    add("--clips", type=int, default=1, help="clips of every grid")
    add("--pack", action="store_true", help="all clips one row of ours")
    add("--dtype", choices=sorted(TOLERANCE), default="float32")
    add("--remat", default="none", help="remat policy of ours; PyTorch has none")
    add("--repeats", type=int, default=3, help="runs, of which the least")
    add("--peers", nargs="+", choices=PEERS, default=PEERS)
    options = parser.parse_args(argv)
    if not options.pack and len(options.grid) > 1:
        parser.error("several grids are of rows of several lengths: add --pack")
    if len(options.grid) > GRIDS:
        parser.error(f"{len(options.grid)} grids: use {GRIDS} or fewer")
    config = narrowed(
        width=options.width,
        depth=options.depth,
        dtype=options.dtype,
        remat=options.remat,
    )
    about = {
        **measurement.environment(),
        "python": platform.python_version(),
        "width": options.width,
        "depth": options.depth,
        "grid": options.grid,
        "dtype": options.dtype,
        "parameters": flops.transformer_parameters(config),
    }

    def lines() -> list[measurement.Line]:
        measured = compare(
            config,
            grids=options.grid,
            count=options.clips,
            pack=options.pack,
            repeats=options.repeats,
            peers=options.peers,
        )
        return [line | about for line in measured]

    return measurement.run_benchmark("train_step", lines)


def _grid(text: str) -> tuple[int, int, int]:
    try:
        frames, height, width = (int(part) for part in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not TxHxW, for example 5x16x16"
        ) from None
    return frames, height, width


if __name__ == "__main__":
    sys.exit(main())
