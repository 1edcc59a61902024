"""Datasets of batches for the two stages of training.

    make_video_dataset   crops of clips, for the autoencoder: `{'video': uint8}`
    make_dataset         packed rows of normalised latent tokens, for the transformer

Both are grain datasets: `iter(...)` gives an iterator whose `get_state` and `set_state`
resume it bit for bit, plain JSON in between. All randomness comes from the seed and an
element's index in the stream. Batches are numpy arrays; training lays them on its mesh.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import grain
import numpy as np
from jaxtyping import Float, Int, UInt8

from data_pipelines import budgets as budget_lib
from data_pipelines import (
    cropping,
    elastic,
    packing,
    reading,
    records,
    sources,
    transforms,
)
from data_pipelines import latents as stored
from data_pipelines import text_features as features_lib
from soraflax import tokenizer
from soraflax.ops import packing as packed_rows
from soraflax.ops import patch

MAX_REPLACED = 16  # clips in a row without features, before the run ends
T = TypeVar("T")
Encode = Callable[[str, int], Int[np.ndarray, "M"] | Float[np.ndarray, "M E"]]
"""Text and the most ids to return, to ids, of which the last is end-of-text.

Or to text features: then as many as asked for, with zeros at the end."""


HostShard = elastic.HostShard


ReadConfig = reading.ReadConfig


@dataclasses.dataclass(frozen=True)
class PackedDataConfig:
    """Packed rows from cached latents.

    Attributes:
      path: directory of a latent dataset.
      also: further latent datasets of the same encoder, mixed in.
      weights: relative frequencies of `path` and `also`; empty for equal ones.
      split: name of the split.
      features: directory of the text features of all captions (`text_features.embed`),
        where the transformer takes features; "" where it takes token ids.
      rows: rows per batch, for each host, or group of hosts that hold the same rows.
      lanes: number of parts of the stream that are packed apart; any number of hosts
        that divides it continues a run (`data_pipelines.elastic`). 0 for one for each
        host that a run begins with.
      row: capacity of a row.
      shards: shards of a row over which its tokens are striped; training sets it to
        the number of groups of its ring (`attention.ring_shards`).
      patch: latent frames, rows and columns of a patch.
      reference_fps: frame rate at which positions count latent frames.
      deviation: divisor of tokens (`token_deviation`): 'channel', each channel's own
        standard deviation, or 'shared', one for all.
      captions: choice, length and dropout of captions.
      windows: probability that a clip enters as a window that begins inside it
        (`transforms.sample_window`).
      open_rows: number of rows that the packer fills at a time.
      look_ahead: clips that wait, of which a row takes those that fill it best,
        instead of open rows; 0 for none. Long, aligned rows gain most.
      seed: PRNG seed of shuffles, captions and dropout.
      passes: passes over the data; 0 for endless. The last batch of a finite dataset
        is filled with empty rows; several hosts end apart, but where
        `train.common_end` brings them to one step.
      read: prefetching.
      budgets: tokens of a clip, drawn each time, in a curriculum.
    """

    path: str = ""
    also: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    split: str = "train"
    features: str = ""
    rows: int = 4
    lanes: int = 0
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
    look_ahead: int = 0
    seed: int = 0
    passes: int = 0
    read: ReadConfig = dataclasses.field(default_factory=ReadConfig)
    budgets: budget_lib.BudgetConfig = dataclasses.field(
        default_factory=budget_lib.BudgetConfig
    )

    def __post_init__(self) -> None:
        for name in ("rows", "open_rows", "shards"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: use 1 or more")
        for name in ("lanes", "look_ahead"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)}: use 0 or more")
        if not 0 <= self.windows <= 1:
            raise ValueError(f"windows {self.windows}: use a probability, 0 to 1")
        packed_rows.stripe_order(self.row.tokens, shards=self.shards)


@dataclasses.dataclass(frozen=True)
class VideoDataConfig:
    """Crops of clips.

    Attributes:
      path: directory of a clip dataset.
      also: further clip datasets, mixed in.
      weights: relative frequencies of `path` and `also`; empty for equal ones.
      split: name of the split.
      crops: shapes and scales.
      seed: PRNG seed of shuffles, shapes and crops.
      read: prefetching; `buffer` counts batches.
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
    host: HostShard | None = None,
    clips: Sequence[sources.Source[records.ClipRecord]] = (),
) -> grain.IterDataset[dict[str, UInt8[np.ndarray, "B T H W 3"]]]:
    """Endless batches `{'video': [B, T, H, W, 3] uint8}`, each of one shape.

    Args:
      config: datasets, and shapes and scales of crops.
      batch: crops per batch on this host.
      host: this process; the only one by default.
      clips: already open datasets, instead of `config.path` and `config.also`.

    Raises:
      DatasetError: no dataset at `config.path`, or a damaged one.
    """
    batches = _crop_batches(
        config, clips or open_clips(config), batch=batch, host=host or HostShard()
    )
    return _read_crops(batches, config.read)


