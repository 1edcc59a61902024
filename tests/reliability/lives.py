"""Runs that die and live again, each life a process of its own.

A server that has imported everything forks the lives, so that one begins within a
second: `context()`.
"""

import dataclasses
import functools
import multiprocessing
import os
import pathlib
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from data_pipelines import reading
from experiments import configs
from experiments.stages.autoencoder import stage as autoencoder_stage
from experiments.stages.video import stage as video_stage
from soraflax.cli import parser as cli
from tests.experiments import world
from tests.train import toy

STEPS = 1_000_000  # never reached: a run is told where to stop
CLIPS = 40


def toy_run(folder: pathlib.Path, workdir: pathlib.Path, stop_at: int) -> None:
    """A small network on made-up rows; it saves as often as it can."""
    del folder
    course = {"steps": STEPS, "checkpoint_every": 2, "stop_at": stop_at}
    toy.fit(toy.job(toy.mesh(1)), workdir, **course)


def video_run(folder: pathlib.Path, workdir: pathlib.Path, stop_at: int) -> None:
    """The stage `video`, as it is shipped but for its size, on latents of a world."""
    values = configs.load("video_small:tiny")
    values.data.path = str(folder / "dataset")
    values.autoencoder = str(folder / "autoencoder")
    values.compilation_cache = str(folder / "programs")
    course = {"log_every": 5, "checkpoint_every": 20, "stop_at": stop_at}
    values.train.update(steps=STEPS, **course)
    video_stage.run(values, workdir)


def prepare_video(folder: pathlib.Path) -> None:
    """Clips, and an autoencoder that hardly learned anything."""
    world.write(folder / "dataset", count=CLIPS)
    values = configs.load("autoencoder_small:tiny")
    values.data.path = str(folder / "dataset")
    values.evaluation.update(clips=1, statistics=1)
    autoencoder_stage.run(values, folder / "autoencoder")


@dataclasses.dataclass(frozen=True)
class Rows:
    """Made-up batches, read by a worker process that `fault` befalls at one, once.

    Attributes:
      folder: where it is written down that the fault was.
      fault: 'hung' or 'lost'.
    """

    folder: pathlib.Path
    fault: str

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        before = self.folder / self.fault
        if index == 7 and not before.exists():
            before.touch()
            if self.fault == "hung":
                time.sleep(3600)
            os.kill(os.getpid(), signal.SIGKILL)
        rng = np.random.default_rng(index)
        return {"x": rng.standard_normal((8, 8), dtype=np.float32)}


class Begun:
    """Data whose worker has begun, however long that takes, before it is asked."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self.set_state(data.get_state())

    def __next__(self) -> Any:
        batch = self._ahead if self._ahead is not None else next(self._data)
        self._ahead, self._index = None, self._index + 1
        return batch

    def get_state(self) -> dict[str, int]:
        return {"next_index": self._index}

    def set_state(self, state: dict[str, int]) -> None:
        self._data.set_state(state)
        self._index = state["next_index"]
        self._ahead = next(self._data)


def worker_run(
    fault: str, folder: pathlib.Path, workdir: pathlib.Path, stop_at: int
) -> None:
    """A small network, twelve steps on batches of a worker process."""
    del stop_at
    read = reading.ReadConfig(threads=1, buffer=2, workers=1)
    data: Any = iter(reading.StreamIterDataset(Rows(folder, fault), read))
    course: Any = {"steps": 12, "checkpoint_every": 2, "stall_minutes": 0.2}
    try:
        toy.fit(toy.job(toy.mesh(1), Begun(data)), workdir, **course)  # pyright: ignore[reportArgumentType]
    finally:
        data.close()


RUNS: dict[str, Callable[[pathlib.Path, pathlib.Path, int], None]] = {
    "toy": toy_run,
    "video": video_run,
    "hung": functools.partial(worker_run, "hung"),
    "lost": functools.partial(worker_run, "lost"),
}
PREPARED: dict[str, Callable[[pathlib.Path], None]] = {"video": prepare_video}


def context() -> Any:
    """Makes processes that have this module imported, and no devices yet."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload([__name__])
    return made


def live(log: pathlib.Path, run: Callable[[], Any]) -> None:
    """The main function of a life: its words go to `log`, it ends with a status."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    raise SystemExit(cli.run_command("life", run, extra="train"))


def begin(
    processes: Any,
    run: str,
    *,
    folder: pathlib.Path,
    workdir: pathlib.Path,
    stop_at: int = 0,
) -> Any:
    """A life of a run in `workdir`, under way."""
    life = functools.partial(RUNS[run], folder, workdir, stop_at)
    process = processes.Process(target=live, args=(log_of(workdir), life))
    process.start()
    return process


def log_of(workdir: pathlib.Path) -> pathlib.Path:
    """Where the lives of a run say what they do."""
    return workdir.with_suffix(".log")
