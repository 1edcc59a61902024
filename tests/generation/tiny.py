"""A video model of untrained tiny modules, with parameters that are not zero."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np

from soraflax import model_io, tokenizer
from soraflax.diffusion import schedule
from soraflax.generation import pretrained
from soraflax.nn import autoencoder, dit, text_encoder
from soraflax.ops import packing

ROW = packing.RowShape(tokens=256, text=128, segments=8)


def randomised(shapes, *, scale):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda a: scale * rng.normal(size=a.shape).astype(np.float32), shapes
    )


@functools.cache
def model() -> pretrained.VideoModel:
    vocabulary = tokenizer.Tokenizer.embedded()
    encoder = autoencoder.VARIANTS["tiny"]
    text = dataclasses.replace(
        text_encoder.VARIANTS["tiny"], vocabulary=vocabulary.vocab_size
    )
    transformer = dataclasses.replace(dit.VARIANTS["tiny"], text=text, depth=1)
    params = randomised(pretrained.transformer_shapes(transformer), scale=0.3)
    ae_params = randomised(pretrained.autoencoder_shapes(encoder), scale=0.2)
    z = encoder.latent_channels
    config = pretrained.VideoModelConfig(
        transformer=transformer,
        statistics=autoencoder.LatentStatistics((0.5,) * z, (2.0,) * z),
        autoencoder=pretrained.encoder_digest(ae_params),
        row=ROW,
        text_length=32,
        shift=schedule.TokenCountShift(base=2.0, base_tokens=32),
    )
    return pretrained.VideoModel(
        config=config,
        params=params,
        autoencoder=pretrained.AutoencoderModel(
            encoder, ae_params, model_io.digest(ae_params)
        ),
        tokenizer=vocabulary,
        digest=model_io.digest(params),
    )


def save(directory: pathlib.Path) -> pathlib.Path:
    """The model as training exports it: `directory/ae` and, returned, the video's."""
    tiny = model()
    pretrained.save_autoencoder(
        directory / "ae" / "model", tiny.autoencoder.params, tiny.autoencoder.config
    )
    pretrained.save_video_model(
        directory / "video" / "model",
        tiny.params,
        tiny.config,
        autoencoder_dir=directory / "ae",
        vocabulary=tiny.tokenizer,
    )
    return directory / "video"
