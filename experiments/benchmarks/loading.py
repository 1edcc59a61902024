"""Memory while a model is loaded, exported and trained further, as JSON lines.

    python -m experiments.benchmarks.loading [--depth 30 --devices 8]

A transformer of Wan 2.1 1.3B's width, in fresh processes:

    mesh    Wan's files onto a mesh
    host    Wan's files as arrays of numpy
    load    our file onto a mesh
    start   of a finetune: the frozen base and the adapters, on a mesh
    merge   export of that finetune: the base with its adapters
    full    start of a finetune of all parameters: these, two moments and an average
    export  parameters on a mesh to a file

Devices are fake, and their memory is the host's own. `ratio` is the peak of the
process's own memory, devices included and mapped files left out, over P, the parameters
in float32; `device_ratio` is the most that a device held over what it may: its shards
and one tensor, the largest. `ok` is the issue's target: 1.2 P, and 1. Of `full`, whose
state is 4 P, it is 1.2 of that, 4.8 P, and 1; and `live_ratio` at most 4.1: the most
that all devices held, over what the parameters alone take there, replicas counted in
both, so that a second copy of the parameters does not pass.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.benchmarks import measurement
from experiments.stages.finetune import export as finetune_export
from experiments.stages.finetune import job
from soraflax import config as config_lib
from soraflax import flops, sharding
from soraflax.cli import parser as cli
from soraflax.nn import dit, lora
from soraflax.pretrained import abstract, arrays
from soraflax.pretrained import io as model_io
from soraflax.train import optimizer, state
from soraflax.weights import files, wan

BOUND = 1.2
STATE = 4  # P of a training state: parameters, two moments, their average
LIVE = 4.1
LORA = lora.LoraConfig()
OURS = ("load", "start", "merge", "full", "export")
WANS = ("mesh", "host")
FILE = 300 * 2**20


def sizes(depth: int) -> dit.DiTConfig:
    return dataclasses.replace(dit.WAN2_1_T2V_1_3B, depth=depth)


def own_bytes() -> int:
    """Anonymous memory of this process in bytes, mapped files left out (Linux)."""
    status = pathlib.Path("/proc/self/status").read_text()
    (line,) = (s for s in status.splitlines() if s.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


@dataclasses.dataclass
class Peaks:
    """The most that was held at once, in bytes, above what was at the start.

    Attributes:
      host: memory of the process, that of fake devices included.
      device: live arrays of the device that held most.
      live: live arrays of all devices.
    """

    host: int = 0
    device: int = 0
    live: int = 0


def device_bytes(held: Sequence[jax.Array]) -> dict[Any, int]:
    """Bytes of arrays on each device."""
    buffers: dict[tuple[Any, int], int] = {}
    for array in held:
        with contextlib.suppress(RuntimeError):  # deleted meanwhile
            for shard in array.addressable_shards:
                key = shard.device, shard.data.unsafe_buffer_pointer()
                buffers[key] = max(buffers.get(key, 0), shard.data.nbytes)
    found: dict[Any, int] = defaultdict(int)
    for (device, _), size in buffers.items():
        found[device] += size
    return found


@contextlib.contextmanager
def watch() -> Iterator[Peaks]:
    """The peaks inside, looked at every few milliseconds, and at the end.

    Arrays that live at the start do not count, and are held until the end. Memory of
    the host is the whole process's: in one that frees some meanwhile, it reads low.
    """
    before = jax.live_arrays()
    known = {id(array) for array in before}
    start, peaks, stop = own_bytes(), Peaks(), threading.Event()

    def look() -> None:
        peaks.host = max(peaks.host, own_bytes() - start)
        live = device_bytes([a for a in jax.live_arrays() if id(a) not in known])
        peaks.device = max(peaks.device, *live.values(), 0)
        peaks.live = max(peaks.live, sum(live.values()))

    def poll() -> None:
        while not stop.wait(0.005):
            look()

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield peaks
        look()  # at what is held in the end
    finally:
        stop.set()
        thread.join()
        before.clear()


def load(folder: str, *, where: str) -> dict[str, Any]:
    """Load Wan's files onto the mesh or the host; seconds, bytes and reads."""
    mesh = sharding.make_mesh(fsdp=-1) if where == "mesh" else None
    reads: list[int] = []
    read = files.Tensor.read

    def counted(self: files.Tensor, index: tuple[slice, ...]) -> np.ndarray:
        part = read(self, index)
        reads.append(part.nbytes)
        return part

    files.Tensor.read = counted
    start = time.perf_counter()
    with watch() as peaks:
        config, params = wan.load_transformer(folder, mesh=mesh)
        jax.block_until_ready(params)
    total = 4 * flops.transformer_parameters(config)
    return line(where, peaks, config=config, held=params, start=start) | {
        "read": round(sum(reads) / total, 3),
        "largest_read_mib": round(max(reads) / 2**20, 1),
    }


