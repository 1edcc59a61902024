"""Captioners on disk hold whose latents they read, and refuse those of others."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from soraflax import tokenizer
from soraflax.nn import autoencoder, captioner
from soraflax.pretrained import abstract, captioners, models
from soraflax.pretrained import io as model_io

SIZES = captioner.CaptionerConfig(
    latent_channels=4,
    vocabulary=1024,
    width=16,
    heads=2,
    mlp=32,
    encoder_depth=1,
    decoder_depth=1,
)
VOCABULARY = tokenizer.Tokenizer.embedded()


def random(shapes, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two autoencoders, `one` and `other`, and a captioner of the first."""
    root = tmp_path_factory.mktemp("captioners")
    codec = autoencoder.VARIANTS["tiny"]
    for seed, name in enumerate(("one", "other")):
        params = random(abstract.autoencoder_shapes(codec), seed)
        models.save_autoencoder(root / name, params, config=codec)
    encoder = models.load_autoencoder(root / "one").encoder_digest
    config = captioners.CaptionerModelConfig(
        SIZES,
        autoencoder.LatentStatistics((0.0,) * 4, (1.0,) * 4),
        autoencoder=encoder,
    )
    params = random(captioners.shapes(SIZES), 2)
    captioners.save_captioner(
        root / "whole",
        params,
        config=config,
        vocabulary=VOCABULARY,
        autoencoder_dir=root / "one",
    )
    captioners.save_captioner(
        root / "bare", params, config=config, vocabulary=VOCABULARY
    )
    return root, config, params


def test_what_is_saved_is_read_back(folders):
    root, config, params = folders
    whole = captioners.load_captioner(root / "whole")
    assert whole.config == config and whole.tokenizer == VOCABULARY
    jax.tree.map(np.testing.assert_array_equal, whole.params, params)
    assert whole.autoencoder.encoder_digest == config.autoencoder
    bare = captioners.load_captioner(
        root / "bare", codec=models.load_autoencoder(root / "one")
    )
    assert bare.digest == whole.digest


def test_another_encoder_is_refused_both_ways(folders):
    root, config, params = folders
    other = models.load_autoencoder(root / "other")
    with pytest.raises(model_io.ModelError, match="reads latents of encoder"):
        captioners.load_captioner(root / "bare", codec=other)
    with pytest.raises(model_io.ModelError, match="reads latents of encoder"):
        captioners.save_captioner(
            root / "wrong",
            params,
            config=config,
            vocabulary=VOCABULARY,
            autoencoder_dir=root / "other",
        )
    assert not (root / "wrong").exists()
    with pytest.raises(ValueError, match="statistics of 4 channels, latents of 3"):
        dataclasses.replace(
            config, captioner=dataclasses.replace(SIZES, latent_channels=3)
        )


def test_a_model_of_another_kind_or_vocabulary_is_refused(folders):
    root, config, params = folders
    with pytest.raises(model_io.ModelError, match="of kind 'autoencoder', not 'capt"):
        captioners.load_captioner(root / "one")
    small = dataclasses.replace(
        config, captioner=dataclasses.replace(SIZES, vocabulary=1000)
    )
    with pytest.raises(model_io.ModelError, match=r"1024 pieces, but .* writes 1000"):
        captioners.save_captioner(
            root / "small", params, config=small, vocabulary=VOCABULARY
        )
    header = json.loads((root / "bare" / "config.json").read_text())
    assert header["config"]["kind"] == "captioner"
