"""Latents to uint8 videos: small ones together, others in chunks and tiles."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from soraflax.autoencoding import streaming
from soraflax.ops import grid as grids
from soraflax.pretrained import models

# Pixels of a frame above which the decoder takes it in tiles of this many pixels.
MAX_PIXELS, TILE = 2**20, (512, 512)
# Latent frames above which a video is decoded in chunks.
MAX_CHUNK = 16


def decode(
    model: models.AutoencoderModel,
    latents: Sequence[Float[np.ndarray, "_t _h _w z"]],
    *,
    batch: int = 8,
) -> list[UInt8[np.ndarray, "_T _H _W 3"]]:
    """Videos of latents of any shapes; those of one shape go together.

    Args:
      model: the autoencoder.
      latents: in its own units.
      batch: largest number of them decoded at once.

    Raises:
      ValueError: pixels that are not finite.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, latent in enumerate(latents):
        groups.setdefault(latent.shape, []).append(index)
    videos: dict[int, np.ndarray] = {}
    for shape, members in groups.items():
        if shape[0] > MAX_CHUNK or _tile(model, shape):
            for index in members:
                chunks = decode_stream(model, [latents[index]])
                videos[index] = np.concatenate(list(chunks))
            continue
        for start in range(0, len(members), batch):
            part = members[start : start + batch]
            # Filled up to a power of two: few sizes of batches are few programs.
            padded = part + part[-1:] * (grids.power_of_two(len(part)) - len(part))
            decoded = model.decode(np.stack([latents[i] for i in padded]))
            videos |= zip(part, np.asarray(decoded), strict=False)
    return [videos[index] for index in range(len(latents))]


def decode_stream(
    model: models.AutoencoderModel, latents: Iterable[Float[np.ndarray, "_t h w z"]]
) -> Iterator[UInt8[np.ndarray, "_T H W 3"]]:
    """The video of a latent that comes in parts, chunk by chunk; errors of `decode`."""
    stream = iter(latents)
    first = next(stream)

    def parts() -> Iterator[np.ndarray]:
        yield first
        yield from stream

    config = streaming.StreamConfig(tile=_tile(model, first.shape))
    for chunk in streaming.decode(model, parts(), config=config):
        if not np.isfinite(chunk).all():
            raise ValueError(models.NOT_FINITE)
        yield np.round(np.clip((chunk + 1.0) * 127.5, 0, 255)).astype(np.uint8)


def _tile(
    model: models.AutoencoderModel, shape: Sequence[int]
) -> tuple[int, int] | None:
    """Sides of the tiles that frames of a latent of this shape are decoded in."""
    pixels = shape[1] * shape[2] * model.config.spatial_ratio**2
    return TILE if pixels > MAX_PIXELS else None
