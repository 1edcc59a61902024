"""Two processes, gloo between them, form one run of each stage and resume it."""

import json
import os
import pathlib
import random
import subprocess
import sys

import pytest

from experiments import configs
from soraflax.pretrained import io as model_io
from soraflax.train import metrics
from tests.experiments import world

ROOT = pathlib.Path(configs.DIRECTORY).parents[1]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return world.write(tmp_path_factory.mktemp("data") / "dataset", count=12)


def _launch(words: list[str], *, job: int, rank: int) -> subprocess.Popen[str]:
    """One process of two, told so by the variables that mpirun sets."""
    environment = os.environ | {
        "OMPI_MCA_orte_hnp_uri": f"{job << 12}.0;tcp://127.0.0.1:1",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": str(rank),
        "OMPI_COMM_WORLD_LOCAL_RANK": "0",
        "XLA_FLAGS": os.environ["XLA_FLAGS"]
        + " --xla_force_host_platform_device_count=2",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.train", *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _train(name: str, workdir: pathlib.Path, *flags: str) -> str:
    """What process 0 said; the run has two processes of two devices each."""
    words = [
        f"--config={configs.DIRECTORY}/{name}.py:tiny",
        f"--workdir={workdir}",
        "--config.distributed=True",
        "--config.mesh.data=2",
        *flags,
    ]
    job = random.randrange(1 << 12)
    processes = [_launch(words, job=job, rank=rank) for rank in (0, 1)]
    try:
        said = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, text in zip(processes, said, strict=True):
        assert process.returncode == 0, text[-3000:]
    return said[0]


def _steps(workdir: pathlib.Path) -> list[float]:
    return [line["step"] for line in metrics.read(workdir) if "loss" in line]


def test_two_processes_train_both_stages_and_resume(
    dataset: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    encoder, video = tmp_path / "autoencoder", tmp_path / "video"
    data = f"--config.data.path={dataset}"
    _train("autoencoder_small", encoder, data)
    assert _steps(encoder) == [1, 2]
    flags = [data, f"--config.autoencoder={encoder}"]
    _train("video_small", video, *flags)
    assert _steps(video) == [1, 2]
    (video / "result.json").unlink()
    _train("video_small", video, *flags, "--config.train.steps=3")
    assert _steps(video) == [1, 2, 3]
    assert (video / "result.json").exists()
    saved = video / "checkpoints" / "3" / "iterator" / "metadata"
    assert len(json.loads(saved.read_text())["positions"]) == 2
    assert model_io.model_config(video)["kind"] == "video"
    tuned = tmp_path / "tuned"
    latents = f"--config.data.path={video / 'latents'}"
    _train("video_lora", tuned, latents, f"--config.base={video}")
    assert _steps(tuned) == [1, 2]
    assert model_io.model_config(tuned / "adapters")["kind"] == "lora"
    model_io.load_model(tuned)
