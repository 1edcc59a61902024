"""Long and large videos through an autoencoder, in memory that does not grow.

A video goes through in temporal chunks: the first of 1 + r k frames, the others of r k.
The frames of the past that the convolutions need are carried from chunk to chunk
(`nn.convolution`), so the result is that of the whole video at once. Frames too large
for the device are cut into tiles, each with a state of its own (`autoencoding.tiling`),
or split over a mesh's `context` axis, with halos (`jax.set_mesh`).

    latents = encode(model, frames)          lazily: iterables in, iterables out
    video = decode(model, latents)
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import jax
import numpy as np

from soraflax.autoencoding import tiling
from soraflax.nn import autoencoder, convolution
from soraflax.pretrained import models

Method = Literal["encode", "decode"]


@dataclasses.dataclass(frozen=True)
class StreamConfig:
    """The division of a video into chunks and tiles.

    Attributes:
      chunk: latent frames of a chunk; the first one has one more.
      tile: (height, width) of a tile in pixels; None for whole frames.
      overlap: least overlap of neighbouring tiles in pixels.
    """

    chunk: int = 2
    tile: tuple[int, int] | None = None
    overlap: int = 64

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ValueError(f"chunk {self.chunk}: use 1 latent frame or more")
        if self.overlap < 0:
            raise ValueError(f"overlap {self.overlap}: use 0 pixels or more")


@functools.partial(
    jax.jit, static_argnames=("module", "method", "first"), donate_argnames="state"
)
def run_chunk(
    module: autoencoder.Autoencoder,
    params: Any,
    *,
    state: Any,
    x: Any,
    method: Method,
    first: bool,
) -> tuple[jax.Array, Any]:
    """One chunk through the encoder or the decoder.

    Args:
      module: the autoencoder.
      params: its parameters.
      state: state that the chunk before returned; `{}` for the first. It is donated.
      x: video `[B, T, H, W, 3]` to encode, latents `[B, t, h, w, z]` to decode.
      method: 'encode' or 'decode'.
      first: whether this is the first chunk.

    Returns:
      The posterior's mean or the video, and the state for the next chunk.
    """
    y, updated = module.apply(
        {"params": params, convolution.STREAM: state},
        x,
        first=first,
        method=method,
        mutable=[convolution.STREAM],
    )
    return y[0] if method == "encode" else y, updated.get(convolution.STREAM, {})


def encode(
    model: models.AutoencoderModel,
    frames: Iterable[np.ndarray],
    *,
    config: StreamConfig | None = None,
) -> Iterator[np.ndarray]:
    """Latents `[t, h, w, z]`, float32, chunk by chunk.

    Args:
      model: a trained autoencoder.
      frames: `[H, W, 3]`, float in [-1, 1], one by one; 1 + r n of them.
      config: chunks and tiles.

    Raises:
      ValueError: a side off the grid at once, a number of frames off it at the end,
        with the nearest values on it; no frames, or pixels that are not float or not
        finite.
    """
    config, sizes = config or StreamConfig(), model.config
    run = _Tiled(model, config, method="encode")
    length, count, stream = sizes.temporal_ratio * config.chunk, 0, iter(frames)
    while part := list(itertools.islice(stream, length + (not count))):
        chunk = _checked(part, count)
        count += len(part)
        sizes.latent_grid(count, *chunk.shape[1:3])
        yield run(chunk)
    if not count:
        raise ValueError("a video of no frames: give 1 or more")


def decode(
    model: models.AutoencoderModel,
    latents: Iterable[np.ndarray],
    *,
    config: StreamConfig | None = None,
) -> Iterator[np.ndarray]:
    """Video `[T, H, W, 3]`, float32, not clipped, chunk by chunk.

    Args:
      model: a trained autoencoder.
      latents: `[t, h, w, z]`, of any lengths; together one video.
      config: chunks and tiles.

    Raises:
      ValueError: no latents, or of another number of channels.
    """
    config = config or StreamConfig()
    run, chunk = _Tiled(model, config, method="decode"), None
    for chunk in _rechunked(latents, config.chunk):
        if chunk.shape[-1] != model.config.latent_channels:
            raise ValueError(
                f"latents of {chunk.shape[-1]} channels; this autoencoder's have "
                f"{model.config.latent_channels}"
            )
        yield run(chunk)
    if chunk is None:
        raise ValueError("no latents: give 1 or more")


def reconstruct(
    model: models.AutoencoderModel,
    frames: Iterable[np.ndarray],
    *,
    config: StreamConfig | None = None,
) -> Iterator[np.ndarray]:
    """The decoding of a video's encoding, chunk by chunk; arguments of `encode`."""
    return decode(model, encode(model, frames, config=config), config=config)


