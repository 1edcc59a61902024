"""Every shipped config, shrunk, trains; bad input is one line, and leaves nothing."""

import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import pytest

from data_pipelines import prepare
from experiments import command
from experiments.configs import autoencoder_small, video_small
from experiments.stages import autoencoder, common, video
from soraflax import config as config_lib
from soraflax import model_io
from soraflax.train import checkpoint, metrics

MESH = {"data": 2, "fsdp": 2, "context": 1, "tensor": 2}
CONFIGS = pathlib.Path(command.CONFIGS)


@pytest.fixture(scope="module", autouse=True)
def compile_quickly() -> Iterator[None]:
    """What is compiled here runs a few times only."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A few clips of the embedded world."""
    path = tmp_path_factory.mktemp("data") / "dataset"
    prepare.prepare_world("bodies", path, count=6, seed=0)
    return path


@pytest.fixture(scope="module")
def trained(
    dataset: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """The shrunk autoencoder, after two steps on a mesh of eight devices."""
    path = tmp_path_factory.mktemp("runs") / "autoencoder"
    autoencoder.run(_autoencoder(dataset), path)
    return path


def _autoencoder(dataset: pathlib.Path) -> Any:
    config = autoencoder_small.get_config("tiny")
    config.data.path = str(dataset)
    config.mesh.update(MESH)
    config.evaluation.update(clips=1, statistics=1)
    return config


def _video(dataset: pathlib.Path, trained: pathlib.Path) -> Any:
    config = video_small.get_config("tiny")
    config.data.path, config.autoencoder = str(dataset), str(trained)
    config.mesh.update(MESH)
    return config


def test_autoencoder_stage(trained: pathlib.Path) -> None:
    assert model_io.model_config(trained)["kind"] == "autoencoder"
    steps = [line for line in metrics.read(trained) if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2]
    assert steps[-1]["model_flops_utilisation"] > 0
    assert (trained / "result.json").exists()


def test_video_stage_resumes_and_exports(
    dataset: pathlib.Path, trained: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config = _video(dataset, trained)
    config.train.steps = 1
    video.run(config, tmp_path / "video")
    config.train.steps = 2
    result = video.run(config, tmp_path / "video")
    assert result["validation/loss"] > 0
    steps = [line for line in metrics.read(tmp_path / "video") if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2]
    assert 0 < steps[-1]["packing_efficiency"] <= 1
    model = tmp_path / "video" / "model"
    assert (model / "vocabulary.model").exists()
    assert model_io.model_digest(model / "autoencoder") == model_io.model_digest(
        trained
    )
    config.model.depth = 1
    with pytest.raises(checkpoint.CheckpointError, match=r"model\.depth=2.*has 1"):
        video.run(config, tmp_path / "video")


def test_a_transformer_of_other_channels_is_refused(
    dataset: pathlib.Path, trained: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config = _video(dataset, trained)
    config.model.latent_channels = 16
    with pytest.raises(config_lib.ConfigError, match="16: the autoencoder has 4"):
        video.run(config, tmp_path / "video")
    assert not (tmp_path / "video").exists()


def _mesh(**sizes: int) -> dict[str, int]:
    return {"data": 1, "fsdp": 1, "context": 1, "tensor": 1} | sizes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.path": ""}, "data.path is empty"),
        ({"data.path": "/nowhere"}, "/nowhere: no such dataset"),
        ({"data.crops.shapes": ((80, 64, 64),)}, "80 frames: use 77 or 81"),
        ({"data.crops.shapes": ((17, 64, 97),)}, "97 pixels: use"),
        ({"mesh": _mesh(fsdp=3)}, "needs a multiple of 3 devices; there are 8"),
        ({"mesh": _mesh(fsdp=8), "batch": 6}, "size 6 does not divide over 8"),
        ({"mesh": _mesh(tensor=8), "model.width": 12}, "size 12 does not divide over"),
        ({"optimizer.schedule": "cosin"}, "did you mean 'cosine'"),
        ({"train.steps": 0}, "use 1 or more"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    dataset: pathlib.Path,
    tmp_path: pathlib.Path,
    change: dict[str, Any],
    message: str,
) -> None:
    config = _autoencoder(dataset)
    with config.unlocked():
        for key, value in change.items():
            config.update_from_flattened_dict({key: value})
            if key == "mesh":
                config.mesh = value
    with pytest.raises((ValueError, OSError), match=message) as caught:
        autoencoder.run(config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_dataset_that_is_empty(tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="not a dataset"):
        autoencoder.run(_autoencoder(tmp_path / "empty"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unknown_keys_and_files_name_the_nearest() -> None:
    config = command.load(str(CONFIGS / "video_small.py"))
    with pytest.raises(config_lib.ConfigError, match=r"config\.data\.pth: .*'path'"):
        command.check_key(config, "data.pth")
    with pytest.raises(config_lib.ConfigError, match=r"config\.trian: .*'train'"):
        command.check_key(config, "trian.steps")
    with pytest.raises(config_lib.ConfigError, match="did you mean 'video_small'"):
        command.load(str(CONFIGS / "video_smal.py"))
    with pytest.raises(config_lib.ConfigError, match="did you mean 'tiny'"):
        command.load(str(CONFIGS / "video_small.py:tinny"))


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("[!_]*.py")))
def test_every_config_converts_strictly(config: pathlib.Path) -> None:
    stages = {"autoencoder": autoencoder.Config, "video": video.Config}
    for argument in ("", ":tiny"):
        values = command.load(f"{config}{argument}")
        values.data.path = "DATASET"
        if values.stage == "video":
            values.autoencoder = "AE"
        made = config_lib.to_dataclass(values, stages[values.stage])
        again = config_lib.to_dataclass(config_lib.to_dict(made), type(made))
        assert again == made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config={c}/autoencoder_small.py", "--config.train.stps=3"],
            "error: config.train.stps: unknown key; did you mean 'steps'?",
        ),
        (
            ["--config={c}/autoencoder_small.py", "--config.train.steps=many"],
            "error: flag --config.train.steps=many: ",
        ),
    ],
)
def test_command_line(
    tmp_path: pathlib.Path, arguments: list[str], message: str
) -> None:
    arguments = [a.format(c=CONFIGS) for a in arguments]
    workdir = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-m", "experiments.train", *arguments, f"--workdir={workdir}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(message), done.stderr
    assert done.stderr.count("\n") == 1
    assert not workdir.exists()


def test_folder_keeps_what_was_there(tmp_path: pathlib.Path) -> None:
    (tmp_path / "note").write_text("mine")
    with pytest.raises(ValueError), common.folder(tmp_path):
        raise ValueError
    assert (tmp_path / "note").read_text() == "mine"
    assert jax.process_count() == 1
