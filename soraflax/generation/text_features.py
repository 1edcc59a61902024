"""Captions to text features, by an encoder that is not part of the transformer.

    encoder = text_features.FeatureEncoder(text_encoders.load_text_encoder(path))
    features = encoder.encode(["a red ball", ""])   # [[5, 4096], [1, 4096]] float32

Features are unpadded: a caption has as many as it has tokens, end-of-text included.
Captions of all lengths are packed into rows (what shares a row changes nothing, as
everywhere here), so hardly anything is computed for padding, and few programs are
compiled: one for every row length, a power of two. Long rows leave less padding, and
cost more attention, which is dense over small rows. With n rows of L tokens and
features of width D the length is taken whose

    n L (1 + L / D)                                                               (1)

is least: a layer's products cost a token about 24 D^2 operations, and its attention
4 L D, which count six times here, by estimate.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from soraflax import sharding
from soraflax.nn import layers, text_encoder
from soraflax.pretrained import abstract, text_encoders

MIN_ROW = 16  # text tokens of the shortest row
MAX_ROW = 512  # of rows of many captions; a longer caption has a row of its own length
BATCH_TOKENS = 4096  # text tokens that are encoded at once, at most
CPU_BATCH_TOKENS = 1024  # on a CPU, where activations of more leave its caches
Features = Float[np.ndarray, "m D"]


class FeatureEncoder:
    """A text encoder on its devices; what it compiled is kept with it.

    Parameters occupy the devices as long as this object lives.

    Attributes:
      width: D, numbers in the features of a token.
      digest: digest of the encoder's parameters.
      tokenizer: tokenizer of the captions.
      dtype: 'float32' or 'bfloat16', in which it computes.
    """

    def __init__(
        self,
        model: text_encoders.TextEncoderModel,
        *,
        dtype: str = "float32",
        mesh: Mesh | None = None,
    ) -> None:
        """Put a model on its devices.

        Args:
          model: from `text_encoders.load_text_encoder`.
          dtype: 'float32', or 'bfloat16', in which matrices are kept as well.
          mesh: devices over which parameters and rows are split; None for one device.

        Raises:
          ValueError: an unknown dtype, or a size that does not divide over the mesh.
        """
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype {dtype!r}: use 'float32' or 'bfloat16'")
        self.width = model.config.width
        self.digest = model.digest
        self.tokenizer = model.tokenizer
        self.dtype = dtype
        self._mesh = mesh or sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])
        with jax.set_mesh(self._mesh):
            self._params = self._place(model)
            self._apply = jax.jit(functools.partial(_apply, model.config, dtype))

    def encode(
        self, texts: Sequence[str], *, max_length: int = 512, cut: bool = False
    ) -> list[Features]:
        """Features of captions, float32 `[m, D]` each.

        Args:
          texts: captions; the empty one is that of no caption, and has one feature.
          max_length: most tokens of a caption, end-of-text included.
          cut: whether a longer caption is cut, as published pipelines do.

        Raises:
          TokenizerError: a caption is longer, and not to be cut.
        """
        if cut:
            encoded = (
                self.tokenizer.encode_prefix(text, max_length=max_length).ids
                for text in texts
            )
        else:
            encoded = (self.tokenizer.encode(t, max_length=max_length) for t in texts)
        return self.encode_ids(list(encoded))

    def encode_ids(self, captions: Sequence[Int[np.ndarray, "m"]]) -> list[Features]:
        """Features of token ids, float32 `[m, D]` each."""
        found: list[Features] = [np.zeros((0, self.width), np.float32)] * len(captions)
        shards = int(self._mesh.shape["data"] * self._mesh.shape["fsdp"])
        with jax.set_mesh(self._mesh):
            lengths = [len(ids) for ids in captions]
            for length, rows in _batches(lengths, shards, width=self.width):
                ids = np.zeros((len(rows), length), np.int32)
                segments = np.zeros_like(ids)
                for row, members in enumerate(rows):
                    for number, (caption, place) in enumerate(members, start=1):
                        ids[row, place] = captions[caption]
                        segments[row, place] = number
                place_on = sharding.batch_sharding(self._mesh)
                inputs = jax.device_put((ids, segments), place_on)
                features = np.asarray(self._apply(self._params, *inputs), np.float32)
                for row, members in enumerate(rows):
                    for caption, place in members:
                        found[caption] = features[row, place].copy()
        return found

    def _place(self, model: text_encoders.TextEncoderModel) -> Any:
        """Parameters on the devices; matrices in the dtype that they are used in."""
        shardings = abstract.text_encoder_shardings(model.config, self._mesh)
        half = self.dtype == "bfloat16"

        def place(path: Any, leaf: Any, target: Any) -> jax.Array:
            matrix = str(getattr(path[-1], "key", "")) in ("kernel", "table")
            array = np.asarray(leaf)  # one at a time, where it is still in its file
            array = array.astype(jnp.bfloat16 if half and matrix else np.float32)
            return jax.device_put(array, target)

        return jax.tree_util.tree_map_with_path(place, model.params, shardings)


def _apply(
    config: text_encoder.TextEncoderConfig,
    dtype: str,
    params: Any,
    ids: Int[Array, "B M"],
    segments: Int[Array, "B M"],
) -> Float[Array, "B M D"]:
    module = text_encoder.TextEncoder(config, layers.compute_dtype(dtype))
    return module.apply({"params": params}, ids, segments)  # pyright: ignore[reportReturnType]


Placed = tuple[int, slice]  # a caption's number, and its tokens in a row


def _batches(
    lengths: Sequence[int], shards: int, *, width: int
) -> Iterator[tuple[int, list[list[Placed]]]]:
    """Row lengths, and the captions of each row of a batch.

    The number of rows is a power of two times `shards`; some may be empty.
    """
    tokens = CPU_BATCH_TOKENS if sharding.platform() == "cpu" else BATCH_TOKENS
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for longest, group in itertools.groupby(
        order, key=lambda i: max(MAX_ROW, _power(lengths[i]))
    ):
        length, rows = _cheapest(list(group), lengths, most=longest, width=width)
        if len(rows) == 1:
            length = max(MIN_ROW, _power(rows[0][-1][1].stop))
        most = max(1, tokens // length // shards) * shards
        for start in range(0, len(rows), most):
            batch = rows[start : start + most]
            count = min(most, shards * _power(-(-len(batch) // shards)))
            yield length, batch + [[] for _ in range(count - len(batch))]


def _cheapest(
    order: Sequence[int], lengths: Sequence[int], *, most: int, width: int
) -> tuple[int, list[list[Placed]]]:
    """The row length of at most `most` tokens by equation (1), and its rows."""
    least = max(MIN_ROW, _power(max(lengths[i] for i in order)))
    choices = []
    while least <= most:
        choices.append((least, _pack(order, lengths, capacity=least)))
        least *= 2
    return min(choices, key=lambda c: len(c[1]) * c[0] * (1 + c[0] / width))


def _pack(
    order: Sequence[int], lengths: Sequence[int], *, capacity: int
) -> list[list[Placed]]:
    """First fit in decreasing order: rows of captions, each with its place."""
    rows: list[list[Placed]] = []
    for caption in order:
        size = lengths[caption]
        row = next((r for r in rows if r[-1][1].stop + size <= capacity), None)
        if row is None:
            rows.append([(caption, slice(0, size))])
        else:
            start = row[-1][1].stop
            row.append((caption, slice(start, start + size)))
    return rows


def _power(size: int) -> int:
    """The least power of two that is `size` or more."""
    return 1 << (size - 1).bit_length()
