"""Features of texts, made once, by an encoder that is in memory no longer than that.

UMT5-XXL has 5.7 billion parameters and is needed once in a video. It is on the devices
while texts are encoded, and leaves them before the transformer comes.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float32

from soraflax import sharding
from soraflax.generation import text_features
from soraflax.pretrained import io as model_io
from soraflax.pretrained import models, text_encoders


class FeatureCache:
    """The features of texts, once they are encoded.

        features = FeatureCache(model)
        features.encode(["a red ball", ""])
        features["a red ball"]  # [512, 4096]

    Rows past a text are zeros, to which the transformer attends as it did in training.
    """

    def __init__(self, model: models.VideoModel) -> None:
        """`model`: whose text comes as features."""
        self._model = model
        self._known: dict[str, np.ndarray] = {}

    def __getitem__(self, text: str) -> Float32[np.ndarray, "M E"]:
        return self._known[text]

    def encode(self, texts: Iterable[str]) -> None:
        """Encode those that are new.

        Raises:
          FileNotFoundError, ModelError: no encoder with the model, or a damaged one, or
            one of another width.
          TokenizerError: a text that is too long.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if not new:
            return
        config, directory = self._model.config, self._model.text_encoder
        length, width = config.text_length, config.transformer.text_width
        if directory is None:
            raise FileNotFoundError("the model has no text encoder with it")
        encoder = text_encoders.load_text_encoder(directory, stored=True)
        if encoder.config.width != width:
            raise model_io.ModelError(
                f"{directory}: text features of width {encoder.config.width}; the "
                f"transformer takes {width}"
            )
        mesh = sharding.current_mesh()
        if mesh is not None:  # its rows are texts, which every device takes some of
            mesh = sharding.make_mesh(devices=mesh.devices.reshape(-1).tolist())
        dtype = config.transformer.dtype
        made = text_features.FeatureEncoder(encoder, dtype=dtype, mesh=mesh).encode(
            new, max_length=length
        )
        for text, features in zip(new, made, strict=True):
            padded = np.zeros((length, width), np.float32)
            padded[: len(features)] = features
            self._known[text] = padded
