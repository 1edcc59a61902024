"""What a person with a bucket does: train there, be killed, resume, generate."""

import os
import pathlib
import subprocess
import sys
import time

import pytest

from experiments import cache, configs
from soraflax.cli import main as cli
from soraflax.pretrained import io as model_io
from tests import emulated_bucket
from tests.experiments import world

ROOT = pathlib.Path(configs.DIRECTORY).parents[1]


def _start(name: str, workdir: str, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "experiments.train"),
            f"--config={configs.DIRECTORY}/{name}.py:tiny",
            f"--workdir={workdir}",
            *flags,
        ],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _train(name: str, workdir: str, *flags: str) -> str:
    process = _start(name, workdir, *flags)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said[-3000:]
    return said


def test_train_killed_resumed_exported_generated(
    tmp_path: pathlib.Path,
    bucket: emulated_bucket.Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    clips = world.write(tmp_path / "clips", count=6)
    _train("autoencoder_small", "gs://bucket/ae", f"--config.data.path={clips}")
    assert "ae/model/config.json" in bucket.below("bucket/")
    flags = ["--config.autoencoder=gs://bucket/ae", "--config.train.steps=6"]
    flags += ["--config.train.checkpoint_every=1", "--config.train.log_every=1"]

    # Clips are no latents, and it is said what to do.
    process = _start(
        "video_small", "gs://bucket/run", f"--config.data.path={clips}", *flags
    )
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 2
    assert "python -m experiments.cache" in said.splitlines()[-1]
    assert not bucket.below("bucket/run/")

    words = [f"--config={configs.DIRECTORY}/video_small.py:tiny", *flags[:1]]
    words += [f"--config.data.path={clips}", "--out", str(tmp_path / "latents")]
    assert cache.main(words) == 0
    flags.append(f"--config.data.path={tmp_path / 'latents'}")
    process = _start("video_small", "gs://bucket/run", *flags)
    try:
        while "bucket/run/checkpoints/2/commit_success.txt" not in bucket.objects:
            assert process.poll() is None, process.communicate()[0][-3000:]
            time.sleep(0.01)
    finally:
        process.kill()
    process.communicate()
    assert not bucket.below("bucket/run/model/")
    said = _train("video_small", "gs://bucket/run", *flags)
    assert "2 lives" in said
    _train("video_small", str(tmp_path / "whole"), *flags)
    # Bit for bit the run that was not killed.
    whole = model_io.model_digest(tmp_path / "whole")
    assert model_io.model_digest("gs://bucket/run") == whole

    out = tmp_path / "out.png"
    words = ["a small red circle", "--size", "48x32", "--steps", "2"]
    words += ["--checkpoint", "gs://bucket/run", "--out", str(out)]
    assert cli.main(["image", *words]) == 0, capsys.readouterr().err
    assert out.stat().st_size
    words[-3] = "gs://bucket/nothing"
    assert cli.main(["image", *words]) == 2
    assert "gs://bucket/nothing: no such directory" in capsys.readouterr().err
