"""Latents at rest: every clip through the encoder once, before the transformer trains.

    plan    each clip is fitted to the grid (`transforms.plan_fit`), long ones cut
    encode  clips of one fitted size together, so that few shapes are compiled
    write   one ArrayRecord example per window, the files of `data_pipelines.records`

The digests of the encoder and of the clips' manifest, and the statistics of each latent
channel, are stored beside the latents; `open_latents` refuses latents of another
encoder than the one it is asked for.
"""

import collections
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
from jaxtyping import Float, Float16, UInt8

from data_pipelines import (
    added_captions,
    manifests,
    mirrors,
    records,
    sources,
    transforms,
)
from soraflax import config as config_lib
from soraflax import media, sharding
from soraflax.nn import autoencoder
from soraflax.ops import grid as grids
from soraflax.pretrained import models


@dataclasses.dataclass(frozen=True)
class LatentEncoder:
    """An encoder of clips, with its identity.

    Attributes:
      encode: video `[B, T, H, W, 3]` float32 in [-1, 1] to mean `[B, t, h, w, z]`.
      digest: digest of its parameters; latents of another digest are refused.
      temporal_ratio: r, frames per latent frame after the first.
      spatial_ratio: s, pixels per latent cell along a side.
      config: record stored beside the digest (JSON types).
    """

    encode: Callable[[np.ndarray], Any]
    digest: str
    temporal_ratio: int
    spatial_ratio: int
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_model(
        cls, model: models.AutoencoderModel, *, devices: Sequence[Any] = ()
    ) -> "LatentEncoder":
        """The encoder of an autoencoder.

        Args:
          model: the autoencoder.
          devices: devices of this process that share each batch, which they divide; by
            default it is encoded by one.
        """
        model = dataclasses.replace(model)  # which remembers what is on a device
        return cls(
            encode=_divided(model, devices) if len(devices) > 1 else model.encode,
            digest=model.encoder_digest,
            temporal_ratio=model.config.temporal_ratio,
            spatial_ratio=model.config.spatial_ratio,
            config=json.loads(config_lib.to_json(model.config)),
        )

    def grid(self, patch: tuple[int, int, int]) -> grids.Grid:
        return grids.Grid(self.temporal_ratio, self.spatial_ratio, patch=patch)


def _divided(
    model: models.AutoencoderModel, devices: Sequence[Any]
) -> Callable[[np.ndarray], Any]:
    """The encoding of batches whose clips are dealt to several devices."""
    mesh = sharding.make_mesh(data=len(devices), devices=devices)
    module = autoencoder.Autoencoder(model.config)

    @jax.jit
    def encode(params: Any, video: Any) -> Any:
        return module.apply({"params": params}, video, method="encode")[0]

    params = jax.device_put(model.params, sharding.replicated(mesh))

    def on_all(video: np.ndarray) -> Any:
        with jax.set_mesh(mesh):
            clips = jax.device_put(video, sharding.batch_sharding(mesh))
            return encode(params, clips)

    return on_all