def make_video_batches(
    config: VideoDataConfig,
    *,
    batch: int,
    host: HostShard | None = None,
    clips: Sequence[sources.Source[records.ClipRecord]] = (),
) -> elastic.StepBatches:
    """The batches of `make_video_dataset`, to be continued by other hosts.

    They know their clips, and how often each dataset was gone through.

    Raises:
      DatasetError: no dataset at `config.path`, or a damaged one.
    """
    host, clips = host or HostShard(), clips or open_clips(config)
    batches = _crop_batches(config, clips, batch=batch, host=host)
    return elastic.StepBatches(
        iter(_read_crops(batches, config.read)),
        clips=batches.ids,
        batch=batch * host.count,
        shares=_shares(config, clips),
    )


def open_clips(
    config: VideoDataConfig,
) -> list[records.RecordDataset[records.ClipRecord]]:
    """The clip datasets of a configuration; errors as of `records.open_dataset`."""
    paths = (config.path, *config.also)
    return [records.open_dataset(path, config.split) for path in paths]


def _crop_batches(
    config: VideoDataConfig,
    clips: Sequence[sources.Source[records.ClipRecord]],
    *,
    batch: int,
    host: HostShard,
) -> cropping.CropBatches:
    return cropping.CropBatches(
        clips=sources.stream(clips, seed=config.seed, weights=config.weights),
        draws=sum(len(source) for source in clips),
        config=config.crops,
        batch=batch,
        seed=config.seed,
        host=(host.index, host.count),
    )


def _read_crops(
    batches: cropping.CropBatches, read: ReadConfig
) -> grain.IterDataset[dict[str, Any]]:
    return reading.read_ahead(reading.StreamIterDataset(batches, read), read)


def _shares(
    config: "VideoDataConfig | PackedDataConfig", opened: Sequence[Any]
) -> list[sources.SourceShare]:
    """The parts of a stream that its datasets are; those without a path by numbers."""
    paths = (config.path, *config.also)
    if not config.path or len(paths) != len(opened):
        paths = tuple(str(number) for number in range(len(opened)))
    return sources.shares(paths, list(map(len, opened)), weights=config.weights)


@runtime_checkable
class LatentSource(Protocol):
    """A latent dataset, as `latents.open_latents` returns it.

    Attributes:
      digest: digest of the encoder.
      mean, std: statistics of each channel, over the training split.
      shapes: the distinct `(t, h, w, z)`.
    """

    digest: str
    mean: Float[np.ndarray, "z"]
    std: Float[np.ndarray, "z"]
    shapes: list[tuple[int, ...]]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def make_dataset(
    config: PackedDataConfig,
    *,
    encode: Encode | None = None,
    digest: str | None = None,
    host: HostShard | None = None,
    latents: Sequence[LatentSource] = (),
) -> grain.IterDataset[packed_rows.Packed]:
    """Batches of `rows` packed rows (numpy), tokens clean and normalised.

    Args:
      config: datasets, and the packing of rows.
      encode: function `(text, max_length) -> ids`; by default the reader of
        `config.features`, else the embedded vocabulary's.
      digest: digest of the encoder; latents of another are refused. None for any.
      host: this process; the only one by default.
      latents: already open datasets, instead of `config.path` and `config.also`.

    Raises:
      ValueError: latents of another encoder, or a clip larger than a row.
      FileNotFoundError: no dataset at `config.path`.
    """
    rounds = make_rounds(
        config, encode=encode, digest=digest, host=host, latents=latents
    )
    pack = functools.partial(
        packing.pack_batch, shape=config.row, count=config.rows, shards=config.shards
    )
    return reading.read_ahead(rounds.map(pack), config.read)


