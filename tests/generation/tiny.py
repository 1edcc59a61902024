"""A video model of untrained tiny modules, with parameters that are not zero."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np

from soraflax import tokenizer
from soraflax.diffusion import schedule
from soraflax.nn import autoencoder, dit, text_encoder
from soraflax.ops import packing
from soraflax.pretrained import abstract, models
from soraflax.pretrained import io as model_io

ROW = packing.RowShape(tokens=256, text=128, segments=8)


def randomised(shapes, *, scale):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda a: scale * rng.normal(size=a.shape).astype(np.float32), shapes
    )


@functools.cache
def model() -> models.VideoModel:
    vocabulary = tokenizer.Tokenizer.embedded()
    encoder = autoencoder.VARIANTS["tiny"]
    text = dataclasses.replace(
        text_encoder.VARIANTS["tiny"], vocabulary=vocabulary.vocab_size
    )
    transformer = dataclasses.replace(dit.VARIANTS["tiny"], text=text, depth=1)
    params = randomised(abstract.transformer_shapes(transformer), scale=0.3)
    ae_params = randomised(abstract.autoencoder_shapes(encoder), scale=0.2)
    z = encoder.latent_channels
    config = models.VideoModelConfig(
        transformer=transformer,
        statistics=autoencoder.LatentStatistics((0.5,) * z, (2.0,) * z),
        autoencoder=models.encoder_digest(ae_params),
        row=ROW,
        text_length=32,
        shift=schedule.TokenCountShift(base=2.0, base_tokens=32),
    )
    return models.VideoModel(
        config=config,
        params=params,
        autoencoder=models.AutoencoderModel(
            encoder, ae_params, model_io.digest(ae_params)
        ),
        tokenizer=vocabulary,
        digest=model_io.digest(params),
    )


def save(directory: pathlib.Path) -> pathlib.Path:
    """The model as training exports it: `directory/ae` and, returned, the video's."""
    tiny = model()
    models.save_autoencoder(
        directory / "ae" / "model",
        tiny.autoencoder.params,
        config=tiny.autoencoder.config,
    )
    models.save_video_model(
        directory / "video" / "model",
        tiny.params,
        config=tiny.config,
        autoencoder_dir=directory / "ae",
        vocabulary=tiny.tokenizer,
    )
    return directory / "video"