@dataclasses.dataclass(frozen=True)
class LatentCacheConfig:
    """Fitting and encoding of clips.

    Attributes:
      fit: limits of a fitted clip.
      patch: patch of the transformer that will read the latents.
      windows: most windows of a clip longer than the limit, spread evenly; 1 takes one
        at random.
      batch: clips encoded together; a shorter batch is filled up, so that each fitted
        size is compiled once.
      chunk: clips encoded before any is written, in their order.
      seed: PRNG seed of the random windows.
      threads: number of decoding threads.
      budgets: tokens; each clip is cached once for each of them, instead of
        `fit.max_tokens`, so that training may draw among them (`budgets`). Increasing.
      enabled: cache clips; False encodes each as it is drawn (`budgets.VideoLatents`).
      measured: clips whose latents are measured for the statistics, where none are
        cached.
    """

    fit: transforms.FitConfig = dataclasses.field(default_factory=transforms.FitConfig)
    patch: tuple[int, int, int] = (1, 2, 2)
    windows: int = 1
    batch: int = 8
    chunk: int = 512
    seed: int = 0
    threads: int = 2
    budgets: tuple[int, ...] = ()
    enabled: bool = True
    measured: int = 256

    def __post_init__(self) -> None:
        for name in ("windows", "batch", "chunk", "measured"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: use 1 or more")
        if (
            list(self.budgets) != sorted(set(self.budgets))
            or min(self.budgets, default=1) < 1
        ):
            raise ValueError(
                f"budgets {self.budgets}: use increasing numbers from 1 on"
            )
        if self.budgets and self.windows > 1:
            raise ValueError(f"windows {self.windows} with budgets: use 1")
        if self.budgets and not self.enabled:
            raise ValueError(
                f"budgets {self.budgets} with enabled False: data.budgets.tokens alone "
                "are what clips are drawn at; leave budgets empty"
            )


@dataclasses.dataclass(frozen=True)
class LatentRecord:
    """The latent of one window of a clip.

    Attributes:
      id: id of the clip, with `#k` for window k where it has several.
      latent: posterior mean, not normalised; stored as float16.
      fps: frames per second of the encoded video.
      captions: source name to text.
      truth: ground truth of a procedural clip; empty for others.
    """

    id: str
    latent: Float[np.ndarray, "t h w z"]
    fps: float
    captions: Mapping[str, str]
    truth: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_example(self) -> dict[str, Any]:
        """The TFDS example; `captions` and `truth` travel as JSON."""
        return {
            "id": self.id,
            "latent": np.ascontiguousarray(self.latent, "<f2").tobytes(),
            "shape": np.array(self.latent.shape, np.int32),
            "fps": np.float32(self.fps),
            "captions": json.dumps(self.captions, sort_keys=True),
            "truth": json.dumps(self.truth, sort_keys=True),
        }

    @classmethod
    def from_example(cls, example: Mapping[str, Any]) -> "LatentRecord":
        """Inverse of `to_example`, from what a TFDS data source returns.

        Raises:
          ValueError: it holds no latent, or an impossible frame rate.
        """
        records.check_rate(float(example["fps"]))
        flat = np.frombuffer(bytes(example["latent"]), "<f2")
        return cls(
            id=_text(example["id"]),
            latent=flat.reshape([int(size) for size in example["shape"]]),
            fps=float(example["fps"]),
            captions=json.loads(_text(example["captions"])),
            truth=json.loads(_text(example["truth"])),
        )


class LatentDataset(records.RecordDataset[LatentRecord]):
    """Random access to the latents of one split; made by `open_latents`.

    Attributes:
      info: contents of dataset.json.
      digest: digest of the encoder.
      mean, std: statistics of each channel, over the training split.
      shapes: the distinct `(t, h, w, z)` of all splits.
      budgets: tokens that each clip was cached for, one record after the other; empty
        where each was cached once.
    """

    def __init__(
        self,
        source: Any,
        info: Mapping[str, Any],
        *,
        reopen: Callable[[], Any] | None = None,
        added: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        parse = LatentRecord.from_example
        super().__init__(source, info, parse=parse, reopen=reopen, added=added)
        self.digest: str = info["encoder"]["digest"]
        self.mean = np.array(info["mean"], np.float32)
        self.std = np.array(info["std"], np.float32)
        self.shapes = [tuple(shape) for shape in info["shapes"]]
        self.budgets = tuple(info["config"].get("budgets", ()))


def open_latents(
    path: str | Path, split: str = "train", *, digest: str | None = None
) -> LatentDataset:
    """Open one split of a latent dataset.

    Args:
      path: a directory that `cache_latents` wrote.
      split: 'train' or 'validation'.
      digest: digest of the encoder they must come from; None for any.

    Raises:
      DatasetError: no dataset there, a damaged one, or latents of another encoder.
    """
    info = records.read_info(path)
    if info.get("kind") != "latents":
        raise records.DatasetError(f"{path}: holds {info.get('kind')}, not latents")
    manifests.check_latents(info, origin=mirrors.named(path, records.INFO))
    stored = info["encoder"]["digest"]
    if digest is not None and digest != stored:
        raise records.DatasetError(
            f"{path}: latents of encoder {stored[:12]}, but {digest[:12]} is in use; "
            "cache them again with this encoder"
        )
    return LatentDataset(
        records.open_source(path, split),
        info,
        reopen=functools.partial(records.reopen_source, path, split),
        added=added_captions.read(path),
    )


def cache_latents(
    dataset: str | Path,
    output: str | Path,
    *,
    encoder: LatentEncoder,
    config: LatentCacheConfig | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Encode every split of a clip dataset; all or nothing is written.

    What was encoded when it was stopped is kept, and not encoded again
    (`latent_parts`, which also has several workers share the work).

    Args:
      dataset: a DATASET directory of clips.
      output: the new directory.
      encoder: encoder of the clips.
      config: fitting and batching.
      overwrite: replace the dataset at `output`.

    Returns:
      The contents of dataset.json.

    Raises:
      DatasetError: `dataset` cannot be read, `output` is in the way, or more than one
        in 100 clips cannot be decoded.
    """
    from data_pipelines import latent_parts

    records.check_output(output, overwrite=overwrite)
    job = latent_parts.CacheJob(
        dataset, output, encoder=encoder, config=config or LatentCacheConfig()
    )
    job.encode()
    return job.finish(overwrite=overwrite)


@dataclasses.dataclass(frozen=True)
class ClipWindow:
    """One window of one clip.

    Attributes:
      index: index of the clip in its split.
      clip: id of the clip.
      id: id of the latent.
      fit: fitted size and rate of the clip.
      start: first native frame.
    """

    index: int
    clip: str
    id: str
    fit: transforms.FitPlan
    start: int


def plan_windows(
    clips: sources.Source[records.ClipRecord],
    grid: grids.Grid,
    *,
    config: LatentCacheConfig,
) -> list[ClipWindow]:
    """The windows to encode, with their sizes; at least one of every clip.

    Args:
      clips: clips of a split.
      grid: legal sizes of the autoencoder and the patch.
      config: limits, and the number of windows.
    """
    indices = range(len(clips))
    planned = (plan_clip(clips[i], i, grid=grid, config=config) for i in indices)
    return [window for windows in planned for window in windows]


def plan_clip(
    clip: records.ClipRecord,
    index: int,
    *,
    grid: grids.Grid,
    config: LatentCacheConfig,
) -> list[ClipWindow]:
    """The windows of the clip `index` of its split, with their sizes; at least one."""
    windows = []
    for budget in config.budgets or (config.fit.max_tokens,):
        fit = transforms.plan_fit(
            clip.frames,
            clip.height,
            width=clip.width,
            fps=clip.fps,
            grid=grid,
            config=dataclasses.replace(config.fit, max_tokens=budget),
        )
        suffix = f"@{budget}" if config.budgets else ""
        for name, start in _starts(clip.id, fit, index=index, config=config):
            windows.append(ClipWindow(index, clip.id, name + suffix, fit, start))
    return windows


def _starts(
    clip: str, fit: transforms.FitPlan, *, index: int, config: LatentCacheConfig
) -> list[tuple[str, int]]:
    """Id and first native frame of each window of the clip `index` of its split."""
    # As many windows as fit into the clip side by side, if so many are asked for;
    # spread evenly, the first begins with the clip and the last ends with it.
    count = min(config.windows, 1 + fit.max_start // fit.span)
    if count > 1:
        starts = np.linspace(0, fit.max_start, count).astype(int).tolist()
        return [(f"{clip}#{number}", start) for number, start in enumerate(starts)]
    rng = np.random.default_rng((config.seed, index))
    return [(clip, int(rng.integers(fit.max_start + 1)))]


def load_window(clips: sources.Source[records.ClipRecord], window: ClipWindow) -> Any:
    """The clip of a window, and its fitted video `[T, H, W, 3]` uint8."""
    clip = clips[window.index]
    video = transforms.decode_fitted(
        clip.video, window.fit, start=window.start, name=clip.id
    )
    return clip, video


def group_by_size(
    windows: Sequence[ClipWindow], batch: int
) -> list[list[tuple[int, ClipWindow]]]:
    """Windows with their indices, in batches that share a fitted size."""
    groups: dict[Any, list[tuple[int, ClipWindow]]] = collections.defaultdict(list)
    for position, window in enumerate(windows):
        fit = window.fit
        groups[fit.frames, fit.height, fit.width].append((position, window))
    return [
        group[start : start + batch]
        for group in groups.values()
        for start in range(0, len(group), batch)
    ]


def fitted_batches(
    clips: sources.Source[records.ClipRecord],
    windows: Sequence[ClipWindow],
    *,
    batch: int,
    threads: int = 2,
) -> Iterator[tuple[list[tuple[int, ClipWindow]], list[Any]]]:
    """Batches of `group_by_size` with their clips and videos, decoded by threads.

    Clips that cannot be read or decoded are left out, and said.

    Raises:
      DatasetError: too many cannot be.
    """
    batches = group_by_size(windows, batch)
    damaged = sources.DamageCount(sources.max_damaged(len(clips)))

    def load(group: list[tuple[int, ClipWindow]]) -> Any:
        kept, loaded = [], []
        for position, window in group:
            try:
                loaded.append(load_window(clips, window))
                kept.append((position, window))
            except (records.DamagedRecordError, media.MediaError) as error:
                damaged.add(window.index, error, then=sources.LEFT_OUT)
        return kept, loaded

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4)
    loaded = grain.MapDataset.source(batches).map(load).to_iter_dataset(options)
    yield from (pair for pair in loaded if pair[0])


def encode_batch(
    encoder: LatentEncoder,
    videos: Sequence[UInt8[np.ndarray, "T H W 3"]],
    *,
    batch: int,
) -> Float16[np.ndarray, "B t h w z"]:
    """Latents of videos of one size, computed at the full batch size.

    Raises:
      ValueError: the encoder gave numbers that float16 cannot hold.
    """
    filled = [*videos, *[videos[-1]] * (batch - len(videos))]
    x = np.stack(filled).astype(np.float32) / np.float32(127.5) - np.float32(1)
    latents = np.asarray(encoder.encode(x), np.float32)[: len(videos)]
    largest = float(np.abs(latents).max())
    if not largest <= np.finfo(np.float16).max:
        raise ValueError(
            f"the encoder gave latents up to {largest}, which float16 cannot hold; "
            "train it further"
        )
    return latents.astype(np.float16)


def measure_statistics(directory: Path) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel over the training split."""
    import tensorflow_datasets as tfds

    built: Any = tfds.builder_from_directory(str(directory))
    split = "train" if "train" in built.info.splits else next(iter(built.info.splits))
    source = built.as_data_source(split)
    statistics = autoencoder.latent_statistics(
        LatentRecord.from_example(example).latent for example in source
    )
    return {"mean": list(statistics.mean), "std": list(statistics.std)}


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