def make_rounds(
    config: PackedDataConfig,
    *,
    encode: Encode | None = None,
    digest: str | None = None,
    host: HostShard | None = None,
    latents: Sequence[LatentSource] = (),
) -> elastic.LaneIterDataset:
    """The rows of each batch of `make_dataset`, as segments; arguments as there."""
    host = host or HostShard()
    latents = budgeted(latents, config) or open_latents(config, digest=digest)
    for source in latents:
        _check_source(source, latents[0], config=config)
    transform = make_transform(config, latents[0], encode=encode)
    passes = config.passes or None
    clips = sources.stream(
        latents, seed=config.seed, weights=config.weights, passes=passes
    )
    draw = functools.partial(
        _draw_segment, transform=transform, clips=clips, draws=sum(map(len, latents))
    )
    segments = clips.random_map(draw, seed=config.seed)
    total = config.lanes or host.count
    held, rows = host.lanes(total), config.rows * host.count
    if rows % total:
        raise ValueError(
            f"lanes {total} do not divide the {rows} rows of a batch (data.rows "
            f"{config.rows} for each of {host.count} hosts); use {rows}"
        )
    lanes = {
        number: packing.PackIterDataset(
            sources.shard_stream(segments, number, count=total),
            shape=config.row,
            open_rows=config.open_rows,
            look_ahead=config.look_ahead,
            read=config.read.shared(len(held)),
        )
        for number in held
    }
    return elastic.LaneIterDataset(lanes, rows=rows // total)


def open_latents(
    config: PackedDataConfig, *, digest: str | None = None
) -> list[LatentSource]:
    """The latent datasets of a configuration, at its budgets.

    Raises:
      DatasetError: no dataset, a damaged one, or latents of another encoder.
    """
    paths = (config.path, *config.also)
    return budgeted(
        [stored.open_latents(path, config.split, digest=digest) for path in paths],
        config,
    )


def budgeted(latents: Sequence[Any], config: PackedDataConfig) -> list[Any]:
    """Sources at the budgets of a run; those that draw them themselves as they are."""
    if not config.budgets.tokens:
        return list(latents)
    return [
        source
        if hasattr(source, "draw")
        else budget_lib.BudgetedLatents(
            source, config.budgets, patch=config.patch, seed=config.seed
        )
        for source in latents
    ]


def make_batches(
    config: PackedDataConfig,
    *,
    host: HostShard,
    encode: Encode | None = None,
    digest: str | None = None,
    latents: Sequence[LatentSource] = (),
) -> elastic.LaneBatches:
    """The batches of `make_dataset`, to be continued by another number of hosts.

    Raises:
      ValueError: as of `make_dataset`.
    """
    latents = budgeted(latents, config) or open_latents(config, digest=digest)

    def with_lanes(make: Callable[..., T], lanes: int) -> T:
        return make(
            dataclasses.replace(config, lanes=lanes),
            encode=encode,
            digest=digest,
            host=host,
            latents=latents,
        )

    return elastic.LaneBatches(
        functools.partial(with_lanes, make_dataset),
        rounds=functools.partial(with_lanes, make_rounds),
        host=host,
        lanes=config.lanes,
        rows=config.rows,
        shares=_shares(config, latents),
    )


def make_transform(
    config: PackedDataConfig, source: LatentSource, *, encode: Encode | None = None
) -> transforms.LatentTransform:
    """Stored latents to segments, normalised by the statistics of `source`."""
    return transforms.LatentTransform(
        patch=config.patch,
        mean=source.mean,
        std=token_deviation(source.std, config.deviation),
        reference_fps=config.reference_fps,
        captions=config.captions,
        encode=encode or _default_encode(config),
        windows=config.windows,
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
        t, h, w = patch.patch_grid(shape, config.patch)
        packing.check_fits(t * h * w, config.captions.max_length, shape=config.row)


def token_deviation(
    std: Float[np.ndarray, "z"], scaling: str
) -> Float[np.ndarray, "z"]:
    """Divisor of each channel of a latent.

    'shared' is the root mean square of all channels' deviations. It leaves each channel
    its part of the latent's energy, so that noise covers fine detail first and the
    loss weighs what is seen; 'channel' gives a channel that hardly varies, and that
    the decoder hardly uses, the same weight as any other.
    """
    if scaling == "channel":
        return std
    return np.full_like(std, np.sqrt(np.mean(np.square(std))))


def _draw_segment(
    record: Any,
    rng: np.random.Generator,
    *,
    transform: transforms.LatentTransform,
    clips: sources.Source[Any],
    draws: int,
) -> packed_rows.Segment:
    """The segment of a clip; of another where its caption's features are damaged.

    The other is drawn, by the random numbers of the place, from the first `draws`.
    """
    failure = None
    for _ in range(MAX_REPLACED):
        try:
            captions = record.captions
            segment = transform(
                record.latent, fps=record.fps, captions=captions, rng=rng
            )
            return dataclasses.replace(segment, clip=record.id)
        except records.DamagedRecordError as error:
            failure = error
        record = clips[int(rng.integers(draws))]
    raise records.DatasetError(f"{MAX_REPLACED} clips in a row: {failure}")


def _default_encode(config: PackedDataConfig) -> Encode:
    """What reads captions, for the transformer that a configuration means."""
    if not config.features:
        return embedded_encode()
    return features_lib.FeatureReader(features_lib.open_features(config.features))


def embedded_encode() -> Encode:
    """Encoding by the vocabulary that ships with the package."""
    return functools.partial(_encode, tokenizer.Tokenizer.embedded())


def _encode(
    vocabulary: tokenizer.Tokenizer, text: str, max_length: int
) -> Int[np.ndarray, "M"]:
    return vocabulary.encode_prefix(text, max_length=max_length).ids