def _checked(frames: list[np.ndarray], start: int) -> np.ndarray:
    """Frames `start` and after as one float32 array."""
    if not all(np.issubdtype(frame.dtype, np.floating) for frame in frames):
        raise ValueError(f"frames of {frames[0].dtype}: give float in [-1, 1]")
    chunk = np.stack(frames).astype(np.float32, copy=False)
    if not np.isfinite(chunk).all():
        end = start + len(frames) - 1
        raise ValueError(f"frames {start} to {end}: pixels that are not finite")
    return chunk


def _rechunked(latents: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same frames, 1 + `size` first, then `size` at a time."""
    stream = (frame for part in latents for frame in part)
    length = 1 + size
    while part := list(itertools.islice(stream, length)):
        yield np.stack(part)
        length = size


class _Tiled:
    """One direction of the autoencoder, tile by tile, with a state for each tile."""

    def __init__(
        self, model: models.AutoencoderModel, config: StreamConfig, *, method: Method
    ) -> None:
        self.module = autoencoder.Autoencoder(model.config)
        self.params = model.on_device
        self.config = config
        self.method: Method = method
        self.states: list[Any] | None = None
        self.tiles: list[tiling.Tile] = []

    def __call__(self, chunk: np.ndarray) -> np.ndarray:
        first = self.states is None
        # Tiles are cut in latent cells, so that both sides of a tile are on the grid.
        ratio = self.module.config.spatial_ratio
        inside, outside = (ratio, 1) if self.method == "encode" else (1, ratio)
        if self.states is None:
            height, width = (side // inside for side in chunk.shape[1:3])
            self.tiles = self._tiles((height, width))
            self.states = [{} for _ in self.tiles]
        parts = []
        for index, tile in enumerate(self.tiles):
            part = tiling.crop_tile(
                chunk, (tile[0].scaled(inside), tile[1].scaled(inside))
            )
            y, state = run_chunk(
                self.module,
                self.params,
                state=self.states[index],
                x=part[None],
                method=self.method,
                first=first,
            )
            parts.append(np.asarray(y[0]))
            self.states[index] = self._kept(state)
        output_tiles = [(a.scaled(outside), b.scaled(outside)) for a, b in self.tiles]
        return tiling.blend(parts, output_tiles, ramp=self._overlap * outside)

    def _tiles(self, grid: tuple[int, int]) -> list[tiling.Tile]:
        ratio = self.module.config.spatial_ratio
        if self.config.tile is None:
            return tiling.tiles(grid, None, overlap=0)
        height, width = (side // ratio for side in self.config.tile)
        cuts = [n for n, side in zip((height, width), grid, strict=True) if n < side]
        if min(cuts, default=self._overlap + 1) <= self._overlap:
            least = (self._overlap + 1) * ratio
            raise ValueError(
                f"tiles of {self.config.tile[1]} x {self.config.tile[0]} pixels that "
                f"share {self.config.overlap}: use sides of {least} or more"
            )
        return tiling.tiles(grid, (height, width), overlap=self._overlap)

    @property
    def _overlap(self) -> int:
        """Overlap of tiles in latent cells, rounded up from pixels."""
        return -(-self.config.overlap // self.module.config.spatial_ratio)

    def _kept(self, state: Any) -> Any:
        """A tile's state: on the device if it is the only tile, else on the host."""
        if len(self.tiles) == 1 or jax.default_backend() == "cpu":
            return state
        return jax.device_get(state)
