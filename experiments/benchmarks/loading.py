"""Memory of the host while Wan's weights are loaded, as JSON lines.

    python -m experiments.benchmarks.loading [--depth 8 --devices 8]

Writes a transformer of Wan 2.1 1.3B's width in several files, and loads it in fresh
processes: onto a mesh (of fake devices, whose memory is the host's own), and as arrays
of numpy. `ratio` is the peak of the process's own memory, mapped files left out, over
the parameters in float32; a host that held them twice would have 2. Exits with 1 where
it is above 1.25.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import measurement
from soraflax import flops, sharding
from soraflax.cli import parser as cli
from soraflax.nn import dit
from soraflax.pretrained import abstract
from soraflax.weights import files, wan

BOUND = 1.25
FILE = 300 * 2**20


def sizes(depth: int) -> dit.DiTConfig:
    return dataclasses.replace(dit.WAN2_1_T2V_1_3B, depth=depth)


def own_bytes() -> int:
    """Anonymous memory of this process in bytes, mapped files left out (Linux)."""
    status = pathlib.Path("/proc/self/status").read_text()
    (line,) = (s for s in status.splitlines() if s.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


@contextlib.contextmanager
def watch() -> Iterator[list[int]]:
    """A list whose last entry is the peak of `own_bytes` above the start, inside."""
    start, peak, stop = own_bytes(), [0], threading.Event()

    def poll() -> None:
        while not stop.wait(0.005):
            peak[0] = max(peak[0], own_bytes() - start)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def load(folder: str, *, where: str) -> dict[str, Any]:
    """Load onto the mesh or the host; seconds, bytes and reads."""
    mesh = sharding.make_mesh(fsdp=-1) if where == "mesh" else None
    reads: list[int] = []
    read = files.Tensor.read

    def counted(self: files.Tensor, index: tuple[slice, ...]) -> np.ndarray:
        part = read(self, index)
        reads.append(part.nbytes)
        return part

    files.Tensor.read = counted
    start = time.perf_counter()
    with watch() as peak:
        config, params = wan.load_transformer(folder, mesh=mesh)
        jax.block_until_ready(params)
    total = 4 * flops.transformer_parameters(config)
    return {
        "figure": "loading",
        "where": where,
        "seconds": round(time.perf_counter() - start, 2),
        "parameters": total // 4,
        "gib": round(total / 2**30, 3),
        "peak_gib": round(peak[0] / 2**30, 3),
        "ratio": round(peak[0] / total, 3),
        "read": round(sum(reads) / total, 3),
        "largest_read_mib": round(max(reads) / 2**20, 1),
        "ok": peak[0] <= BOUND * total,
    }


def lines(depth: int, devices: int) -> Iterator[measurement.Line]:
    """A line for a mesh of so many devices, and one for the host, a process each."""
    config = sizes(depth)
    about = measurement.environment() | {"devices": devices}
    flag = f" --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + flag}
    with tempfile.TemporaryDirectory() as folder:
        shapes = abstract.transformer_shapes(config)
        params = jax.tree.map(lambda a: np.full(a.shape, 0.01, np.float32), shapes)
        wan.save_transformer(folder, params, config=config, max_shard_bytes=FILE)
        del params
        for where in ("mesh", "host"):
            name = "experiments.benchmarks.loading"
            command = [sys.executable, "-m", name, "--load", folder, where]
            process = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, env=environment
            )
            yield json.loads(process.stdout) | about


def main(argv: Sequence[str] | None = None) -> int:
    parser = measurement.make_parser("loading", __doc__)
    add = parser.add_argument
    add("--depth", type=cli.positive_int, default=8, help="blocks; Wan's model has 30")
    add("--devices", type=cli.positive_int, default=8, help="devices of the mesh")
    add("--load", nargs=2, metavar=("FOLDER", "WHERE"), help="in this process")
    options = parser.parse_args(argv)
    if options.load:
        folder, where = options.load
        return measurement.run_benchmark("loading", lambda: [load(folder, where=where)])
    return measurement.run_benchmark(
        "loading", lambda: lines(options.depth, options.devices)
    )


if __name__ == "__main__":
    sys.exit(main())
