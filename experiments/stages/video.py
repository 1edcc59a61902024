"""Stage two: the packed diffusion transformer, from latents and captions.

`data.path` names latents, or clips that are first encoded into `WORKDIR/latents`.
`WORKDIR/model` is the result and needs nothing beside it: averaged parameters, their
configuration, the autoencoder and the vocabulary.
"""

import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from data_pipelines import latents, pipeline, records
from experiments.stages import common
from soraflax import config as config_lib
from soraflax import flops, sharding, tokenizer
from soraflax.evaluation import validation
from soraflax.nn import autoencoder, dit
from soraflax.ops import attention, packing
from soraflax.pretrained import models
from soraflax.train import denoising, loop, mesh_checks, metrics, optimizer


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Validation loss at fixed noise levels.

    Attributes:
      batches: packed batches of held-out clips, at most.
    """

    batches: int = 2

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise ValueError(f"batches {self.batches}: use 1 or more")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run of this stage is made of.

    Attributes:
      stage: says that it is this one.
      autoencoder: folder of the trained autoencoder.
      data: latents (or clips), captions and rows.
      cache: how clips are encoded, where `data.path` holds clips.
      seed: of parameters, levels and noise.
      distributed: several processes form one run (`jax.distributed`).
      compilation_cache: folder in which compiled programs are kept; none by default.
    """

    stage: Literal["video"]
    autoencoder: str
    data: pipeline.PackedDataConfig
    cache: latents.LatentCacheConfig
    model: dit.DiTConfig
    loss: denoising.DenoisingConfig
    optimizer: optimizer.OptimizerConfig
    train: loop.TrainConfig
    evaluation: EvaluationConfig
    mesh: common.MeshConfig
    seed: int = 0
    distributed: bool = False
    compilation_cache: str = ""

    def __post_init__(self) -> None:
        if not self.data.path:
            raise ValueError("data.path is empty: give --config.data.path=DATASET")
        if not self.autoencoder:
            raise ValueError("autoencoder is empty: give --config.autoencoder=AE")
        for key in ("data", "cache"):
            patch = getattr(self, key).patch
            if patch != self.model.patch:
                raise ValueError(
                    f"{key}.patch {patch} is not model.patch; use {self.model.patch}"
                )
        row, tokens = self.data.row, self.cache.fit.max_tokens
        if tokens > row.tokens:
            raise ValueError(
                f"cache.fit.max_tokens {tokens} is more than data.row.tokens; use "
                f"{row.tokens} or less"
            )
        if self.data.captions.max_length > row.text:
            raise ValueError(
                f"data.captions.max_length {self.data.captions.max_length} is more "
                f"than data.row.text; use {row.text} or less"
            )


@dataclasses.dataclass(frozen=True)
class Encoder:
    """The trained autoencoder that the latents come from, and its folder."""

    folder: pathlib.Path
    model: models.AutoencoderModel

    @classmethod
    def load(cls, path: str) -> "Encoder":
        """Raises ModelError or FileNotFoundError where there is none."""
        model = models.load_autoencoder(path)
        model = dataclasses.replace(model, params=jax.device_put(model.params))
        return cls(pathlib.Path(path), model)

    def for_cache(self) -> latents.LatentEncoder:
        """What `cache_latents` asks for; it runs on one device."""
        return latents.LatentEncoder(
            encode=self.model.encode,
            digest=self.model.encoder_digest,
            temporal_ratio=self.model.config.temporal_ratio,
            spatial_ratio=self.model.config.spatial_ratio,
            config=json.loads(config_lib.to_json(self.model.config)),
        )


def run(values: Any, workdir: str | pathlib.Path) -> dict[str, float]:
    """Cache latents, train, export; returns what `result.json` holds.

    Raises:
      ValueError, OSError: bad input, in one line.
      Interrupted: asked to stop before the end.
    """
    config, mesh = common.begin(values, Config)
    check_layout(config, mesh)
    encoder = Encoder.load(config.autoencoder)
    vocabulary = tokenizer.Tokenizer.embedded()
    check_sizes(config, encoder, vocabulary=vocabulary)
    records.read_info(config.data.path)
    with common.folder(workdir) as path, jax.set_mesh(mesh):
        data = dataclasses.replace(
            config.data,
            path=str(find_latents(config, encoder, workdir=path)),
            shards=attention.ring_shards(config.model.heads),
        )
        job = make_job(config, data, encoder=encoder, mesh=mesh)
        state = loop.fit(
            job,
            workdir=path,
            config=config.train,
            optimizer_config=config.optimizer,
        )
        common.require_end(int(state.step), config.train.steps)
        result = job.evaluate(state.ema) if job.evaluate else {}
        export(
            config,
            data,
            encoder=encoder,
            vocabulary=vocabulary,
            params=common.to_host(state.ema, mesh),
            workdir=path,
        )
        common.write_json(path / "result.json", result)
        common.barrier("exported")
    return result


