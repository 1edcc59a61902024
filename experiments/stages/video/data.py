"""What a transformer trains on: latents, cached once, and its text; both checked."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from data_pipelines import (
    latent_parts,
    latents,
    mirrors,
    pipeline,
    records,
    text_features,
)
from experiments.stages import runtime
from experiments.stages.video import config as stage_config
from soraflax import buckets, sharding, tokenizer
from soraflax import config as config_lib
from soraflax.pretrained import io as model_io
from soraflax.pretrained import models, text_encoders
from soraflax.train import saved_steps

OpenLatents = Callable[[pipeline.PackedDataConfig], Sequence[Any]]


@runtime_checkable
class CachedData(Protocol):
    """Of a run's configuration, what its latents follow from."""

    @property
    def data(self) -> pipeline.PackedDataConfig: ...
    @property
    def cache(self) -> latents.LatentCacheConfig: ...


@dataclasses.dataclass(frozen=True)
class TrainedEncoder:
    """The trained autoencoder that the latents come from.

    Attributes:
      directory: directory of the autoencoder.
      model: the autoencoder, its parameters on the host.
    """

    directory: pathlib.Path
    model: models.AutoencoderModel

    @classmethod
    def load(cls, path: str) -> "TrainedEncoder":
        """Raises ModelError or FileNotFoundError where there is none."""
        return cls(pathlib.Path(path), models.load_autoencoder(path))

    def for_cache(self, batch: int = 1) -> latents.LatentEncoder:
        """The encoder as `cache_latents` takes it.

        It is on as many devices of this process as divide `batch` clips, while in use.
        """
        local = jax.local_devices()
        count = next(n for n in range(len(local), 0, -1) if batch % n == 0)
        return latents.LatentEncoder.of_model(self.model, devices=local[:count])

    def for_drawing(self) -> latents.LatentEncoder:
        """The encoder for any thread: on one device, whatever mesh it is called on."""
        encoder = self.for_cache()
        one = sharding.make_mesh(fsdp=1, devices=jax.local_devices()[:1])

        def encode(video: np.ndarray) -> np.ndarray:
            with jax.set_mesh(one):
                return np.asarray(encoder.encode(video))

        return dataclasses.replace(encoder, encode=encode)


@dataclasses.dataclass(frozen=True)
class TextSource:
    """What captions are read by.

    Attributes:
      vocabulary: their tokenizer.
      encoder: directory of the encoder of their features; None where the transformer
        has an encoder of its own.
      origin: of those features.
    """

    vocabulary: tokenizer.Tokenizer
    encoder: pathlib.Path | None = None
    origin: text_features.FeatureOrigin | None = None

    @classmethod
    def find(cls, config: stage_config.VideoRunConfig) -> "TextSource":
        """That of a run.

        Raises:
          FileNotFoundError, ModelError: no text encoder where one is named.
          DatasetError: no features, or those of another encoder or vocabulary.
          ConfigError: features of another width, or too many of them.
        """
        if config.model.text is not None:
            return cls(tokenizer.Tokenizer.embedded())
        directory = model_io.find_model(config.text_encoder, kind=text_encoders.KIND)
        vocabulary = text_encoders.load_vocabulary(directory)
        origin = text_features.FeatureOrigin(
            model_io.model_digest(directory), vocabulary.digest
        )
        store = text_features.open_features(config.data.features, origin=origin)
        stage_config.check_features(config, store)
        return cls(vocabulary, directory, origin)

    @property
    def files(self) -> dict[str, pathlib.Path]:
        """Those that a video model cannot do without."""
        return {} if self.encoder is None else {text_encoders.KIND: self.encoder}

    @property
    def identity(self) -> dict[str, str]:
        """What a resumed run must agree in."""
        return {} if self.origin is None else dataclasses.asdict(self.origin)


def find_latents(
    config: CachedData,
    encoder: TrainedEncoder,
    *,
    workdir: buckets.Folder,
) -> str | pathlib.Path:
    """The latents to train on; clips are encoded into `workdir/latents` once.

    All processes share that work, and go on where they were stopped.

    Raises:
      DatasetError: no dataset, or latents of another encoder.
      ConfigError: `workdir/latents` was cached under other settings, or from other
        clips.
    """
    source = mirrors.named(config.data.path)
    if records.read_info(source).get("kind") == "latents":
        latents.open_latents(
            source, config.data.split, digest=encoder.model.encoder_digest
        )
        return source
    if buckets.is_bucket(workdir):
        raise config_lib.ConfigError(
            f"config.data.path {source} holds clips, and latents are not cached into a "
            "bucket: encode them first (python -m experiments.cache, with the same "
            "--config and --out LATENTS) and give --config.data.path=LATENTS"
        )
    target = pathlib.Path(workdir) / "latents"
    if saved_steps.from_first(lambda: str(target.exists())) == "False":
        cache(source, target, encoder=encoder, config=config.cache)
    cached = latents.open_latents(
        target, config.data.split, digest=encoder.model.encoder_digest
    )
    check_source(source, target, provenance=cached.info.get("source", {}))
    # What earlier ones did not have yet.
    made_with = {"budgets": (), "enabled": True} | cached.info["config"]
    difference = config_lib.first_difference(
        config.cache, made_with, ignore=("measured",)
    )
    if difference:
        key, ours, theirs = difference
        raise config_lib.ConfigError(
            f"config.cache.{key} is {ours!r}, but {target} was made with {theirs!r}; "
            f"use {theirs!r} or another workdir"
        )
    return target


def cache(
    source: str | pathlib.Path,
    target: pathlib.Path,
    *,
    encoder: TrainedEncoder,
    config: latents.LatentCacheConfig,
) -> None:
    """Encode clips by all processes; the first puts the parts together.

    Raises:
      ValueError: in all of them, where one failed.
      Interrupted: in all of them, where one was asked to stop; what is sealed stays.
    """
    one = sharding.make_mesh(fsdp=1, devices=jax.local_devices()[:1])
    with jax.set_mesh(one):  # not that of the run, which spans processes
        job = latent_parts.CacheJob(
            source, target, encoder=encoder.for_cache(config.batch), config=config
        )
        index, count = jax.process_index(), jax.process_count()
        with runtime.together("caching"):
            job.encode(index, count=count)
        with runtime.together("putting latents together"):
            if index == 0:
                job.finish()


def open_cached(
    data: pipeline.PackedDataConfig, *, digest: str
) -> list[latents.LatentDataset]:
    """The cached latents of a split.

    Raises:
      DatasetError: no dataset, a damaged one, or latents of another encoder.
    """
    paths = (data.path, *data.also)
    return [latents.open_latents(path, data.split, digest=digest) for path in paths]


def check_source(
    source: str | pathlib.Path, target: pathlib.Path, *, provenance: Mapping[str, str]
) -> None:
    """Refuse latents at `target` that were encoded from other clips than `source`.

    Raises:
      ConfigError: naming both datasets.
    """
    ours, theirs = records.dataset_digest(source), provenance.get("digest", "unknown")
    if ours != theirs:
        path = provenance.get("path", "an unknown dataset")
        raise config_lib.ConfigError(
            f"config.data.path {source} holds clips {ours[:12]}, but {target} was made "
            f"from {path} with clips {theirs[:12]}; use those or another workdir"
        )
