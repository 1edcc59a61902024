"""The autoencoder beside Wan's in diffusers, as JSON lines.

    python -m experiments.benchmarks.autoencoder [--only parity speed memory quality]

Needs the extra `parity` (PyTorch and diffusers). Every ratio is of times taken in turns
in one run, same threads, same weights, the least of `--repeats` each. Exits with 1 if a
line says `"ok": false`.

    parity   relative error of posterior mean and decoded video against diffusers, both
             families, reduced and full width: images, 5, 17 and 33 frames, odd shapes
    speed    encode + decode, and a training step (mean squared error, gradients of all
             parameters, AdamW), over PyTorch eager; 1 is as fast
    memory   peak resident memory of a process that streams so many frames, over that
             of the shortest; flat is 1
    quality  PSNR and SSIM for the same training FLOPs: `autoencoder_quality`
"""

import dataclasses
import functools
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import measurement
from soraflax import flops, process_memory
from soraflax.autoencoding import streaming
from soraflax.cli import parser as cli
from soraflax.nn import autoencoder
from soraflax.pretrained import abstract, models
from soraflax.pretrained import io as model_io
from soraflax.train import optimizer

FAMILIES = {"wan2.1": "wan2_1", "wan2.2": "wan2_2"}
REDUCED = 16
PARITY = ((1, 3, 2), (5, 2, 3), (17, 1, 3), (33, 3, 1))
SPEED = (
    ("wan2.1", 32, (17, 64, 96)),
    ("wan2.1", 96, (9, 64, 96)),
    ("wan2.2", 48, (9, 96, 128)),
)
MEMORY_FRAMES = (17, 65, 257, 1025)
MEMORY_SIDE = 128
TOLERANCE = 1e-4
FLAT = 1.05
RATE = 1e-4


def parity() -> Iterator[measurement.Line]:
    from experiments.benchmarks.peers import wan_autoencoder

    for family, variant in FAMILIES.items():
        full = autoencoder.VARIANTS[variant]
        for config in (wan_autoencoder.narrowed(full, REDUCED), full):
            pair = wan_autoencoder.make(config)
            run = jax.jit(pair.module.apply)
            for frames, height, width in PARITY:
                side = config.spatial_ratio
                pixels = wan_autoencoder.video((frames, height * side, width * side))
                theirs = pair.encode_and_decode(wan_autoencoder.channels_first(pixels))
                mean, decoded = map(wan_autoencoder.channels_last, theirs)
                ours: Any = run({"params": pair.params}, pixels)
                errors = {
                    "mean": measurement.relative_error(ours.mean, mean),
                    "decoded": measurement.relative_error(
                        jnp.clip(ours.video, -1, 1), decoded
                    ),
                }
                about = {"benchmark": "parity", "family": family}
                about |= {"width": config.width, "video": pixels.shape[1:4]}
                yield about | errors | {"ok": max(errors.values()) <= TOLERANCE}


def speed(repeats: int) -> Iterator[measurement.Line]:
    import torch  # pyright: ignore[reportMissingImports]

    from experiments.benchmarks.peers import wan_autoencoder

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    for family, width, shape in SPEED:
        full = autoencoder.VARIANTS[FAMILIES[family]]
        config = wan_autoencoder.narrowed(full, width)
        pair = wan_autoencoder.make(config)
        pixels = wan_autoencoder.video(shape)
        forward = flops.autoencoder_flops(config, video=shape)
        tasks = {
            "encode + decode": (_run_both(pair, pixels), forward),
            "training step": (_train_both(pair, pixels), flops.training(forward)),
        }
        for task, (calls, task_flops) in tasks.items():
            seconds = measurement.least_seconds(calls, repeats)
            yield {
                "benchmark": "speed",
                "family": family,
                "task": task,
                "width": width,
                "video": shape,
                "seconds": {name: round(s, 3) for name, s in seconds.items()},
                "ratio": round(seconds["soraflax"] / seconds["diffusers"], 3),
                "gigaflops_per_second": round(task_flops / seconds["soraflax"] / 1e9),
            }


def _run_both(pair: Any, pixels: np.ndarray) -> dict[str, Callable[[], Any]]:
    from experiments.benchmarks.peers import wan_autoencoder

    x = wan_autoencoder.channels_first(pixels)
    run = jax.jit(pair.module.apply)
    return {
        "diffusers": lambda: pair.encode_and_decode(x),
        "soraflax": lambda: jax.block_until_ready(run({"params": pair.params}, pixels)),
    }


