"""Bad input of every stage is one line, and leaves nothing."""

import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from experiments.stages import runtime
from experiments.stages.adversarial import stage as adversarial
from experiments.stages.autoencoder import stage as autoencoder
from experiments.stages.captioner import stage as captioner
from experiments.stages.video import stage as video
from soraflax import config as config_lib
from soraflax.nn import autoencoder as network
from soraflax.pretrained import abstract, models
from tests.experiments import shrunk, world


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A few clips of the embedded world."""
    return world.write(tmp_path_factory.mktemp("data") / "dataset", count=6)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An autoencoder, of no use."""
    folder = tmp_path_factory.mktemp("models") / "autoencoder"
    values = shrunk.autoencoder(folder).model
    sizes = config_lib.to_dataclass(values, network.AutoencoderConfig)
    params = jax.tree.map(
        lambda leaf: np.full(leaf.shape, 0.1, np.float32),
        abstract.autoencoder_shapes(sizes),
    )
    models.save_autoencoder(folder, params, config=sizes)
    return folder


def test_a_base_of_other_sizes_is_refused(
    dataset: pathlib.Path, trained: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config = shrunk.config("autoencoder_decoder", dataset)
    config.base = str(trained)
    config.model.width *= 2
    with pytest.raises(config_lib.ConfigError, match="has other sizes"):
        autoencoder.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("autoencoder", "", r"autoencoder is empty: give --config\.autoencoder=AE"),
        ("autoencoder", "/nowhere", "/nowhere"),
        ("data.path", "", "data.path is empty"),
        ("data.crops.shapes", ((8, 32, 32),), r"crops\.shapes: 8 frames: use 5 or 9"),
        ("batch", 6, "size 6 does not divide over 4 shards"),
        ("loss.lpips", 0.5, r"lpips 0\.5 has no weights: give lpips_path=FILE"),
        ("adversarial.discriminator_start", 9, "9 is after start 0; use 0 or less"),
        ("discriminator.multipliers", (1,), "2 flags for 1 stages: give 1"),
    ],
)
def test_bad_input_of_the_adversarial_stage(
    dataset: pathlib.Path,
    trained: pathlib.Path,
    tmp_path: pathlib.Path,
    key: str,
    value: Any,
    message: str,
) -> None:
    config = shrunk.adversarial(dataset, trained)
    config.update_from_flattened_dict({key: value})
    with pytest.raises((ValueError, OSError), match=message) as caught:
        adversarial.run(config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_lpips_weights_that_are_not_there(
    dataset: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config = shrunk.autoencoder(dataset)
    config.loss.update(lpips=1.0, lpips_path="/nowhere.safetensors")
    with pytest.raises(FileNotFoundError, match=r"/nowhere\.safetensors: no such file"):
        autoencoder.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_captioner_that_drops_captions_is_refused(
    dataset: pathlib.Path, trained: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config = shrunk.config("captioner_small", dataset)
    config.autoencoder = str(trained)
    config.data.captions.dropout = 0.1
    with pytest.raises(ValueError, match=r"dropout 0\.1, .* use 0 for both"):
        captioner.run(config, tmp_path / "run")
    config.data.captions.dropout = 0.0
    config.model.vocabulary = 1000
    with pytest.raises(config_lib.ConfigError, match="1024 pieces; use 1024"):
        captioner.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.rows", 0, r"config\.data: rows 0: use 1 or more"),
        ("cache.batch", 0, r"config\.cache: batch 0: use 1 or more"),
        ("cache.chunk", 0, r"config\.cache: chunk 0: use 1 or more"),
        ("model.depth", 0, r"config\.model: depth 0: use 1 or more"),
        ("cache.fit.max_tokens", 513, r"max_tokens 513 .*row\.tokens; use 512 or less"),
        ("data.captions.max_length", 257, r"max_length 257 .*row\.text; use 256 or"),
    ],
)
def test_sizes_of_the_video_stage_are_checked_before_anything_is_read(
    tmp_path: pathlib.Path, key: str, value: int, message: str
) -> None:
    config = shrunk.video(tmp_path / "nowhere", tmp_path / "nowhere")
    config.update_from_flattened_dict({key: value})
    with pytest.raises(config_lib.ConfigError, match=message):
        video.run(config, tmp_path / "video")
    assert not (tmp_path / "video").exists()


def test_a_transformer_of_other_channels_is_refused(
    dataset: pathlib.Path, trained: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config = shrunk.video(dataset, trained)
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
        ({"batch": 0}, "config: batch 0: use 1 or more"),
        ({"evaluation.batch": 0}, "config.evaluation: batch 0: use 1 or more"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    dataset: pathlib.Path,
    tmp_path: pathlib.Path,
    change: dict[str, Any],
    message: str,
) -> None:
    config = shrunk.autoencoder(dataset)
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
        autoencoder.run(shrunk.autoencoder(tmp_path / "empty"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_directory_keeps_what_was_there(tmp_path: pathlib.Path) -> None:
    (tmp_path / "note").write_text("mine")
    with pytest.raises(ValueError), runtime.run_directory(tmp_path):
        raise ValueError
    assert (tmp_path / "note").read_text() == "mine"
    assert jax.process_count() == 1
