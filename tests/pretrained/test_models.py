"""Models on disk: what is saved loads, and what does not fit together is refused."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from soraflax.nn import experts, lora
from soraflax.pretrained import abstract, models, training_data
from soraflax.pretrained import io as model_io
from tests.generation import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An autoencoder in `ae/model` and a video model in `video/model`."""
    path = tmp_path_factory.mktemp("models")
    tiny.save(path)
    return path


def assert_equal(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", ["video", "video/model"])
def test_a_video_model_is_complete(folder, name):
    model, loaded = tiny.model(), models.load_video_model(folder / name)
    assert loaded.config == model.config
    assert loaded.tokenizer == model.tokenizer
    assert loaded.digest == model_io.digest(model.params)
    assert_equal(loaded.params, model.params)
    assert_equal(loaded.autoencoder.params, model.autoencoder.params)


def test_latents_are_stamped_with_the_encoder_alone(folder):
    loaded = models.load_autoencoder(folder / "ae")
    assert loaded.encoder_digest == tiny.model().config.autoencoder
    decoder = jax.tree.map(lambda a: a + 1.0, loaded.params["decoder"])
    assert models.encoder_digest(loaded.params | {"decoder": decoder}) == (
        loaded.encoder_digest
    )
    encoder = jax.tree.map(lambda a: a + 1.0, loaded.params["encoder"])
    assert models.encoder_digest(loaded.params | {"encoder": encoder}) != (
        loaded.encoder_digest
    )


def test_models_of_another_kind_are_refused(folder):
    with pytest.raises(model_io.ModelError, match="'autoencoder', not 'video'"):
        models.load_video_model(folder / "ae")
    with pytest.raises(model_io.ModelError, match="'video', not 'autoencoder'"):
        models.load_autoencoder(folder / "video")
    with pytest.raises(model_io.ModelError, match="'video', not 'lora'"):
        models.load_adapters(folder / "video")
    with pytest.raises(FileNotFoundError, match="no such directory"):
        models.load_video_model(folder / "nowhere")


def test_another_encoder_is_refused(folder, tmp_path):
    model = tiny.model()
    other = dataclasses.replace(model.config, autoencoder="0" * 64)
    with pytest.raises(model_io.ModelError, match="trained on latents of 000000000000"):
        models.save_video_model(
            tmp_path / "other",
            model.params,
            config=other,
            autoencoder_dir=folder / "ae",
            vocabulary=model.tokenizer,
        )
    assert not (tmp_path / "other").exists()


def test_what_it_was_trained_on_is_kept_and_old_models_do_not_say(folder, tmp_path):
    model = tiny.model()
    seen = training_data.TrainingData((16, 32), (0.5, 2.0), (1, 9), (8.0, 8.0), ("a",))
    models.save_video_model(
        tmp_path / "new",
        model.params,
        config=dataclasses.replace(model.config, trained_on=seen),
        autoencoder_dir=folder / "ae",
        vocabulary=model.tokenizer,
    )
    assert models.load_video_model(tmp_path / "new").config.trained_on == seen
    path = folder / "video" / "model" / model_io.CONFIG
    header = json.loads(path.read_text())
    del header["config"]["model"]["trained_on"]  # as before there was such a field
    (tmp_path / "old").mkdir()
    shutil.copytree(folder / "video" / "model", tmp_path / "old", dirs_exist_ok=True)
    (tmp_path / "old" / model_io.CONFIG).write_text(json.dumps(header))
    assert models.load_video_model(tmp_path / "old").config.trained_on is None


def test_two_experts_lie_in_one_file(folder, tmp_path):
    model = tiny.model()
    config = dataclasses.replace(model.config, boundary=0.5)
    params = dict(zip(experts.NAMES, (model.params, model.params), strict=True))
    models.save_video_model(
        tmp_path / "two",
        params,
        config=config,
        autoencoder_dir=folder / "ae",
        vocabulary=model.tokenizer,
    )
    loaded = models.load_video_model(tmp_path / "two")
    assert loaded.config == config and loaded.digest == model_io.digest(params)
    assert_equal(loaded.params, params)


def test_adapters_name_their_base(tmp_path):
    model = tiny.model()
    config, lora_config = model.config.transformer, lora.LoraConfig(2, 4.0)
    shapes = lora.shapes(abstract.transformer_shapes(config), lora_config)
    params = tiny.randomised(shapes, scale=0.1)
    models.save_adapters(
        tmp_path, params, lora_config=lora_config, config=config, base=model.digest
    )
    loaded = models.load_adapters(tmp_path)
    assert (loaded.config, loaded.lora_config) == (config, lora_config)
    assert loaded.base == model.digest and loaded.digest == model_io.digest(params)
    assert_equal(loaded.params, params)
