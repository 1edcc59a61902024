"""Datasets of batches for the two stages of training.

    make_video_dataset   crops of clips, for the autoencoder: `{'video': uint8}`
    make_dataset         packed rows of normalised latent tokens, for the transformer

Both are grain datasets: `iter(...)` gives an iterator whose `get_state` and `set_state`
resume it bit for bit, plain JSON in between. All randomness comes from (seed, place in
the stream). Batches are numpy arrays; training lays them on its mesh.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import grain
import numpy as np

from data_pipelines import cropping, packing, records, sources, transforms
from data_pipelines import latents as stored
from soraflax import tokenizer
from soraflax.ops import packing as packed_rows
from soraflax.ops import patch

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Host:
    """Which of the processes that feed one training run this is."""

    index: int = 0
    count: int = 1


@dataclasses.dataclass(frozen=True)
class ReadConfig:
    """How far ahead data is read. None of this changes what is read, but `workers`.

    Attributes:
      threads: threads that read and decode; 0 does it in the caller.
      buffer: clips (or batches of crops) read ahead.
      ahead: batches that a thread keeps ready; 0 for none.
      workers: processes that read, transform and pack, each its own share of the
        stream; 0 for none. Order and checkpoints hold for one number of workers.
    """

    threads: int = 2
    buffer: int = 16
    ahead: int = 2
    workers: int = 0

    @property
    def options(self) -> grain.ReadOptions:
        return grain.ReadOptions(
            num_threads=self.threads, prefetch_buffer_size=self.buffer
        )


@dataclasses.dataclass(frozen=True)
class PackedDataConfig:
    """Packed rows from cached latents.

    Attributes:
      path: a latent dataset.
      also: more of them, of the same encoder, mixed in.
      weights: shares of `path` and `also` in the mixture; empty for equal ones.
      split: which split.
      rows: rows per batch, for each host, or group of hosts that hold the same rows.
      row: capacity of a row.
      shards: of a row, over which its tokens are dealt; training sets it to the groups
        of its ring (`attention.ring_shards`).
      patch: latent frames, rows and columns of a patch.
      reference_fps: frame rate at which positions count latent frames.
      deviation: what tokens are divided by, `token_deviation`: 'channel', each by its
        own standard deviation, or 'shared', all by one.
      captions: which captions, how long, how often none.
      windows: share of clips that begin in their middle (`transforms.middle`).
      open_rows: rows that the packer keeps open.
      seed: of shuffles, captions and dropout.
      passes: passes over the data; 0 for endless. The last batch of a finite dataset
        is filled with empty rows.
      read: how far ahead to read.
    """

    path: str = ""
    also: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    split: str = "train"
    rows: int = 4
    row: packed_rows.RowShape = dataclasses.field(
        default_factory=lambda: packed_rows.RowShape(2048, 512, 32)
    )
    shards: int = 1
    patch: tuple[int, int, int] = (1, 2, 2)
    reference_fps: float = 8.0
    deviation: Literal["channel", "shared"] = "channel"
    captions: transforms.CaptionConfig = dataclasses.field(
        default_factory=transforms.CaptionConfig
    )
    windows: float = 0.0
    open_rows: int = 8
    seed: int = 0
    passes: int = 0
    read: ReadConfig = dataclasses.field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        for name in ("rows", "open_rows", "shards"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: use 1 or more")
        if not 0 <= self.windows <= 1:
            raise ValueError(f"windows {self.windows}: use a share, 0 to 1")
        packed_rows.stripe_order(self.row.tokens, shards=self.shards)


@dataclasses.dataclass(frozen=True)
class VideoDataConfig:
    """Crops of clips.

    Attributes:
      path: a clip dataset.
      also: more of them, mixed in.
      weights: shares of `path` and `also` in the mixture; empty for equal ones.
      split: which split.
      crops: shapes and scales.
      seed: of shuffles, shapes and crops.
      read: how far ahead to read; `buffer` counts batches.
    """

    path: str = ""
    also: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    split: str = "train"
    crops: cropping.CropConfig = dataclasses.field(default_factory=cropping.CropConfig)
    seed: int = 0
    read: ReadConfig = dataclasses.field(default_factory=lambda: ReadConfig(buffer=4))


def make_video_dataset(
    config: VideoDataConfig,
    *,
    batch: int,
    host: Host | None = None,
    clips: Sequence[sources.Source[records.ClipRecord]] = (),
) -> grain.IterDataset[dict[str, np.ndarray]]:
    """Endless batches `{'video': [batch, T, H, W, 3] uint8}`, each of one shape.

    Args:
      config: what to read and how to crop it.
      batch: crops per batch on this host.
      host: this process's share; all of it by default.
      clips: already open datasets, instead of `config.path` and `config.also`.

    Raises:
      DatasetError: no dataset at `config.path`, or a damaged one.
    """
    host = host or Host()
    paths = (config.path, *config.also)
    clips = clips or [records.open_dataset(path, config.split) for path in paths]
    batches = cropping.CropBatches(
        clips=sources.stream(clips, seed=config.seed, weights=config.weights),
        draws=sum(len(source) for source in clips),
        config=config.crops,
        batch=batch,
        seed=config.seed,
        host=(host.index, host.count),
    )
    dataset = grain.MapDataset.source(batches).to_iter_dataset(config.read.options)
    return read_ahead(dataset, config.read)


@runtime_checkable
class LatentSource(Protocol):
    """What `latents.open_latents` returns: records, and facts about all of them.

    Attributes:
      digest: of the encoder.
      mean, std: per channel, of the training split.
      shapes: the distinct `(t, h, w, z)`.
    """

    digest: str
    mean: np.ndarray
    std: np.ndarray
    shapes: list[tuple[int, ...]]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def make_dataset(
    config: PackedDataConfig,
    *,
    encode: Callable[[str, int], np.ndarray] | None = None,
    digest: str | None = None,
    host: Host | None = None,
    latents: Sequence[LatentSource] = (),
) -> grain.IterDataset[packed_rows.Packed]:
    """Batches of `rows` packed rows (numpy), tokens clean and normalised.

    Args:
      config: what to read and how to pack it.
      encode: text to ids, `encode(text, max_length)`; the embedded vocabulary's by
        default.
      digest: of the encoder that made the latents; others are refused.
      host: this process's share; all of it by default.
      latents: already open datasets, instead of `config.path` and `config.also`.

    Raises:
      ValueError: latents of another encoder, or a clip larger than a row.
      FileNotFoundError: no dataset at `config.path`.
    """
    host = host or Host()
    latents = latents or [
        stored.open_latents(path, config.split, digest=digest)
        for path in (config.path, *config.also)
    ]
    for source in latents:
        _check_source(source, latents[0], config=config)
    transform = transforms.LatentTransform(
        patch=config.patch,
        mean=latents[0].mean,
        std=token_deviation(latents[0].std, config.deviation),
        reference_fps=config.reference_fps,
        captions=config.captions,
        encode=encode or embedded_encode(),
        windows=config.windows,
    )
    passes = config.passes or None
    places = sources.stream(
        latents, seed=config.seed, weights=config.weights, passes=passes
    ).random_map(functools.partial(_segment, transform), seed=config.seed)
    rows = packing.PackIterDataset(
        sources.shard(places, host.index, count=host.count),
        shape=config.row,
        open_rows=config.open_rows,
        read_options=config.read.options,
    )
    return read_ahead(rows.batch(config.rows, batch_fn=_pack(config)), config.read)


def _pack(config: PackedDataConfig) -> Callable[[Any], packed_rows.Packed]:
    return functools.partial(
        packing.pack_batch, shape=config.row, count=config.rows, shards=config.shards
    )


def _check_source(
    source: LatentSource, first: LatentSource, *, config: PackedDataConfig
) -> None:
    """Refuse latents of two encoders, or larger than a row, before training."""
    if source.digest != first.digest:
        raise ValueError(
            f"latents of two encoders, {first.digest[:12]} and {source.digest[:12]}, "
            "cannot be mixed: cache both with one"
        )
    for shape in source.shapes:
        t, h, w = patch.grid_of(shape, config.patch)
        packing.check_fits(t * h * w, config.captions.max_length, shape=config.row)


def token_deviation(std: np.ndarray, how: str) -> np.ndarray:
    """What each channel of a latent is divided by.

    'shared' is the root mean square of all channels' deviations. It leaves channels
    their share of the latent's energy, so that noise covers fine detail first and the
    loss weighs what is seen; 'channel' gives a channel that hardly varies, and that
    the decoder hardly uses, the same weight as any other.
    """
    if how == "channel":
        return std
    return np.full_like(std, np.sqrt(np.mean(np.square(std))))


def _segment(
    transform: transforms.LatentTransform, record: Any, rng: np.random.Generator
) -> packed_rows.Segment:
    return transform(record.latent, fps=record.fps, captions=record.captions, rng=rng)


def embedded_encode() -> Callable[[str, int], np.ndarray]:
    """Text to ids by the vocabulary that ships with the package."""
    return functools.partial(_encode, tokenizer.Tokenizer.embedded())


def _encode(vocabulary: Any, text: str, max_length: int) -> np.ndarray:
    return vocabulary.encode_prefix(text, max_length=max_length).ids


def read_ahead(
    dataset: grain.IterDataset[T], config: ReadConfig
) -> grain.IterDataset[T]:
    """The same batches, made by worker processes or a thread while others are used."""
    if config.workers:
        from absl import flags

        flags.FLAGS.mark_as_parsed()  # grain's workers read absl flags
        return dataset.mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=config.workers, per_worker_buffer_size=max(1, config.ahead)
            )
        )
    if not config.ahead:
        return dataset
    return grain.experimental.ThreadPrefetchIterDataset(
        dataset, prefetch_buffer_size=config.ahead
    )
