"""The command that encodes clips before training: workers, shares, bad input."""

import os
import pathlib
import signal
import threading
from typing import Any

import jax
import numpy as np
import pytest

from data_pipelines import latent_parts, latents, verify
from experiments import cache, configs
from soraflax.cli import parser as cli
from soraflax.nn import autoencoder
from soraflax.pretrained import abstract, models
from tests.data_pipelines import clip_data
from tests.experiments import slow_cache

ROOT = pathlib.Path(configs.DIRECTORY).parents[1]
CONFIG = f"--config={configs.DIRECTORY}/video_small.py:tiny"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments that name clips and an autoencoder."""
    folder = tmp_path_factory.mktemp("data")
    clip_data.write_clips(folder / "clips", train=4, validation=1)
    sizes = autoencoder.VARIANTS["tiny"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: 0.1 * rng.standard_normal(leaf.shape, np.float32),
        abstract.autoencoder_shapes(sizes),
    )
    models.save_autoencoder(folder / "ae", params, config=sizes)
    clips = f"--config.data.path={folder / 'clips'}"
    return [CONFIG, clips, f"--config.autoencoder={folder / 'ae'}"]


def _shards(folder: pathlib.Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.rglob("*.array_record-*")}


def test_shares_of_workers_are_put_together(
    given: list[str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = ["--out", str(tmp_path / "parts")]
    assert cache.main([*given, *out, "--part", "1/2"]) == 0
    assert (
        "worker 1 of 2 is done; 1 parts of others are left" in capsys.readouterr().out
    )
    assert not (tmp_path / "parts").exists()
    assert cache.main([*given, *out, "--part", "0/2"]) == 0
    assert cache.main([*given, *out]) == 0
    assert "5 latents (4 train, 1 validation)" in capsys.readouterr().out
    assert verify.verify(tmp_path / "parts") == {"train": 4, "validation": 1}
    assert len(latents.open_latents(tmp_path / "parts")) == 4
    # By processes, with the devices of this one.
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    words = [*given, "--out", str(tmp_path / "processes"), "--workers", "2"]
    assert cache.main(words) == 0
    assert _shards(tmp_path / "parts") == _shards(tmp_path / "processes")
    assert cache.main([*given, *out]) == 2
    assert "exists; --overwrite replaces it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--part", "2/2"], "use I/N with I from 0 to N - 1, such as 0/4"),
        (["--part", "two"], "use I/N with I from 0 to N - 1, such as 0/4"),
        (["--part", "0/2", "--workers", "2"], "leave --workers out"),
        (["--workers", "0"], "workers 0: use 1 or more"),
        (["--config.cache.bach=4"], "did you mean 'batch'?"),
        (["--config.autoencoder="], "give --config.autoencoder=AE"),
        (["--config.data.path="], "give --config.data.path=CLIPS"),
        (["--out", "gs://bucket/latents"], "give a folder, which may be mounted"),
        ([f"--config={configs.DIRECTORY}/autoencoder_small.py"], "caches no latents"),
    ],
)
def test_bad_input_is_one_line(
    given: list[str],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    kept = [] if words[0].startswith("--config=") else given
    assert cache.main([*kept, "--out", str(tmp_path / "out"), *words]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_a_worker_that_fails_is_named(
    given: list[str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cache, "MODULE", "experiments.nothing")
    words = [*given, "--out", str(tmp_path / "out"), "--workers", "2"]
    assert cache.main(words) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "workers 0/2, 1/2 failed; what is encoded is kept" in said


def _sealed(folder: pathlib.Path) -> set[str]:
    """The parts that are sealed; there is nothing else."""
    found = list(folder.glob(".out.parts/*"))
    assert {p.suffix for p in found} == {".json", ".shard"}
    assert len(found) == 2 * len({p.stem for p in found})
    return {p.stem for p in found}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_keeps_what_is_done(
    given: list[str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    workers: str,
) -> None:
    """Every part but the first of a worker lasts longer than this test."""
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(cache, "MODULE", "tests.experiments.slow_cache")
    monkeypatch.setattr(latent_parts, "PART", 1)
    encode = latent_parts.CacheJob._encode
    monkeypatch.setattr(latent_parts.CacheJob, "_encode", slow_cache.encode_slowly)
    over = threading.Event()

    def terminate() -> None:
        while len(list(tmp_path.glob(".out.parts/*.json"))) < int(workers):
            over.wait(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    words = [*given, "--out", str(tmp_path / "out"), "--workers", workers]
    thread = threading.Thread(target=terminate, daemon=True)
    thread.start()
    assert cache.main(words) == cli.EXIT_INTERRUPTED
    thread.join()
    assert "the same command goes on" in capsys.readouterr().err.splitlines()[-1]
    done = _sealed(tmp_path)
    assert len(done) == int(workers)
    encoded: list[str] = []

    def recorded(self: Any, part: latent_parts.Part, **keywords: Any) -> None:
        encoded.append(part.name)
        encode(self, part, **keywords)

    monkeypatch.setattr(latent_parts.CacheJob, "_encode", recorded)
    assert cache.main(words[:-2]) == 0
    assert len(encoded) == 5 - len(done) and not set(encoded) & done
    assert verify.verify(tmp_path / "out") == {"train": 4, "validation": 1}
