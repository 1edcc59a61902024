"""A trained video model in half the space: its parameters rounded to bfloat16.

Rounding makes another model of it, by a relative error of 2^-9 at most in every
parameter, and its digests say so: that of the transformer, of the autoencoder, and the
encoder's, with which the configuration is stamped anew. Latents of the encoder before
rounding are therefore refused, as those of any other. What the digests were stands in
`config.json`, under `rounded_from`.
"""

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from soraflax.pretrained import io as model_io
from soraflax.pretrained import models, sampling_defaults, training_data


def rounded(params: Any) -> Any:
    """Every floating point parameter in bfloat16, to the nearest, even at ties."""

    def to_bfloat16(array: Any) -> Any:
        array = np.asarray(array)
        is_real = jnp.issubdtype(array.dtype, np.floating)
        return array.astype(jnp.bfloat16) if is_real else array

    return jax.tree.map(to_bfloat16, params)


def save_rounded(
    source: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    autoencoder: str | os.PathLike[str] | None = None,
    trained_on: training_data.TrainingData | None = None,
    sampling: sampling_defaults.SamplingDefaults | None = None,
    files: Mapping[str, model_io.File] | None = None,
) -> str:
    """Write a video model with its parameters, and its autoencoder's, in bfloat16.

    Args:
      source: a VIDEO directory, or its `model/`.
      directory: directory to write; see `model_io.save_model`.
      autoencoder: an autoencoder of the same encoder, whose decoder was trained on,
        to take the place of the model's own.
      trained_on, sampling: for a model that does not say; None leaves them as they
        are.
      files: further files beside it, by name.

    Returns:
      The digest of the transformer's parameters.

    Raises:
      FileNotFoundError, ModelError, ConfigError: see `models.load_video_model`.
    """
    model = models.load_video_model(source)
    own = model_io.find_model(source, kind="video") / models.AUTOENCODER
    path = pathlib.Path(autoencoder or own)
    codec = models.load_autoencoder(path)
    models.check_encoder(path, codec, config=model.config)
    codec_params = rounded(codec.params)
    config = dataclasses.replace(
        model.config,
        autoencoder=models.encoder_digest(codec_params),
        trained_on=trained_on or model.config.trained_on,
        sampling=sampling or model.config.sampling,
    )
    with tempfile.TemporaryDirectory() as place:
        _save_codec(place, codec_params, codec=codec, facts=model_io.model_config(path))
        return models.save_video_model(
            directory,
            rounded(model.params),
            config=config,
            autoencoder_dir=place,
            vocabulary=model.tokenizer,
            metadata={"rounded_from": {"digest": model.digest}},
            files=files,
        )


def _save_codec(
    place: str, params: Any, *, codec: models.AutoencoderModel, facts: dict[str, Any]
) -> None:
    """Write a rounded autoencoder, with the digests that it had before."""
    origin = {"digest": codec.digest, "encoder": codec.encoder_digest}
    metadata = facts | {"rounded_from": origin}
    models.save_autoencoder(place, params, config=codec.config, metadata=metadata)
