"""Training without cached latents, and with a curriculum of token budgets."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments import clips, configs
from experiments.stages import runtime
from experiments.stages.video import drawn, stage
from soraflax import config as config_lib
from soraflax.nn import autoencoder
from soraflax.pretrained import abstract, models
from soraflax.train import loop, metrics
from tests.experiments import world
from tests.generation import tiny

STEPS = 4
CURRICULUM = {
    "tokens": (6, 18),
    "weights": ((1.0, 0.0), (1.0, 3.0)),
    "starts": (0, 40),
}
KINDS = ("drawn", "cached")


@pytest.fixture(scope="module", autouse=True)
def compile_quickly() -> Iterator[None]:
    """What is compiled here runs a few times only."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """`dataset`, a few clips, and `ae`, an untrained autoencoder."""
    path = tmp_path_factory.mktemp("drawn")
    world.write(path / "dataset", count=6)
    sizes = autoencoder.VARIANTS["tiny"]
    params = tiny.randomised(abstract.autoencoder_shapes(sizes), scale=0.2)
    models.save_autoencoder(path / "ae", params, config=sizes)
    return path


def config(folder: pathlib.Path, kind: str) -> Any:
    values = configs.load("video_small:tiny")
    values.data.path, values.autoencoder = str(folder / "dataset"), str(folder / "ae")
    values.data.rows, values.mesh.fsdp = 8, 8
    values.data.row.tokens, values.cache.fit.max_tokens = 24, 24
    values.train.update(steps=STEPS, log_every=1, checkpoint_every=2)
    values.evaluation.words = ()
    with values.ignore_type():
        values.data.budgets.update(CURRICULUM)
        if kind == "cached":
            values.cache.budgets = CURRICULUM["tokens"]
        else:
            values.cache.enabled = False
    return values


@pytest.fixture(scope="module", params=KINDS)
def trained(
    request: pytest.FixtureRequest, folder: pathlib.Path
) -> tuple[str, pathlib.Path, list[list[str]]]:
    """How latents come, the work folder, and the clips of every step."""
    workdir, log = folder / request.param, loop.log
    held: list[list[str]] = []

    def log_and_look(number: int, run: Any, **arguments: Any) -> None:
        held.extend(map(list, map(run.job.clips, arguments["window"].places)))
        log(number, run, **arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "log", log_and_look)
        stage.run(config(folder, request.param), workdir)
    return request.param, workdir, held


def _state(workdir: pathlib.Path) -> Any:
    folder = workdir.absolute() / "checkpoints" / str(STEPS) / "state"
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(folder).item_metadata.tree
        numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return reader.restore(folder, restore_args=numpy)


def test_clips_train_at_the_budgets_of_the_curriculum(
    trained: tuple[str, pathlib.Path, list[list[str]]],
) -> None:
    kind, workdir, held = trained
    lines = [line for line in metrics.read(workdir) if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(np.isfinite(line["loss"]) and not line["skipped"] for line in lines)
    name = "latents" if kind == "cached" else "dataset"
    epochs = [line[f"epochs/{name}"] for line in lines]
    assert epochs == sorted(epochs) and epochs[-1] == sum(map(len, held)) / 5
    assert (workdir / "latents").exists() == (kind == "cached")
    assert (workdir / drawn.STATISTICS).exists() == (kind == "drawn")
    used = [line["tokens_per_step"] for line in lines]
    a_clip = [tokens / len(ids) for tokens, ids in zip(used, held, strict=True)]
    assert a_clip[0] <= 6 < a_clip[-1] <= 18


def test_the_model_knows_what_it_was_trained_on(
    trained: tuple[str, pathlib.Path, list[list[str]]],
) -> None:
    kind, workdir, _ = trained
    made = models.load_video_model(workdir).config
    assert made.trained_on is not None and made.trained_on.frames[1] == 9
    assert "moves" in made.trained_on.words
    if kind == "drawn":
        measured = json.loads((workdir / drawn.STATISTICS).read_text())
        assert made.statistics.mean == pytest.approx(measured["mean"], abs=1e-6)


def test_the_clips_of_a_step_are_told(
    trained: tuple[str, pathlib.Path, list[list[str]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, workdir, held = trained
    for step, ids in enumerate(held):
        rows = clips.step_clips(workdir, step)
        assert len(rows) == 8 and [clip for row in rows for clip in row] == ids
    assert clips.main([str(workdir), "--step", "3"]) == 0
    assert capsys.readouterr().out.startswith(f"row 0: {held[3][0]}")
    assert clips.main([str(workdir), "--step", "4"]) == 2
    assert "step 4: the run has steps 0 to 3" in capsys.readouterr().err


def test_a_run_of_drawn_clips_resumes_bit_for_bit(
    folder: pathlib.Path,
    tmp_path: pathlib.Path,
    request: pytest.FixtureRequest,
) -> None:
    values = config(folder, "drawn")
    values.train.stop_at = 2
    with pytest.raises(runtime.Interrupted, match="step 2 of 4 is saved"):
        stage.run(values, tmp_path / "parts")
    values.train.stop_at = 0
    values.data.read.threads = 3
    stage.run(values, tmp_path / "parts")
    whole = folder / "drawn"
    if not (whole / "checkpoints" / str(STEPS)).exists():
        stage.run(config(folder, "drawn"), whole)
    chex.assert_trees_all_equal(_state(tmp_path / "parts"), _state(whole))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.read.workers": 2}, "data.read.workers 2: clips that are encoded as"),
        ({"cache.budgets": (6, 18)}, "with enabled False: data.budgets.tokens alone"),
        ({"cache.measured": 0}, "measured 0: use 1 or more"),
        ({"data.budgets.tokens": (6, 500)}, "a clip of 5.. tokens does not fit a row"),
    ],
)
def test_what_cannot_be_is_one_line(
    folder: pathlib.Path, tmp_path: pathlib.Path, change: dict[str, Any], message: str
) -> None:
    values = config(folder, "drawn")
    with values.ignore_type():
        values.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message) as caught:
        stage.run(values, tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_statistics_of_other_clips_are_refused(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / drawn.STATISTICS).write_text('{"encoder": "another"}')
    with pytest.raises(config_lib.ConfigError, match="its encoder is 'another'"):
        stage.run(config(folder, "drawn"), tmp_path)
