"""A sweep end to end on tiny models: killed, taken up, fitted; a pod's matrix."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from data_pipelines import latents
from experiments import train
from experiments.configs import bodies as bodies_config
from experiments.scaling import grid, runs, sweep
from experiments.stages.video import data as video_data
from soraflax import config as config_lib
from soraflax import flops, sharding
from soraflax.nn import autoencoder, dit
from soraflax.pretrained import models
from soraflax.train import metrics
from tests.experiments import world


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """`ae`, an untrained autoencoder, and `latents` of a few clips by it."""
    path = tmp_path_factory.mktemp("sweep")
    config = autoencoder.VARIANTS["tiny"]
    module = autoencoder.Autoencoder(config)
    params, _ = sharding.init(module, jax.random.key(0), jnp.zeros((1, 1, 8, 8, 3)))
    models.save_autoencoder(path / "ae", params, config=config)
    values: Any = bodies_config.get_config("tiny")
    latents.cache_latents(
        world.write(path / "dataset", count=6),
        path / "latents",
        encoder=video_data.TrainedEncoder.load(str(path / "ae")).for_cache(),
        config=config_lib.to_dataclass(values.cache, latents.LatentCacheConfig),
    )
    return path


def _points(folder: pathlib.Path) -> list[grid.Point]:
    """Two sizes of the smallest model, two steps each."""
    values: Any = bodies_config.get_config("tiny")
    (row, *_) = sweep.measure_rows(values, folder / "latents")
    assert sum(row.tokens) > 0 and len(row.tokens) == len(row.text)
    base = config_lib.to_dataclass(values.model, dit.DiTConfig)
    return [
        grid.Point(
            name=f"w{model.width}",
            budget=2 * 8 * grid.row_flops(model, [row]),
            model=model,
            parameters=flops.transformer_parameters(model),
            steps=2,
            learning_rate=1e-3,
            rows=8,
        )
        for model in grid.family(base)[:2]
    ]


def test_points_are_trained_once_and_failures_told(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    points = _points(folder)
    ran: list[str] = []

    def words(point: grid.Point) -> list[str]:
        return sweep.arguments(
            point,
            tmp_path,
            data=folder / "latents",
            autoencoder=folder / "ae",
            size="tiny",
        )

    def run(words: Sequence[str]) -> int:
        ran.append(words[-1])
        if len(ran) == 1:
            return 2  # as a process that was killed
        jax.config.update("jax_disable_most_optimizations", True)
        status = train.main(words)
        jax.config.update("jax_disable_most_optimizations", False)
        return status

    for point in points:
        sweep.write_point(tmp_path, point, settings={"data": "digest"})
    again = {"folder": tmp_path, "run": run}
    assert sweep.run_points(points, words, **again) == ["w8"]
    with pytest.raises(runs.RunsError, match=r"first: w8: no metrics.jsonl"):
        runs.read(tmp_path)
    assert sweep.run_points(points, words, **again) == []
    assert sweep.run_points(points, words, **again) == []
    assert len(ran) == 3
    for point, found in zip(points, runs.read(tmp_path)[::-1], strict=True):
        assert found.name == point.name and found.parameters == point.parameters
        last = [r for r in metrics.read(tmp_path / point.name) if "loss" in r][-1]
        assert last["training_flops"] == found.flops > 0
        assert found.tokens == last["training_tokens"]
        assert (
            found.settings["data"] == "digest" and "loss.prediction" in found.settings
        )


def test_a_pod_gets_a_job_for_every_point() -> None:
    preset = dataclasses.replace(grid.PRESETS["v5p-8"], budgets=(1e16, 1e17, 1e18))
    row = flops.Lengths([60, 60], [14, 14])
    points = grid.plan(
        preset, [row], base=bodies_config.MODEL, rate=grid.LearningRate()
    )
    words = sweep.without(["--output=S", "--matrix", "m", "--matrix=m"], "--matrix")
    assert words == ["--output=S"]
    made = sweep.jobset(points, preset, name="sweep", image="i", words=words)
    jobs = made["spec"]["replicatedJobs"]
    assert len(json.loads(json.dumps(jobs))) == len(points)
    spec = jobs[0]["template"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["args"] == ["--output=S", f"--only={points[0].name}"]
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    assert spec["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "2x2x1"
    assert spec["restartPolicy"] == "OnFailure"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--budgets=1e9,1e12,1e13"], "use a larger budget"),
        (["--sizes=2"], "a law needs 3 or more of both"),
        (["--only=w9"], "no point 'w9'"),
        (["--data=nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line(
    folder: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    complaint: str,
) -> None:
    where = [f"--output={tmp_path}", f"--data={folder / 'latents'}"]
    assert sweep.main([*where, *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(complaint, error)
