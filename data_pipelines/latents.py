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
import numpy as np
import tqdm
from jaxtyping import Float, Float16, UInt8

from data_pipelines import account, added_captions, records, sources, transforms
from soraflax import config as config_lib
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
    def of_model(cls, model: models.AutoencoderModel) -> "LatentEncoder":
        """The encoder of an autoencoder, whose parameters are on one device in use."""
        model = dataclasses.replace(model)  # which remembers what is on a device
        return cls(
            encode=model.encode,
            digest=model.encoder_digest,
            temporal_ratio=model.config.temporal_ratio,
            spatial_ratio=model.config.spatial_ratio,
            config=json.loads(config_lib.to_json(model.config)),
        )

    def grid(self, patch: tuple[int, int, int]) -> grids.Grid:
        return grids.Grid(self.temporal_ratio, self.spatial_ratio, patch=patch)


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
      chunk: windows encoded before any is written, in the order of the clips.
      seed: PRNG seed of the random windows.
      threads: number of decoding threads.
      budgets: tokens; each clip is cached once for each of them, instead of
        `fit.max_tokens`, so that training may draw among them (`budgets`). Increasing.
    """

    fit: transforms.FitConfig = dataclasses.field(default_factory=transforms.FitConfig)
    patch: tuple[int, int, int] = (1, 2, 2)
    windows: int = 1
    batch: int = 8
    chunk: int = 512
    seed: int = 0
    threads: int = 2
    budgets: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("windows", "batch", "chunk"):
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

    Args:
      dataset: a DATASET directory of clips.
      output: the new directory.
      encoder: encoder of the clips.
      config: fitting and batching.
      overwrite: replace the dataset at `output`.

    Returns:
      The contents of dataset.json.

    Raises:
      DatasetError: `dataset` cannot be read, or `output` is in the way.
      MediaError: a clip cannot be decoded.
    """
    from data_pipelines.builders import latent_records as builder

    config = config or LatentCacheConfig()
    records.check_output(output, overwrite=overwrite)
    info, grid = records.read_info(dataset), encoder.grid(config.patch)
    splits = {
        k: records.open_dataset(dataset, k) for k, n in info["splits"].items() if n
    }
    plans = {
        name: plan_windows(clips, grid, config=config) for name, clips in splits.items()
    }
    bar = tqdm.tqdm(total=sum(map(len, plans.values())), desc="latents", unit="clip")
    with bar, records.publish(output, overwrite=overwrite) as root:
        encoding = _Encoding(encoder, config, bar=bar)
        examples = {
            name: encoding.examples(clips, plans[name])
            for name, clips in splits.items()
        }
        directory = builder.Latents(data_dir=root, examples=examples).write()
        report = list(_report(dataset, plans))
        metadata = {
            "kind": "latents",
            "account": account.summary(report),
            **_origin(dataset, info, encoder=encoder),
            "grid": dataclasses.asdict(grid),
            "config": dataclasses.asdict(config),
            "shapes": sorted(encoding.shapes),
            **measure_statistics(root / directory),
        }
        return records.write_metadata(root, directory, info=metadata, report=report)


def _origin(
    dataset: str | Path, info: Mapping[str, Any], *, encoder: LatentEncoder
) -> dict[str, Any]:
    """Entries of dataset.json about the clips and the encoder of the latents."""
    digest = records.dataset_digest(dataset)
    return {
        "name": info.get("name", ""),
        "source": {"path": str(dataset), "digest": digest},
        "encoder": {"digest": encoder.digest, "config": dict(encoder.config)},
    }


def _report(
    dataset: str | Path, plans: Mapping[str, Sequence["ClipWindow"]]
) -> Iterator[dict[str, Any]]:
    """The lines of the clips' own report, with the windows of each."""
    return account.with_windows(
        records.read_report(dataset),
        [
            (window.clip, window.id, window.start, window.fit)
            for windows in plans.values()
            for window in windows
        ],
        splits={w.clip: split for split, windows in plans.items() for w in windows},
    )


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
    windows = []
    for index in range(len(clips)):
        clip = clips[index]
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
    """Batches of `group_by_size` with their clips and videos, decoded by threads."""
    batches = group_by_size(windows, batch)

    def load(group: list[tuple[int, ClipWindow]]) -> Any:
        return group, [load_window(clips, window) for _, window in group]

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4)
    yield from grain.MapDataset.source(batches).map(load).to_iter_dataset(options)


class _Encoding:
    """The encoding of the splits of a dataset, under one progress bar.

    Attributes:
      shapes: shapes of the latents so far.
    """

    def __init__(
        self, encoder: LatentEncoder, config: LatentCacheConfig, *, bar: Any
    ) -> None:
        self.encoder = encoder
        self.config = config
        self.bar = bar
        self.shapes: set[tuple[int, ...]] = set()

    def examples(
        self, clips: sources.Source[records.ClipRecord], windows: Sequence[ClipWindow]
    ) -> Iterator[dict[str, Any]]:
        """The examples of one split, in the order of its windows.

        Within a chunk windows are encoded by size; `finished` brings them back.
        """
        for start in range(0, len(windows), self.config.chunk):
            chunk = windows[start : start + self.config.chunk]
            finished: dict[int, dict[str, Any]] = {}
            for group, loaded in fitted_batches(
                clips, chunk, batch=self.config.batch, threads=self.config.threads
            ):
                videos = [video for _, video in loaded]
                latents = encode_batch(self.encoder, videos, batch=self.config.batch)
                self.shapes.add(latents.shape[1:])
                for (position, window), (clip, _), latent in zip(
                    group, loaded, latents, strict=True
                ):
                    record = LatentRecord(
                        window.id, latent, window.fit.fps, clip.captions, clip.truth
                    )
                    finished[position] = record.to_example()
                self.bar.update(len(group))
            yield from (finished[position] for position in range(len(chunk)))


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

    from soraflax.nn import autoencoder

    built: Any = tfds.builder_from_directory(str(directory))
    split = "train" if "train" in built.info.splits else next(iter(built.info.splits))
    source = built.as_data_source(split)
    statistics = autoencoder.latent_statistics(
        LatentRecord.from_example(example).latent for example in source
    )
    return {"mean": list(statistics.mean), "std": list(statistics.std)}


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
