"""Which parts of a model are on the devices, and when.

A model with an outside text encoder is taken to be large. Its encoder, its transformer
and its decoder are on the devices by turns, the first two split over the mesh that is
set (`jax.set_mesh`). Of other models the transformer stays, whole.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from soraflax import sharding
from soraflax.generation import canvas as canvases
from soraflax.generation import feature_cache, sampling
from soraflax.nn import experts
from soraflax.pretrained import abstract, arrays, models


class Residence:
    """The parts of a model, brought to the devices when they are needed.

    Attributes:
      by_turns: whether they come one after the other.
    """

    def __init__(self, model: models.VideoModel) -> None:
        """Nothing is on the devices yet."""
        self._model = model
        self.by_turns = model.config.transformer.text is None
        self._features = feature_cache.FeatureCache(model) if self.by_turns else None

    def transformer(self) -> Any:
        """The transformer's parameters on the devices."""
        mesh, config = sharding.current_mesh(), self._model.config
        if not self.by_turns or mesh is None:
            return arrays.to_devices(self._model.params)
        shardings = abstract.transformer_shardings(config.transformer, mesh)
        if config.boundary is not None:
            shardings = dict.fromkeys(experts.NAMES, shardings)
        return arrays.to_devices(self._model.params, shardings)

    def reader(
        self, to_fill: Sequence[canvases.Canvas], *, encode: bool
    ) -> Callable[[str], Any]:
        """What turns the texts of canvases into ids, or with `encode` into features.

        Where the transformer takes features the encoder is here as long as this takes.
        """
        if encode and self._features is not None:
            self._features.encode(t for c in to_fill for t in (c.text, c.negative))
            return self._features.__getitem__
        length = self._model.config.text_length
        return functools.partial(self._model.tokenizer.encode, max_length=length)

    def make_room(self, denoiser: sampling.Denoiser) -> None:
        """The transformer leaves, where parts take turns: the decoder comes."""
        if self.by_turns:
            denoiser.release()
