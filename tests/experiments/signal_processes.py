"""Scenarios in which one of two processes is asked to stop; see `processes`."""

import os
import pathlib
import sys
from typing import Any

from tests.experiments import processes

MODULE = "tests.experiments.signal_processes"


def restoring(folder: pathlib.Path) -> dict[str, Any]:
    """Process 1 alone gets SIGTERM while a step is verified, a file at a time."""
    import time

    from soraflax import sharding
    from soraflax.train import checkpoint, digests, saved_steps
    from tests.train import toy

    def life() -> int:
        job = toy.job(sharding.make_mesh(fsdp=4), toy.Data(rows=4))
        return int(toy.fit(job, folder, stop_at=2).step)

    problems, rounds, read = digests.problems, [], []
    life()
    saved_steps.ROUND = 1
    restore = checkpoint._StateHandler.restore

    def slowly(step: Any, expected: Any) -> list[str]:
        _terminate_second()
        rounds.append(len(expected))
        time.sleep(1)
        return problems(step, expected)

    def recorded(self: Any, *words: Any, **named: Any) -> Any:
        read.append(1)
        return restore(self, *words, **named)

    digests.problems, checkpoint._StateHandler.restore = slowly, recorded
    said = ""
    try:
        life()
    except KeyboardInterrupt as stop:
        said = str(stop)
    files = digests.read(folder / "checkpoints" / "2")
    found = {"rounds": len(rounds), "files": len(files) // 2, "read": len(read)}
    return {"said": said} | found


def describing(folder: pathlib.Path) -> dict[str, Any]:
    """Process 1 alone gets SIGTERM while the first looks at the clips of an export."""
    import time
    import types

    import numpy as np

    from experiments.stages.video import export

    began = time.monotonic()
    _terminate_second_after(3)
    export.measure_data = lambda *_: time.sleep(250)
    named: Any = dict.fromkeys(("config", "encoder", "text", "params", "workdir"))
    source = types.SimpleNamespace(std=np.ones(4, np.float32))
    data: Any = types.SimpleNamespace(deviation=1.0, captions=None)
    said = ""
    try:
        export.export(named.pop("config"), data, latents=[source], **named)
    except KeyboardInterrupt as stop:
        said = str(stop)
    return {"said": said, "soon": time.monotonic() - began < 100}


def describing_fails(folder: pathlib.Path) -> dict[str, Any]:
    """The first process cannot read the clips of a finetune's export."""
    import types

    from experiments.stages.finetune import export
    from experiments.stages.video import export as video_export

    def damaged(*_: Any) -> None:
        raise ValueError("too many are damaged")

    video_export.measure_data = damaged
    named: Any = dict.fromkeys(("data", "latents", "text", "params", "workdir"))
    named["data"] = types.SimpleNamespace(captions=None)
    base: Any = types.SimpleNamespace(
        config=types.SimpleNamespace(trained_on=types.SimpleNamespace(merged=str))
    )
    config: Any = types.SimpleNamespace(lora=None)
    try:
        export.export(config, base, **named)
    except ValueError as error:
        return {"said": str(error)}
    return {}


def _terminate_second_after(seconds: float) -> None:
    import threading

    timer = threading.Timer(seconds, _terminate_second)
    timer.daemon = True
    timer.start()


def exporting(folder: pathlib.Path) -> dict[str, Any]:
    """Process 1 alone gets SIGTERM, after the first piece of three."""
    import signal
    import time

    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    from experiments.stages import runtime
    from soraflax import sharding
    from soraflax.pretrained import io as model_io
    from soraflax.pretrained import slices

    mesh = sharding.make_mesh(fsdp=4)
    values = np.arange(400 * 8 * 4, dtype=np.float32).reshape(400, 8, 4)
    place = jax.NamedSharding(mesh, jax.P(None, "fsdp"))
    params = {"stack": slices.place(values, place)}
    before = model_io.save_model(folder / "model", params, config={})
    slices.PIECE_BYTES = values.nbytes // 400
    written = []
    finite = slices.is_finite

    def looked_at(piece: np.ndarray) -> bool:
        written.append(len(piece))
        if len(written) == 2 and jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.02)
        return finite(piece)

    slices.is_finite, said = looked_at, ""
    changed = {"stack": params["stack"] + 1.0}
    try:
        checked = runtime.heeding_signals(changed)
        model_io.save_model(folder / "model", checked, config={})
    except KeyboardInterrupt as stop:
        said = str(stop)
    multihost_utils.sync_global_devices("stopped")
    return {
        "said": said,
        "written": written,
        "same": model_io.model_digest(folder / "model") == before,
        "names": sorted(p.name for p in folder.iterdir()),
    }


def expander_evaluating(folder: pathlib.Path) -> dict[str, Any]:
    """Process 1 alone gets SIGTERM in the evaluation before the export."""
    import time

    from soraflax.train import captioning

    asked: list[int] = []

    def evaluate(self: Any, params: Any, *, check: Any = lambda: None) -> Any:
        _terminate_second()
        for batch in range(600):
            asked.append(batch)
            check()
            time.sleep(0.02)
        return {"validation/loss": 1.0}

    captioning.Validation.__call__ = evaluate
    return _expander(folder) | {"asked": len(asked)}


def expander_exporting(folder: pathlib.Path) -> dict[str, Any]:
    """Process 1 alone gets SIGTERM, after the first piece of the model."""
    import time

    from soraflax.pretrained import slices
    from soraflax.train import captioning

    captioning.Validation.__call__ = lambda *_, **__: {"validation/loss": 1.0}
    finite, asked, slices.PIECE_BYTES = slices.is_finite, [], 256

    def looked_at(piece: Any) -> bool:
        asked.append(piece.shape)
        if len(asked) == 2:
            _terminate_second()
        time.sleep(0.02)
        return finite(piece)

    slices.is_finite = looked_at
    return _expander(folder) | {"asked": len(asked)}


def _terminate_second() -> None:
    import signal

    import jax

    if jax.process_index() == 1:
        os.kill(os.getpid(), signal.SIGTERM)


def _expander(folder: pathlib.Path) -> dict[str, Any]:
    """The stage from the end of its training: what it said, and whether it ended."""
    import types

    from jax.experimental import multihost_utils

    from experiments.stages.expander import stage
    from soraflax.train import loop
    from tests.experiments import shrunk

    config = shrunk.config("expander_small", folder)
    config.mesh.update({"data": 2, "fsdp": 2, "context": 1, "tensor": 1})

    def trained(job: Any, **_: Any) -> Any:
        return types.SimpleNamespace(step=config.train.steps, ema=job.init())

    loop.fit, said = trained, ""
    try:
        stage.run(config, folder / "run")
    except KeyboardInterrupt as stop:
        said = str(stop)
    multihost_utils.sync_global_devices("ended")
    found = sorted(p.name for p in (folder / "run").iterdir())
    return {"said": said, "found": found}


if __name__ == "__main__":
    processes.main(*sys.argv[1:], scenarios=globals())
