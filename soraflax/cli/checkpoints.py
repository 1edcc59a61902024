"""Which autoencoder a command is given."""

import dataclasses
import pathlib

from soraflax.pretrained import io as model_io
from soraflax.pretrained import models


def autoencoder_directory(checkpoint: pathlib.Path) -> pathlib.Path:
    """Where the autoencoder is: `checkpoint` itself, or inside the video model there.

    Raises:
      FileNotFoundError: no model there.
    """
    directory = model_io.find_model(checkpoint, kind="autoencoder")
    if model_io.model_config(directory).get("kind") == "video":
        return directory / models.AUTOENCODER
    return directory


def load_autoencoder(
    checkpoint: pathlib.Path,
    *,
    dtype: str | None = None,
    cache: pathlib.Path | None = None,
) -> models.AutoencoderModel:
    """The autoencoder at `checkpoint`, or of the video model there.

    Args:
      checkpoint: directory of either.
      dtype: to compute in; None is the checkpoint's own.
      cache: as of `models.load_autoencoder`.

    Raises:
      FileNotFoundError, ModelError, ConfigError: see `pretrained.load_autoencoder`.
    """
    model = models.load_autoencoder(autoencoder_directory(checkpoint), cache=cache)
    if dtype is None:
        return model
    config = dataclasses.replace(model.config, dtype=dtype)
    return dataclasses.replace(model, config=config)
