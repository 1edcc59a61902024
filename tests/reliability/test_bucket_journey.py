"""What a person with a bucket does: curate, train, be killed, resume, generate.

Raw clips, dataset, models and runs are in the bucket, and nothing else is read.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from data_pipelines import prepare, records
from experiments import configs
from soraflax.cli import main as cli
from soraflax.pretrained import io as model_io
from tests import emulated_bucket
from tests.experiments import world

ROOT = pathlib.Path(configs.DIRECTORY).parents[1]


def _put_raw_clips(bucket: emulated_bucket.Store, folder: pathlib.Path) -> int:
    """Files of moving clips and their captions in `gs://bucket/raw`; how many."""
    lines, rendered = [], world.write(folder, count=9)
    for split in ("train", "validation"):
        for clip in records.open_dataset(rendered, split):
            if clip.frames > 1:
                name = f"{clip.id.replace('/', '-')}.mkv"
                bucket.put(f"bucket/raw/{name}", clip.video)
                lines.append({"file": name, "caption": clip.captions["short"]})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    bucket.put("bucket/raw/captions.jsonl", text.encode())
    return len(lines)


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


def test_curated_trained_killed_resumed_exported_generated(
    tmp_path: pathlib.Path,
    bucket: emulated_bucket.Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # Five processes, which compile the same.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    count = _put_raw_clips(bucket, tmp_path / "world")
    words = ["--input", "gs://bucket/raw/*.mkv", "--output", "gs://bucket/clips"]
    words += ["--captions", "gs://bucket/raw/captions.jsonl", "--workers", "1"]
    assert prepare.main([*words, "--validation-count", "1"]) == 0
    assert f"gs://bucket/clips: {count} clips" in capsys.readouterr().out
    clips = ["--config.data.path=gs://bucket/clips"]
    _train("autoencoder_small", "gs://bucket/ae", *clips)
    assert "ae/model/config.json" in bucket.below("bucket/")
    flags = ["--config.autoencoder=gs://bucket/ae", "--config.train.steps=6"]
    flags += ["--config.train.checkpoint_every=1", "--config.train.log_every=1"]
    flags += clips

    # Clips are no latents, and it is said what to do.
    process = _start("video_small", "gs://bucket/run", *flags)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 2
    assert "python -m experiments.cache" in said.splitlines()[-1]
    assert not bucket.below("bucket/run/")

    flags.append("--config.cache.enabled=False")  # straight from video
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
