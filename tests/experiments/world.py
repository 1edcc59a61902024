"""The embedded world in few and small shapes: each shape is compiled for."""

import pathlib

import jax
import numpy as np
import pytest

from data_pipelines import prepare, text_features
from data_pipelines.worlds import bodies
from soraflax import tokenizer
from soraflax.generation import text_features as encoding
from soraflax.nn import text_encoder
from soraflax.pretrained import abstract, text_encoders

# Clips of one size, and images.
WORLD = bodies.WorldConfig(sizes=((48, 32),), frames=(9,), image_share=0.3)


def write(path: pathlib.Path, *, count: int, seed: int = 0) -> pathlib.Path:
    """A dataset of `count` clips; one in ten, at least one, is held out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bodies.VARIANTS, "few shapes", WORLD)
        prepare.prepare_world(
            "bodies", path, variant="few shapes", count=count, seed=seed
        )
    return path


def write_text_encoder(path: pathlib.Path, *, seed: int = 0) -> pathlib.Path:
    """A text encoder of random parameters, apart from any transformer."""
    config = text_encoder.VARIANTS["tiny"]
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32),
        abstract.text_encoder_shapes(config),
    )
    vocabulary = tokenizer.Tokenizer.embedded()
    text_encoders.save_text_encoder(path, params, config=config, vocabulary=vocabulary)
    return path


def embed(
    dataset: pathlib.Path, text: pathlib.Path, path: pathlib.Path
) -> pathlib.Path:
    """Features of a dataset's captions, of 16 tokens at most."""
    encoder = encoding.FeatureEncoder(text_encoders.load_text_encoder(text))
    text_features.embed([dataset], path, encoder=encoder, max_length=16)
    return path
