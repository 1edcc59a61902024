"""Text features of a run: of its own encoder, of its width, none cut; or refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import records
from experiments.configs import wan2_1_t2v_1_3b
from experiments.stages.video import config as stage_config
from experiments.stages.video import data
from soraflax import config as config_lib
from soraflax import sharding
from soraflax.nn import autoencoder, dit
from soraflax.pretrained import models, text_encoders
from tests.data_pipelines import clip_data
from tests.experiments import world


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    clips = clip_data.write_clips(folder / "clips", train=2, validation=1)
    values = wan2_1_t2v_1_3b.get_config("tiny")
    values.autoencoder = "AE"
    values.text_encoder = str(world.write_text_encoder(folder / "text"))
    values.data.path = str(clips)
    values.data.features = str(world.embed(clips, folder / "text", folder / "features"))
    return config_lib.to_dataclass(values, stage_config.VideoRunConfig)


def test_an_autoencoder_waits_on_the_host(tmp_path):
    """Where latents are cached no device holds it while the transformer trains."""
    sizes = autoencoder.VARIANTS["tiny"]
    module = autoencoder.Autoencoder(sizes)
    params, _ = sharding.init(module, jax.random.key(0), jnp.zeros((1, 1, 8, 8, 3)))
    models.save_autoencoder(tmp_path / "model", params, config=sizes)
    before = {id(array) for array in jax.live_arrays()}
    held = data.TrainedEncoder.load(str(tmp_path))
    leaves = jax.tree.leaves(held.model.params)
    assert leaves and all(isinstance(leaf, np.ndarray) for leaf in leaves)
    assert {id(array) for array in jax.live_arrays()} <= before


def test_the_encoder_goes_with_the_model(config):
    text = data.TextSource.find(config)
    assert text.files == {text_encoders.KIND: text.encoder}
    assert text.vocabulary == text_encoders.load_vocabulary(config.text_encoder)
    assert set(text.identity) == {"encoder", "vocabulary"}


def test_features_of_another_encoder_are_refused(config, tmp_path):
    other = world.write_text_encoder(tmp_path / "other", seed=1)
    with pytest.raises(records.DatasetError, match=r"features of encoder .* is in use"):
        data.TextSource.find(dataclasses.replace(config, text_encoder=str(other)))


def test_features_of_other_sizes_are_refused(config):
    wide = dataclasses.replace(config.model, text_width=24)
    with pytest.raises(config_lib.ConfigError, match=r"of width 16, but .* takes 24"):
        data.TextSource.find(dataclasses.replace(config, model=wide))
    captions = dataclasses.replace(config.data.captions, max_length=8)
    short = dataclasses.replace(config.data, captions=captions)
    with pytest.raises(config_lib.ConfigError, match=r"max_length 8: .* use 16"):
        data.TextSource.find(dataclasses.replace(config, data=short))


def test_features_are_given_where_they_are_taken(config):
    without = dataclasses.replace(config.data, features="")
    own = dit.VARIANTS["tiny"]
    words = dataclasses.replace(config.evaluation, words=(("colour", "red", "blue"),))
    for changes, message in (
        ({"data": without}, "data.features is empty, but the model takes features"),
        ({"text_encoder": ""}, "text_encoder is empty, but the model takes"),
        ({"model": own}, "has a text encoder of its own .* leave data.features empty"),
        ({"evaluation": words}, "captions with other words have no features"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(config, **changes)
