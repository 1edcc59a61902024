"""What the host holds while Wan's weights are loaded, as JSON lines.

    python -m experiments.benchmarks.loading [--depth 8 --devices 8]

Writes a transformer of Wan 2.1 1.3B's width in several files, and loads it in fresh
processes: onto a mesh (of fake devices, whose memory is the host's own), and as arrays
of numpy. `ratio` is the peak of the process's own memory, mapped files left out, over
the parameters in float32; a host that held them twice would have 2. Exits with 1 where
it is above 1.25.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from soraflax import flops, sharding
from soraflax.nn import dit
from soraflax.pretrained import models
from soraflax.weights import files, wan

BOUND = 1.25
FILE = 300 * 2**20


def sizes(depth: int) -> dit.DiTConfig:
    return dataclasses.replace(dit.WAN2_1_T2V_1_3B, depth=depth)


def own_bytes() -> int:
    """Of this process's memory, what is no file's (Linux)."""
    status = pathlib.Path("/proc/self/status").read_text()
    (line,) = (s for s in status.splitlines() if s.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


@contextlib.contextmanager
def watch() -> Iterator[list[int]]:
    """A list whose last entry is the peak of `own_bytes` above the start, inside."""
    start, peak, done = own_bytes(), [0], threading.Event()

    def poll() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], own_bytes() - start)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def load(folder: str, *, where: str) -> dict[str, Any]:
    """Load, and say what it took."""
    mesh = sharding.make_mesh(fsdp=-1) if where == "mesh" else None
    reads: list[int] = []
    read = files.Tensor.read

    def counted(self: files.Tensor, index: tuple[slice, ...]) -> np.ndarray:
        part = read(self, index)
        reads.append(part.nbytes)
        return part

    files.Tensor.read = counted
    began = time.perf_counter()
    with watch() as peak:
        config, params = wan.load_transformer(folder, mesh=mesh)
        jax.block_until_ready(params)
    total = 4 * flops.transformer_parameters(config)
    return {
        "figure": "loading",
        "where": where,
        "seconds": round(time.perf_counter() - began, 2),
        "parameters": total // 4,
        "gib": round(total / 2**30, 3),
        "peak_gib": round(peak[0] / 2**30, 3),
        "ratio": round(peak[0] / total, 3),
        "read": round(sum(reads) / total, 3),
        "largest_read_mib": round(max(reads) / 2**20, 1),
        "ok": peak[0] <= BOUND * total,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--depth", type=int, default=8, help="blocks; 30 is the whole model")
    add("--devices", type=int, default=8, help="of the mesh")
    add("--load", nargs=2, metavar=("FOLDER", "WHERE"), help="in this process")
    options = parser.parse_args(argv)
    if options.load:
        print(json.dumps(load(options.load[0], where=options.load[1])))
        return
    config = sizes(options.depth)
    about = {"machine": f"{platform.machine()} x {len(os.sched_getaffinity(0))}"}
    about |= {"jax": jax.__version__, "devices": options.devices}
    flag = f" --xla_force_host_platform_device_count={options.devices}"
    environment = os.environ | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + flag}
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        shapes = models.transformer_shapes(config)
        params = jax.tree.map(lambda a: np.full(a.shape, 0.01, np.float32), shapes)
        wan.save_transformer(folder, params, config=config, most=FILE)
        del params
        for where in ("mesh", "host"):
            name = "experiments.benchmarks.loading"
            command = [sys.executable, "-m", name, "--load", folder, where]
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, env=environment
            )
            line = json.loads(done.stdout)
            print(json.dumps(line | about), flush=True)
            failed |= not line["ok"]
    sys.exit(failed)


if __name__ == "__main__":
    main()
