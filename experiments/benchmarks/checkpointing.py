"""What checkpoints cost, and what the loop costs beside its steps, as JSON lines.

    python -m experiments.benchmarks.checkpointing [--megabytes 1024] \\
        [--processes 1 2 4] [--folder DIR] [--repeats 3]

For each number of processes (gloo between them) a state of that size, spread over all
of them, is saved in DIR, verified by a new reader, and restored. `blocking` is how long
`save` holds up the run, `save` until the step is committed with its digests; all are
seconds per GB of the state, the least of the repeats. `ok` says that `save` blocks for
less than 5 % of its duration.

The last line is the loop: steps of 100 ms, as long as nothing else runs, and what a
step takes beyond that; `ok` is less than 2 %. Give it a quiet machine.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.benchmarks import measurement
from soraflax import sharding
from soraflax.cli import parser as cli
from soraflax.train import (
    checkpoint,
    cluster,
    goodput,
    loop,
    metrics,
    optimizer,
    saved_steps,
    state,
)

MODULE = "experiments.benchmarks.checkpointing"
BLOCKING = 0.05  # of the duration of a save
OVERHEAD = 0.02  # of a step
STEP_SECONDS = 0.1
IDENTITY = {"benchmark": "checkpointing"}
OPTIMIZER = optimizer.OptimizerConfig(name="adamw", learning_rate=1e-3, warmup=1)
COPIES = 4  # of the parameters in a state: themselves, two moments, the average


@dataclasses.dataclass
class Counted(Iterator[dict[str, np.ndarray]]):
    """Batches of one number; the position is how many were read."""

    position: int = 0

    def __next__(self) -> dict[str, np.ndarray]:
        self.position += 1
        return {"x": np.ones((jax.local_device_count(), 1), np.float32)}

    def get_state(self) -> dict[str, int]:
        return {"position": self.position}

    def set_state(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def make_job(size: int, *, seconds: float = 0.0) -> loop.TrainJob:
    """A run of `size` parameters, each step of which takes at least `seconds`."""
    mesh = sharding.make_mesh()
    place = {"w": NamedSharding(mesh, P("fsdp"))}
    shapes = {"w": jax.ShapeDtypeStruct((size,), jnp.float32)}

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict]:
        value = jnp.mean(params["w"]) * jnp.mean(batch["x"])
        if seconds:
            scalar = jax.ShapeDtypeStruct((), jnp.float32)
            value += jax.pure_callback(_wait(seconds), scalar, key[0])
        return value, {}

    return loop.TrainJob(
        name="benchmark",
        loss=loss,
        init=jax.jit(lambda: {"w": jnp.ones(size)}, out_shardings=place),
        shapes=shapes,
        shardings=place,
        mesh=mesh,
        key=jnp.zeros(2, jnp.uint32),
        iterator=Counted(),
        step_cost=lambda batch: metrics.StepCost(1.0, 1.0, 1.0),
        identity=IDENTITY,
    )


def _wait(seconds: float) -> Any:
    """What a device does in a step: nothing of the host's cores is needed for it."""

    def wait(_: Any) -> np.ndarray:
        time.sleep(seconds)
        return np.zeros((), np.float32)

    return wait


def measure_checkpoints(folder: pathlib.Path, *, megabytes: int, repeats: int) -> Any:
    """The least seconds of each part, in this process of a group of them."""
    size = megabytes * 2**20 // 4 // COPIES
    size -= size % jax.device_count()
    job = make_job(size)
    chain = optimizer.make_optimizer(OPTIMIZER, steps=10)
    places = {"shardings": job.shardings, "mesh": job.mesh}
    current, current_places = state.create(job.init(), chain, **places)
    target = state.abstract(current, current_places)
    least: dict[str, float] = {}
    for repeat in range(repeats + 1):  # the first warms up
        if jax.process_index() == 0:
            shutil.rmtree(folder, ignore_errors=True)
        saved_steps.from_first(lambda: "empty")
        seconds = _once(folder, current, target=target)
        if repeat:
            least = {n: min(s, least.get(n, s)) for n, s in seconds.items()}
    gigabytes = COPIES * size * 4 / 1e9
    return {"gigabytes": round(gigabytes, 3)} | {
        f"{name}_seconds_per_gb": round(s / gigabytes, 4) for name, s in least.items()
    }