def check_layout(config: Config, mesh: Mesh) -> None:
    """Refuse a mesh that does not divide the model or its rows.

    Raises:
      ConfigError: naming both sizes and the nearest legal one.
    """
    try:
        mesh_checks.check(
            config.model,
            config.data.row,
            rows=config.data.rows * len(sharding.batch_shard_processes(mesh)),
            mesh=mesh,
            accumulate=config.train.accumulate,
        )
    except ValueError as error:
        raise config_lib.ConfigError(f"config.mesh: {error}") from error


def check_sizes(
    config: Config, encoder: Encoder, *, vocabulary: tokenizer.Tokenizer
) -> None:
    """Refuse a transformer that does not fit the autoencoder or the vocabulary.

    Raises:
      ConfigError: naming both sizes.
    """
    channels = encoder.model.config.latent_channels
    if config.model.latent_channels != channels:
        raise config_lib.ConfigError(
            f"config.model.latent_channels {config.model.latent_channels}: the "
            f"autoencoder has {channels}; use {channels}"
        )
    text = config.model.text
    if text is None:
        raise config_lib.ConfigError(
            "config.model.text is None: this stage trains the text encoder with the "
            "model; give its sizes"
        )
    if text.vocabulary != vocabulary.vocab_size:
        raise config_lib.ConfigError(
            f"config.model.text.vocabulary {text.vocabulary}: the vocabulary has "
            f"{vocabulary.vocab_size} pieces; use {vocabulary.vocab_size}"
        )


def find_latents(
    config: Config, encoder: Encoder, *, workdir: pathlib.Path
) -> pathlib.Path:
    """The latents to train on; clips are encoded into `workdir/latents` once.

    Raises:
      DatasetError: no dataset, or latents of another encoder.
      ConfigError: `workdir/latents` was cached under other settings, or from other
        clips.
    """
    source = pathlib.Path(config.data.path)
    if records.read_info(source).get("kind") == "latents":
        latents.open_latents(
            source, config.data.split, digest=encoder.model.encoder_digest
        )
        return source
    target = workdir / "latents"
    if not target.exists() and jax.process_index() == 0:
        with jax.set_mesh(sharding.make_mesh(fsdp=1, devices=jax.local_devices()[:1])):
            latents.cache_latents(
                source, target, encoder=encoder.for_cache(), config=config.cache
            )
    common.barrier("latents")
    found = latents.open_latents(
        target, config.data.split, digest=encoder.model.encoder_digest
    )
    check_source(source, target, made_from=found.info.get("source", {}))
    difference = config_lib.first_difference(config.cache, found.info["config"])
    if difference:
        key, ours, theirs = difference
        raise config_lib.ConfigError(
            f"config.cache.{key} is {ours!r}, but {target} was made with {theirs!r}; "
            f"use {theirs!r} or another workdir"
        )
    return target


def check_source(
    source: pathlib.Path, target: pathlib.Path, *, made_from: Mapping[str, str]
) -> None:
    """Refuse latents that were made from other clips than those of `source`.

    Raises:
      ConfigError: naming both datasets.
    """
    ours, theirs = records.dataset_digest(source), made_from.get("digest", "unknown")
    if ours != theirs:
        path = made_from.get("path", "an unknown dataset")
        raise config_lib.ConfigError(
            f"config.data.path {source} holds clips {ours[:12]}, but {target} was made "
            f"from {path} with clips {theirs[:12]}; use those or another workdir"
        )