def ours(folder: str, *, where: str) -> dict[str, Any]:
    """Load, begin a finetune of either kind, export it, or export all parameters."""
    record = model_io.model_config(folder)["model"]["transformer"]
    config = config_lib.to_dataclass(record, dit.DiTConfig, path="transformer")
    mesh = sharding.make_mesh(fsdp=-1)
    adapt = LORA if where in ("start", "merge") else None
    # All that `init_params` takes of a run and of its base.
    run: Any = types.SimpleNamespace(base=folder, lora=adapt, seed=0)
    base: Any = types.SimpleNamespace(config=types.SimpleNamespace(transformer=config))
    start = time.perf_counter()
    with watch() as peaks:
        trainable = job.init_params(run, base, mesh=mesh)
        params = jax.block_until_ready(trainable.initial.make())
        if where == "full":
            params = jax.block_until_ready(
                first_state(params, trainable.initial.shardings, mesh=mesh)
            )
        if where in ("merge", "export"):
            start, peaks.host, peaks.device = time.perf_counter(), 0, 0
            written = params
            if adapt is not None:
                written = finetune_export.merged(trainable.base, params, config=adapt)
            with tempfile.TemporaryDirectory(dir=pathlib.Path(folder).parent) as target:
                model_io.save_model(f"{target}/model", written, config={})
    held = (params, trainable.base)
    made = line(where, peaks, config=config, held=held, start=start)
    if where == "full":
        made = with_live(made, peaks, params=jax.tree.leaves(params.params))
    return made


def first_state(params: Any, shardings: Any, *, mesh: Mesh) -> state.TrainState:
    """What `train.opening` makes of a job's first parameters, which it takes."""
    rule = optimizer.OptimizerConfig()
    chain = optimizer.make_optimizer(rule, steps=1, shardings=shardings)
    with jax.set_mesh(mesh):
        return state.create(params, chain, shardings=shardings, mesh=mesh)[0]


def line(
    where: str, peaks: Peaks, *, config: dit.DiTConfig, held: Any, start: float
) -> dict[str, Any]:
    """The figures of a way, of what was `held` in its end."""
    total = 4 * flops.transformer_parameters(config)
    shapes = jax.tree.leaves(abstract.transformer_shapes(config))
    on_host = where == "host"
    own = [leaf for leaf in jax.tree.leaves(held) if isinstance(leaf, jax.Array)]
    shards = max(device_bytes(own).values(), default=0)
    may = shards + max(4 * math.prod(leaf.shape) for leaf in shapes)
    stays = STATE if where == "full" else 1
    ok = peaks.host <= BOUND * stays * total
    made = {
        "figure": "loading",
        "where": where,
        "seconds": round(time.perf_counter() - start, 2),
        "parameters": total // 4,
        "gib": round(total / 2**30, 3),
        "peak_gib": round(peaks.host / 2**30, 3),
        "ratio": round(peaks.host / total, 3),
        "ok": ok and (on_host or peaks.device <= may),
    }
    if on_host:
        return made
    return made | {
        "device_shards_gib": round(shards / 2**30, 3),
        "device_peak_gib": round(peaks.device / 2**30, 3),
        "device_ratio": round(peaks.device / may, 3),
    }


def with_live(
    made: dict[str, Any], peaks: Peaks, *, params: Sequence[jax.Array]
) -> dict[str, Any]:
    """A line of `full` with live arrays against their target.

    Args:
      made: as of `line`.
      peaks: of the start.
      params: the parameters of the state, on their devices.
    """
    ratio = peaks.live / sum(device_bytes(params).values())
    return made | {"live_ratio": round(ratio, 3), "ok": made["ok"] and ratio <= LIVE}


def write_wan(folder: pathlib.Path, config: dit.DiTConfig) -> None:
    """A transformer in Wan's layout, in several files, of one value."""
    value = np.float32(0.01)
    shapes = abstract.transformer_shapes(config)
    params = jax.tree.map(lambda a: np.broadcast_to(value, a.shape), shapes)
    wan.save_transformer(folder, params, config=config, max_shard_bytes=FILE)


def write_ours(folder: pathlib.Path, config: dit.DiTConfig) -> None:
    """The same as the transformer of a video model in our layout."""

    def lazy(shape: tuple[int, ...]) -> arrays.LazyArray:
        def parts() -> Iterator[np.ndarray]:
            for _ in range(shape[0] if shape else 1):
                yield np.full(shape[1:], 0.01, np.float32)

        return arrays.LazyArray(shape, np.dtype(np.float32), parts)

    params = jax.tree.map(lambda a: lazy(a.shape), abstract.transformer_shapes(config))
    record = {"kind": "video", "model": {"transformer": config_lib.to_dict(config)}}
    model_io.save_model(folder, params, config=record)


def lines(depth: int, devices: int) -> Iterator[measurement.Line]:
    """A line for each way, a process each."""
    config = sizes(depth)
    about = measurement.environment() | {"devices": devices}
    flag = f" --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + flag}
    for write, ways in ((write_wan, WANS), (write_ours, OURS)):
        with tempfile.TemporaryDirectory() as parent:
            folder = pathlib.Path(parent, "model")
            write(folder, config)
            for where in ways:
                name = "experiments.benchmarks.loading"
                command = [sys.executable, "-m", name, "--load", str(folder), where]
                process = subprocess.run(
                    command, stdout=subprocess.PIPE, text=True, env=environment
                )
                if not process.stdout:
                    raise RuntimeError(f"{where}: ended with {process.returncode}")
                yield json.loads(process.stdout) | about


def main(argv: Sequence[str] | None = None) -> int:
    parser = measurement.make_parser("loading", __doc__)
    add = parser.add_argument
    add("--depth", type=cli.positive_int, default=30, help="blocks; Wan's model has 30")
    add("--devices", type=cli.positive_int, default=8, help="devices of the mesh")
    add("--load", nargs=2, metavar=("FOLDER", "WHERE"), help="in this process")
    options = parser.parse_args(argv)
    if options.load:
        folder, where = options.load
        measure = load if where in WANS else ours
        return measurement.run_benchmark(
            "loading", lambda: [measure(folder, where=where)]
        )
    return measurement.run_benchmark(
        "loading", lambda: lines(options.depth, options.devices)
    )


if __name__ == "__main__":
    sys.exit(main())