def _once(folder: pathlib.Path, current: Any, *, target: Any) -> dict[str, float]:
    clock, seconds = time.perf_counter, {}
    with checkpoint.Checkpointer(folder) as keeper:
        start = clock()
        keeper.save(1, current, iterator=Counted(), config=IDENTITY)
        seconds["blocking"] = clock() - start
        keeper.wait()
        seconds["save"] = clock() - start
    with checkpoint.Checkpointer(folder) as keeper:
        start = clock()
        keeper.saved.last_whole()
        seconds["verify"] = clock() - start
        start = clock()
        restored = keeper.restore(target, iterator=Counted(), config=IDENTITY)
        jax.block_until_ready(restored)
        seconds["restore"] = clock() - start
    return seconds


def by_processes(count: int, words: Sequence[str]) -> measurement.Line:
    """What the first of `count` processes measured.

    Raises:
      ValueError: one of them failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", MODULE, *words, "--coordinator", address]
    processes = [
        subprocess.Popen(
            [*command, "--rank", f"{rank}/{count}"], stdout=subprocess.PIPE, text=True
        )
        for rank in range(count)
    ]
    try:
        said = [process.communicate()[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    if any(process.returncode for process in processes):
        raise ValueError(f"{count} processes: one of them failed")
    return json.loads(said[0].splitlines()[-1])


def measure_loop(folder: pathlib.Path, *, steps: int = 100) -> measurement.Line:
    """Seconds of a step beyond those that it takes by itself."""
    config = loop.TrainConfig(steps=steps, log_every=20, checkpoint_every=0)
    job = make_job(1024, seconds=STEP_SECONDS)
    start = time.perf_counter()
    loop.fit(job, workdir=folder, config=config, optimizer_config=OPTIMIZER)
    whole = time.perf_counter() - start
    spent = goodput.read(folder).seconds
    # Of the first step, mostly compilation, and of the end nothing is of the loop.
    outside = sum(spent[name] for name in ("compile", "restore", "save", "evaluate"))
    lines = [line for line in metrics.read(folder) if line["step"] > config.log_every]
    each = float(np.median([line["seconds_per_step"] for line in lines]))
    overhead = (each - STEP_SECONDS) / STEP_SECONDS
    return {
        "benchmark": "loop",
        "step_seconds": STEP_SECONDS,
        "seconds_per_step": round(each, 5),
        "overhead": round(overhead, 4),
        "input_and_other_seconds": round(whole - outside - spent["step"], 3),
        "ok": overhead < OVERHEAD,
    }


def lines(args: argparse.Namespace) -> Iterator[measurement.Line]:
    """All measurements."""
    place = measurement.environment()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        words = ["--megabytes", str(args.megabytes), "--repeats", str(args.repeats)]
        words += ["--folder", folder]
        for count in args.processes:
            found = by_processes(count, words)
            share = found["blocking_seconds_per_gb"] / found["save_seconds_per_gb"]
            head = {"benchmark": "checkpoint", "processes": count}
            blocks = {"blocking_share": round(share, 4), "ok": share < BLOCKING}
            yield head | found | blocks | place
        yield measure_loop(pathlib.Path(folder) / "loop") | place


def _in_group(args: argparse.Namespace) -> int:
    """This process as one of a group."""
    rank, count = map(int, args.rank.split("/"))
    given = {"coordinator": args.coordinator, "count": count, "id": rank}
    cluster.start(cluster.ClusterConfig(**given))
    found = measure_checkpoints(
        pathlib.Path(args.folder) / "checkpoints",
        megabytes=args.megabytes,
        repeats=args.repeats,
    )
    print(json.dumps(found), flush=True)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = measurement.make_parser("checkpointing", __doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add(
        "--megabytes",
        type=cli.positive_int,
        default=1024,
        help="of the state (default: 1024)",
    )
    add("--processes", type=cli.positive_int, nargs="+", default=[1, 2, 4], metavar="N")
    add("--folder", help="where it is written (default: the system's)")
    add("--repeats", type=cli.positive_int, default=3)
    add("--rank", help=argparse.SUPPRESS)
    add("--coordinator", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.rank:
        return _in_group(args)
    return measurement.run_benchmark("checkpointing", lambda: lines(args))


if __name__ == "__main__":
    sys.exit(main())