def make_job(
    config: Config, data: pipeline.PackedDataConfig, *, encoder: Encoder, mesh: Mesh
) -> loop.TrainJob:
    """Data, parameters and loss of the stage, on `mesh`; latents at `data.path`."""
    module = dit.DiT(config.model)
    dataset = pipeline.make_dataset(
        data, digest=encoder.model.encoder_digest, host=common.host(mesh)
    )
    key = jax.random.key(config.seed)
    with jax.set_mesh(mesh):
        params, shardings = sharding.init(
            module,
            jax.random.fold_in(key, 0),
            example(
                data,
                config.model,
                rows=data.rows * len(sharding.batch_shard_processes(mesh)),
            ),
            mesh=mesh,
        )
    predict = denoising.predict_with(module)
    return loop.TrainJob(
        name="video",
        loss=functools.partial(denoising.loss, predict=predict, config=config.loss),
        params=params,
        shardings=shardings,
        mesh=mesh,
        key=jax.random.fold_in(key, 1),
        iterator=iter(dataset),
        measure=functools.partial(work, config.model),
        identity=config_lib.to_dict(config) | {"encoder": encoder.model.encoder_digest},
        may_differ=common.MAY_DIFFER,
        evaluate=make_validation(config, data, predict=predict, mesh=mesh),
    )


def example(
    data: pipeline.PackedDataConfig, config: dit.DiTConfig, *, rows: int
) -> packing.Packed:
    """Shapes of the rows that training sees."""
    return packing.Packed.shapes(
        data.row, rows=rows, patch_size=config.patch_size, text_width=None
    )


def make_validation(
    config: Config,
    data: pipeline.PackedDataConfig,
    *,
    predict: denoising.Predict,
    mesh: Mesh,
    open_latents: Callable[[pipeline.PackedDataConfig], Any] = lambda _: (),
) -> validation.Validation | None:
    """Validation loss on held-out clips; None where the dataset has none.

    Args:
      config: the run's.
      data: its training data.
      predict: `(params, packed) -> [B, N, P]`.
      mesh: what its rows are spread over.
      open_latents: opens those of a split, where they are not just those at their path.
    """
    if not records.read_info(data.path)["splits"].get("validation"):
        return None
    rows = data.rows * len(
        sharding.batch_shard_processes(mesh)
    )  # every process sees the same, whole
    held_out = dataclasses.replace(
        data, split="validation", passes=1, also=(), weights=(), rows=rows, windows=0.0
    )
    batches = itertools.islice(
        pipeline.make_dataset(held_out, latents=open_latents(held_out)),
        config.evaluation.batches,
    )

    def loss_at(
        params: Any, packed: packing.Packed, levels: jax.Array, noise: jax.Array
    ) -> jax.Array:
        return denoising.loss_at(
            params,
            packed,
            levels=levels,
            noise=noise,
            predict=predict,
            config=config.loss,
        )

    return validation.Validation(loss_at, batches, seed=config.seed)


def work(config: dit.DiTConfig, packed: packing.Packed) -> metrics.Work:
    """The work in a batch of packed rows."""
    sizes = flops.lengths(packed.segments, packed.text_segments)
    cost = flops.training(flops.transformer_flops(config, sizes))
    return metrics.Work(sum(sizes.tokens), packed.segments.size, cost)


def export(
    config: Config,
    data: pipeline.PackedDataConfig,
    *,
    encoder: Encoder,
    vocabulary: tokenizer.Tokenizer,
    params: Any,
    workdir: pathlib.Path,
) -> None:
    """Write `workdir/model`, which generation needs alone."""
    if jax.process_index() != 0:
        return
    found = latents.open_latents(data.path, data.split)
    std = pipeline.token_deviation(found.std, data.deviation)
    described = models.VideoModelConfig(
        transformer=config.model,
        statistics=autoencoder.LatentStatistics(
            tuple(found.mean.tolist()), tuple(std.tolist())
        ),
        autoencoder=encoder.model.encoder_digest,
        row=data.row,
        text_length=data.captions.max_length,
        reference_fps=data.reference_fps,
        process=config.loss.process,
        prediction=config.loss.prediction,
        shift=config.loss.shift,
        window=max(shape[0] for shape in found.shapes),
    )
    models.save_video_model(
        workdir / "model",
        params,
        config=described,
        autoencoder_dir=encoder.folder,
        vocabulary=vocabulary,
    )