def _train_both(pair: Any, pixels: np.ndarray) -> dict[str, Callable[[], Any]]:
    from experiments.benchmarks.peers import wan_autoencoder

    x = wan_autoencoder.channels_first(pixels)
    rule = wan_autoencoder.adamw(pair.theirs, rate=RATE)

    def theirs() -> None:
        rule.zero_grad(set_to_none=True)
        latent = pair.theirs.encode(x).latent_dist.mode()
        (pair.theirs.decode(latent).sample - x).square().mean().backward()
        rule.step()

    def loss(params: Any) -> jax.Array:
        result: Any = pair.module.apply({"params": params}, pixels)
        return jnp.mean(jnp.square(jnp.clip(result.video, -1, 1) - pixels))

    values = optimizer.OptimizerConfig(learning_rate=RATE, warmup=0, clip_norm=0.0)
    chain = optimizer.make_optimizer(values, steps=1000)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params: Any, state: Any) -> tuple[Any, Any]:
        changes, state = chain.update(jax.grad(loss)(params), state, params)
        return jax.tree.map(jnp.add, params, changes), state

    params = jax.tree.map(jnp.copy, pair.params)
    current = [params, jax.jit(chain.init)(params)]

    def ours() -> None:
        current[:] = update(*current)
        jax.block_until_ready(current)

    return {"diffusers": theirs, "soraflax": ours}


def memory() -> Iterator[measurement.Line]:
    """Each duration in a process of its own: a peak is of a whole process.

    Once as glibc allocates by default, and once with a fixed size above which blocks
    are mapped and given back: by default it grows with the blocks that are freed, and
    leaves holes.
    """
    for threshold in ("", "65536"):
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": threshold}
        if not threshold:
            del environment["MALLOC_MMAP_THRESHOLD_"]
        first = None
        for frames in MEMORY_FRAMES:
            peak = _peak_of(frames, environment)
            first = first or peak
            yield {
                "benchmark": "memory",
                "map_blocks_above": int(threshold) if threshold else "default",
                "frames": frames,
                "side": MEMORY_SIDE,
                "peak_mib": round(peak),
                "ratio": round(peak / first, 3),
                "ok": not threshold or peak <= FLAT * first,
            }


def _peak_of(frames: int, environment: dict[str, str]) -> float:
    """Peak memory of a fresh process that streams so many frames, MiB."""
    name = "experiments.benchmarks.autoencoder"
    command = [sys.executable, "-m", name, "--stream", str(frames)]
    process = subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment
    )
    return float(process.stdout.split()[-1])


def stream(frames: int) -> float:
    """Encode and decode so many frames lazily; the process's peak, MiB."""
    config = dataclasses.replace(autoencoder.VARIANTS["wan2_1"], width=16)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: 0.02 * rng.standard_normal(leaf.shape).astype(np.float32),
        abstract.autoencoder_shapes(config),
    )
    model = models.AutoencoderModel(config, params, model_io.digest(params))
    shape = (MEMORY_SIDE, MEMORY_SIDE, 3)
    video = (rng.uniform(-1, 1, shape).astype(np.float32) for _ in range(frames))
    count = sum(len(chunk) for chunk in streaming.reconstruct(model, video))
    if count != frames:
        raise RuntimeError(f"{count} of {frames} frames came back")
    return process_memory.peak_bytes() / 2**20


def quality() -> Iterator[measurement.Line]:
    from experiments.benchmarks import autoencoder_quality

    with tempfile.TemporaryDirectory() as folder:
        yield from autoencoder_quality.compare(pathlib.Path(folder) / "quality")


def main(argv: Sequence[str] | None = None) -> int:
    parser = measurement.make_parser("autoencoder", __doc__)
    add = parser.add_argument
    names = ("parity", "speed", "memory", "quality")
    add("--only", nargs="+", choices=names, default=names, metavar="NAME")
    add("--repeats", type=cli.positive_int, default=3)
    add("--stream", type=int, metavar="FRAMES", help="stream, print the peak in MiB")
    arguments = parser.parse_args(argv)
    if arguments.stream is not None:
        return cli.run_command("autoencoder", lambda: print(stream(arguments.stream)))
    parts = {
        "parity": parity,
        "speed": lambda: speed(arguments.repeats),
        "memory": memory,
        "quality": quality,
    }
    about = measurement.environment()
    return measurement.run_benchmark(
        "autoencoder",
        lambda: (line | about for name in arguments.only for line in parts[name]()),
    )


if __name__ == "__main__":
    sys.exit(main())
