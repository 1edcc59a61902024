"""Clips to latents: fitted, decoded by threads, encoded by size, damage of one clip.

encode_clips    a few clips at a time, each read once, in their order
Moments         sums over latent cells, which add up over whoever encoded them
"""

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import Num

from data_pipelines import latents, records
from soraflax.nn import autoencoder
from soraflax.ops import grid as grids


@dataclasses.dataclass(frozen=True)
class Moments:
    """Sums over latent cells, in float64, that add up over parts.

    Attributes:
      count: cells.
      total: sum of each channel; empty before there is a cell.
      squares: sum of squares of each channel.
    """

    count: int = 0
    total: tuple[float, ...] = ()
    squares: tuple[float, ...] = ()

    @classmethod
    def of(cls, latent: Num[np.ndarray, "... z"]) -> "Moments":
        cells = np.asarray(latent, np.float64).reshape(-1, latent.shape[-1])
        sums = (cells.sum(axis=0), np.square(cells).sum(axis=0))
        return cls(len(cells), *(tuple(s.tolist()) for s in sums))

    def __add__(self, other: "Moments") -> "Moments":
        if not self.count or not other.count:
            return self if self.count else other
        pairs = ((self.total, other.total), (self.squares, other.squares))
        sums = (tuple(np.add(*pair).tolist()) for pair in pairs)
        return Moments(self.count + other.count, *sums)

    def statistics(self) -> autoencoder.LatentStatistics:
        """Mean and standard deviation of each channel.

        Raises:
          ValueError: no cell, or a channel that does not vary.
        """
        if not self.count:
            raise ValueError("no latents: statistics need at least one")
        mean = np.array(self.total) / self.count
        variance = np.array(self.squares) / self.count - np.square(mean)
        if np.any(variance <= 0):
            channel = int(np.argmin(variance))
            raise ValueError(f"latent channel {channel} does not vary")
        std = np.sqrt(variance)
        return autoencoder.LatentStatistics(tuple(mean.tolist()), tuple(std.tolist()))


@dataclasses.dataclass
class Encoded:
    """What came of some clips.

    Attributes:
      examples: latents, as TFDS examples.
      windows: clip, window, first frame and fitted size of each.
      failed: id of a clip to why it could not be decoded.
      shapes: shapes of the latents.
      moments: count, sums and sums of squares of the cells of each channel.
    """

    examples: list[Mapping[str, Any]] = dataclasses.field(default_factory=list)
    windows: list[Any] = dataclasses.field(default_factory=list)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    shapes: set[tuple[int, ...]] = dataclasses.field(default_factory=set)
    moments: Moments = dataclasses.field(default_factory=Moments)


def encode_clips(
    clips: Mapping[int, records.ClipRecord | str],
    *,
    encoder: latents.LatentEncoder,
    config: latents.LatentCacheConfig,
    grid: grids.Grid,
) -> Encoded:
    """The latents of some clips, in their order, encoded by size.

    Args:
      clips: clips by their index in their split, or why one cannot be read.
      encoder: encoder of the clips.
      config: fitting and batching.
      grid: legal sizes.

    Raises:
      ValueError: the encoder's latents are not finite.
    """
    found = Encoded()
    windows: list[latents.ClipWindow] = []
    whole: dict[int, records.ClipRecord] = {}
    for index, clip in clips.items():
        if isinstance(clip, str):
            found.failed[f"record {index}"] = clip
            continue
        whole[index] = clip
        try:
            windows += latents.plan_clip(clip, index, grid=grid, config=config)
        except ValueError as error:
            found.failed[clip.id] = str(error)
    done: dict[int, np.ndarray] = {}
    for group, videos in _decoded(whole, windows, config=config, failed=found.failed):
        encoded = latents.encode_batch(encoder, videos, batch=config.batch)
        done |= dict(zip(group, encoded, strict=True))
    for position, window in enumerate(windows):
        if window.clip in found.failed:
            continue
        latent, clip = done[position], whole[window.index]
        record = latents.LatentRecord(
            window.id, latent, window.fit.fps, clip.captions, clip.truth
        )
        found.examples.append(record.to_example())
        found.windows.append(
            (window.clip, window.id, window.start, dataclasses.asdict(window.fit))
        )
        found.shapes.add(latent.shape)
        found.moments += Moments.of(latent)
    return found


def _decoded(
    clips: Mapping[int, records.ClipRecord],
    windows: Sequence[latents.ClipWindow],
    *,
    config: latents.LatentCacheConfig,
    failed: dict[str, str],
) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    """Positions and videos of windows of one size, decoded by threads.

    Clips that cannot be decoded are added to `failed`, and said.
    """

    def load(group: list[tuple[int, latents.ClipWindow]]) -> Any:
        loaded = []
        for position, window in group:
            try:
                _, video = latents.load_window(clips, window)  # pyright: ignore[reportArgumentType]
                loaded.append((position, window, video, None))
            except (ValueError, OSError) as error:
                loaded.append((position, window, None, str(error)))
        return loaded

    groups = latents.group_by_size(windows, config.batch)
    options = grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=4)
    for loaded in grain.MapDataset.source(groups).map(load).to_iter_dataset(options):
        for _, window, _, reason in loaded:
            if reason is not None and window.clip not in failed:
                failed[window.clip] = reason
                print(f"{reason}; it is left out", file=sys.stderr, flush=True)
        kept = [(position, video) for position, _, video, why in loaded if why is None]
        if kept:
            yield [position for position, _ in kept], [video for _, video in kept]
