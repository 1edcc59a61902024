"""Scenarios that several processes run together, gloo between them.

    python -m tests.experiments.processes SCENARIO RANK COUNT PORT FOLDER

Each process has two devices, and prints what it found as one line of JSON.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
MODULE = "tests.experiments.processes"
UNEVEN = 23  # clips that two processes do not pack into as many batches


def run(
    scenario: str, folder: pathlib.Path, *, count: int = 2, module: str = MODULE
) -> list[dict[str, Any]]:
    """What all processes found."""
    ended = end(scenario, folder, count=count, module=module)
    for status, _, errors in ended:
        assert status == 0, errors[-3000:]
    # Gloo writes lines of its own, the last of them as the process ends.
    lines = [[x for x in out.splitlines() if x[:1] == "{"] for _, out, _ in ended]
    return [json.loads(found[-1]) for found in lines]


def end(
    scenario: str, folder: pathlib.Path, *, count: int = 2, module: str = MODULE
) -> list[tuple[int, str, str]]:
    """Exit status, output and errors of all processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    words = [sys.executable, "-m", module, scenario]
    processes = [
        subprocess.Popen(
            [*words, str(rank), str(count), str(port), str(folder)],
            cwd=ROOT,
            env=os.environ | {"XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        said = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        (process.returncode, *texts)
        for process, texts in zip(processes, said, strict=True)
    ]


def checkpoints(folder: pathlib.Path) -> dict[str, Any]:
    """Two steps are saved and the second is damaged; process 1 sees no listing."""
    import jax
    from jax.experimental import multihost_utils

    from soraflax import sharding
    from soraflax.train import checkpoint, digests, optimizer, state
    from tests.train import toy

    mesh = sharding.make_mesh(fsdp=2, tensor=2)
    job = toy.job(mesh)
    chain = optimizer.make_optimizer(toy.OPTIMIZER, steps=10)
    current, places = state.create(
        job.init(), chain, shardings=job.shardings, mesh=mesh
    )
    rank, said, verified = jax.process_index(), [], []
    with checkpoint.Checkpointer(folder) as keeper:
        for step in (10, 20):
            data = toy.Data(position=step + rank)
            keeper.save(step, current, iterator=data, config=toy.IDENTITY)
    multihost_utils.sync_global_devices("saved")
    files = {step: digests.read(folder / step) for step in ("10", "20")}
    if rank == 0:
        path = folder / "20" / max(files["20"], key=lambda name: files["20"][name][0])
        path.write_bytes(path.read_bytes()[:-1])
    multihost_utils.sync_global_devices("damaged")
    problems = digests.problems

    def recorded(step: pathlib.Path, expected: Any) -> list[str]:
        verified.append([step.name, sorted(expected)])
        return problems(step, expected)

    digests.problems = recorded
    keeper = checkpoint.Checkpointer(folder, say=said.append)
    if rank == 1:
        keeper.saved.committed = lambda: []
    latest, data = keeper.saved.latest(), toy.Data()
    target = state.abstract(current, places)
    keeper.restore(target, iterator=data, config=toy.IDENTITY)
    keeper.close()
    return {
        "files": {step: sorted(names) for step, names in files.items()},
        "latest": latest,
        "position": data.position,
        "said": said,
        "verified": dict(verified),
    }


def stopping(folder: pathlib.Path) -> dict[str, Any]:
    """Process 1 alone gets SIGTERM, in an evaluation after step 2."""
    import signal
    import time

    from soraflax import sharding
    from soraflax.train import checkpoint
    from tests.train import toy

    asked: list[int] = []

    def evaluate(params: Any, *, check: Any) -> dict[str, float]:
        import jax

        if jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        for batch in range(600):
            asked.append(batch)
            check()
            time.sleep(0.02)
        return {}

    mesh = sharding.make_mesh(fsdp=4)
    job = toy.job(mesh, toy.Data(rows=4), evaluate=evaluate)
    stopped = toy.fit(job, folder, steps=6, evaluate_every=2)
    with checkpoint.Checkpointer(folder / "checkpoints") as keeper:
        latest = keeper.saved.latest()
    return {"step": int(stopped.step), "asked": len(asked), "latest": latest}


def killed(folder: pathlib.Path) -> dict[str, Any]:
    """Process 1 is killed where it reads its batch of step 2; the others wait."""
    import signal

    return _faulty(folder, lambda: os.kill(os.getpid(), signal.SIGKILL))


def stalling(folder: pathlib.Path) -> dict[str, Any]:
    """Process 1 waits for ever for its batch of step 2, the others for it."""
    import time

    return _faulty(folder, lambda: time.sleep(3600))


def sound(folder: pathlib.Path) -> dict[str, Any]:
    """The same run without a fault, or what is left of it."""
    return _faulty(folder, lambda: None, stall_minutes=0.0)


def _faulty(
    folder: pathlib.Path, fault: Callable[[], Any], *, stall_minutes: float = 0.2
) -> dict[str, Any]:
    import jax

    from soraflax import sharding
    from tests.train import toy

    class Data(toy.Data):
        def __next__(self) -> Any:
            if jax.process_index() == 1 and self.position == 3:
                fault()
            return super().__next__()

    count = jax.process_count()
    mesh = sharding.make_mesh(data=count, fsdp=2)
    job = toy.job(mesh, Data(rows=16 // count))
    ended = toy.fit(job, folder, checkpoint_every=1, stall_minutes=stall_minutes)
    return {"step": int(ended.step)}


def elastic(folder: pathlib.Path) -> dict[str, Any]:
    """Two more steps on packed rows, by however many processes; six by one alone."""
    import hashlib

    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    from data_pipelines import pipeline
    from soraflax import sharding
    from tests.data_pipelines import clip_data, test_pipeline
    from tests.train import toy

    count, seen = jax.process_count(), []

    class Data:
        """Means over the tokens of each row; the clips of each batch are kept."""

        def __init__(self) -> None:
            self.batches = pipeline.make_batches(
                test_pipeline.config(rows=24 // count, lanes=12, open_rows=2),
                host=pipeline.HostShard(jax.process_index(), count),
                encode=clip_data.encode_text,
                latents=[clip_data.Latents(400)],
            )
            self.get_state = self.batches.get_state
            self.set_state = self.batches.set_state
            self.set_states = self.batches.set_states

        def __next__(self) -> dict[str, np.ndarray]:
            packed = next(self.batches)
            seen.append(test_pipeline.clips_of(packed))
            means = np.mean(packed.tokens, axis=1)[:, :8] / 100
            return {"x": means.astype(np.float32)}

    def digest(state: Any) -> str:
        arrays = multihost_utils.process_allgather(state, tiled=True)
        total = hashlib.sha256()
        for leaf in jax.tree.leaves(arrays):
            total.update(np.ascontiguousarray(leaf).tobytes())
        return total.hexdigest()

    mesh = sharding.make_mesh(data=count, fsdp=2)
    data = Data()
    course = {"steps": 6, "log_every": 1}
    steps = [int(p.name) for p in folder.glob("checkpoints/[0-9]*")]
    began = max(steps, default=0)
    before = None
    if began:  # restored, and left as it is
        restored = toy.fit(toy.job(mesh, data), folder, stop_at=began, **course)
        before = digest(restored)
    last = 6 if count == 1 else began + 2
    ended = toy.fit(toy.job(mesh, data), folder, stop_at=last, **course)
    data.batches.close()
    return {
        "began": began,
        "clips": seen[: last - began],
        "before": before,
        "after": digest(ended),
    }


def ending(folder: pathlib.Path) -> dict[str, Any]:
    """One pass over clips of which one process has fewer batches, in three lives."""
    import jax
    import numpy as np

    from data_pipelines import pipeline
    from soraflax import sharding
    from soraflax.ops import packing
    from soraflax.train import common_end, loop
    from tests.data_pipelines import clip_data, test_pipeline
    from tests.train import toy

    count, seen = jax.process_count(), []
    settings = test_pipeline.config(rows=1, passes=1)

    class Data(common_end.CommonEnd):
        """As of `elastic`; rows are blank at the end."""

        def __init__(self) -> None:
            self.batches = pipeline.make_batches(
                settings,
                host=pipeline.HostShard(jax.process_index(), count),
                encode=clip_data.encode_text,
                latents=[clip_data.Latents(UNEVEN)],
            )
            zeros = packing.Packed.zeros(settings.row, patch_size=16, text_width=None)
            super().__init__(self.batches, lambda: zeros)

        def __next__(self) -> dict[str, np.ndarray]:
            packed = super().__next__()
            seen.append(test_pipeline.clips_of(packed))
            means = np.mean(packed.tokens, axis=1)[:, :8] / 100
            return {"x": means.astype(np.float32)}

    mesh = sharding.make_mesh(data=count, fsdp=1, tensor=2)
    clips, said, steps, began = [], [], [], 0
    lives = ({"steps": 99, "stop_at": 3}, {"steps": 99}, {"steps": 4})
    for course in lives:
        seen.clear()
        data = Data()
        try:
            ended = toy.fit(toy.job(mesh, data), folder, log_every=9, **course)
            steps.append(int(ended.step))
        except loop.DataEndedError as error:
            said.append(str(error))
            steps.append(max(int(p.name) for p in folder.glob("checkpoints/[0-9]*")))
        data.batches.close()
        clips += seen[: steps[-1] - began]
        began = steps[-1]
    return {"clips": clips, "said": said, "steps": steps}


def models(folder: pathlib.Path) -> dict[str, Any]:
    """Parameters are read by shards and written in pieces, none compared or whole."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    from soraflax import sharding
    from soraflax.pretrained import io as model_io
    from soraflax.pretrained import slices

    mesh = sharding.make_mesh(fsdp=4)
    values = np.arange(6 * 8 * 4, dtype=np.float32).reshape(6, 8, 4)
    params = {"stack": values, "bias": values[0, 0]}
    places = {
        "stack": jax.NamedSharding(mesh, jax.P(None, "fsdp")),
        "bias": jax.NamedSharding(mesh, jax.P()),
    }
    saved = model_io.save_model(folder / "base", params, config={})
    multihost_utils.sync_global_devices("saved")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("an array of the host is compared over processes")

    compare, multihost_utils.assert_equal = multihost_utils.assert_equal, refuse
    got = model_io.load_sharded(folder / "base", like=params, shardings=places)
    placed = slices.place(values, places["stack"])
    same = all(
        np.array_equal(shard.data, values[shard.index])
        for array in (got["stack"], placed)
        for shard in array.addressable_shards
    )
    gathered: list[int] = []
    gather = slices._gather

    def recorded(*words: Any) -> Any:
        def call(x: Any, start: int) -> Any:
            piece = gather(*words)(x, start)
            gathered.append(piece.nbytes)
            return piece

        return call

    slices._gather, slices.PIECE_BYTES = recorded, values.nbytes // 3
    again = model_io.save_model(folder / "again", got, config={})
    multihost_utils.assert_equal = compare
    multihost_utils.sync_global_devices("written")
    loaded, _ = model_io.load_model(folder / "again")
    return {
        "same": same and bool(np.array_equal(loaded["stack"], values)),
        "digests": [saved, again],
        "gathered": gathered,
        "whole": values.nbytes,
        "drafts": [p.name for p in folder.iterdir() if p.name.startswith(".")],
    }


def main(*words: str, scenarios: Mapping[str, Any]) -> None:
    """Run a scenario: its name, rank, count, port and folder."""
    scenario, rank, count, port, folder = words
    from soraflax.train import cluster

    cluster.start(
        cluster.ClusterConfig(
            coordinator=f"127.0.0.1:{port}",
            count=int(count),
            id=int(rank),
            heartbeat_seconds=10,
        )
    )
    found = json.dumps(scenarios[scenario](pathlib.Path(folder)))
    sys.stdout.flush()
    os.write(1, f"\n{found}\n".encode())  # at once: Gloo writes into the same pipe


if __name__ == "__main__":
    main(*sys.argv[1:], scenarios=globals())
