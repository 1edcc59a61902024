"""A trained video model trained further on other clips: adapters of it, or all of it.

`base` is a video model; its sizes, autoencoder, vocabulary and statistics stay, and
with adapters all of its parameters do. `WORKDIR/model` is the result, a video model
like its base (adapters merged), and `WORKDIR/adapters` holds them apart.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipelines import latents, pipeline, records
from experiments.stages import common, video
from soraflax import config as config_lib
from soraflax.nn import autoencoder, dit
from soraflax.nn import lora as lora_lib
from soraflax.ops import attention
from soraflax.pretrained import io as model_io
from soraflax.pretrained import models
from soraflax.train import denoising, loop, optimizer, step


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run of this stage is made of, but the base.

    Attributes:
      stage: says that it is this one.
      base: folder of the video model that it starts from.
      lora: the adapters; None trains all parameters.
      data, cache, loss, optimizer, train, evaluation, mesh, seed, distributed,
        compilation_cache: as in `video.Config`.
    """

    stage: Literal["finetune"]
    base: str
    data: pipeline.PackedDataConfig
    cache: latents.LatentCacheConfig
    loss: denoising.DenoisingConfig
    optimizer: optimizer.OptimizerConfig
    train: loop.TrainConfig
    evaluation: video.EvaluationConfig
    mesh: common.MeshConfig
    lora: lora_lib.LoraConfig | None = None
    seed: int = 0
    distributed: bool = False
    compilation_cache: str = ""

    def __post_init__(self) -> None:
        if not self.base:
            raise ValueError("base is empty: give --config.base=VIDEO")


@dataclasses.dataclass(frozen=True)
class Start:
    """What is trained, and what it is a part of.

    Attributes:
      params: adapters, or all parameters; on the mesh.
      shardings: of each.
      whole: `(params, base) -> all parameters`, as a module takes them.
      base: frozen parameters; empty where all are trained.
    """

    params: Any
    shardings: Any
    whole: Callable[[Any, Any], Any]
    base: Any


@dataclasses.dataclass(frozen=True)
class Restated:
    """Latents that are normalised by a base's statistics, not by their own."""

    source: Any
    mean: np.ndarray
    std: np.ndarray

    @property
    def digest(self) -> str:
        return self.source.digest

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return self.source.shapes

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        return self.source[index]


def run(values: Any, workdir: str | pathlib.Path) -> dict[str, float]:
    """Cache latents, train, export; returns what `result.json` holds.

    Raises:
      ValueError, OSError: bad input, in one line.
      Interrupted: asked to stop before the end.
    """
    config, mesh = common.begin(values, Config)
    base = models.load_video_model(config.base)
    settings = check_base(config, base)
    video.check_layout(settings, mesh)
    encoder = video.Encoder.load(settings.autoencoder)
    records.read_info(config.data.path)
    with common.folder(workdir) as path, jax.set_mesh(mesh):
        data = dataclasses.replace(
            config.data,
            path=str(video.find_latents(settings, encoder, workdir=path)),
            shards=attention.ring_shards(settings.model.heads),
        )
        start = make_start(config, base, mesh=mesh)
        job = make_job(config, settings, data=data, base=base, start=start, mesh=mesh)
        state = loop.fit(
            job,
            workdir=path,
            config=config.train,
            optimizer_config=config.optimizer,
        )
        common.require_end(int(state.step), config.train.steps)
        result = job.evaluate(state.ema) if job.evaluate else {}
        export(config, base, params=common.to_host(state.ema, mesh), workdir=path)
        common.write_json(path / "result.json", result)
        common.barrier("exported")
    return result


def check_base(config: Config, base: models.VideoModel) -> video.Config:
    """The settings of a run from scratch of the base's sizes, on these data.

    Raises:
      ConfigError: what is said of the objective, the data or the adapters is not what
        the base was trained with.
    """
    made = base.config
    if made.boundary is not None:
        raise config_lib.ConfigError(
            f"config.base {config.base} has two experts; give one of one transformer"
        )
    for key, found, wanted in (
        ("loss.process", config.loss.process, made.process),
        ("loss.prediction", config.loss.prediction, made.prediction),
        ("loss.shift", config.loss.shift, made.shift),
        ("data.reference_fps", config.data.reference_fps, made.reference_fps),
    ):
        if found != wanted:
            raise config_lib.ConfigError(
                f"config.{key} is {found}, but the base was trained with {wanted}"
            )
    if config.lora is not None:
        shapes = models.transformer_shapes(made.transformer)
        try:
            lora_lib.targets(shapes, config.lora)
        except ValueError as error:
            raise config_lib.ConfigError(f"config.lora.{error}") from error
    shared = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(video.Config)
        if field.name not in ("stage", "autoencoder", "model")
    }
    folder = model_io.find_model(config.base) / models.AUTOENCODER
    values = {"stage": "video", "autoencoder": str(folder), "model": made.transformer}
    return config_lib.to_dataclass(values | shared, video.Config)


def make_start(config: Config, base: models.VideoModel, *, mesh: Mesh) -> Start:
    """Adapters that change nothing yet and a frozen base, or the base to be trained."""
    boxed = models.boxed_transformer(base.config.transformer)
    places = models.transformer_shardings(base.config.transformer, mesh)
    params = jax.device_put(base.params, places)
    if config.lora is None:
        return Start(params, places, lambda params, _: params, {})
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    adapters, shardings = lora_lib.init(key, boxed, config=config.lora, mesh=mesh)
    form = config.lora
    return Start(
        adapters, shardings, lambda own, base: lora_lib.attach(base, own, form), params
    )


def make_job(
    config: Config,
    settings: video.Config,
    *,
    data: pipeline.PackedDataConfig,
    base: models.VideoModel,
    start: Start,
    mesh: Mesh,
) -> loop.TrainJob:
    """Data, parameters and loss of the stage, on `mesh`; latents at `data.path`."""
    predict = denoising.predict_with(dit.DiT(settings.model))

    def loss(params: Any, batch: Any, key: jax.Array, context: step.Context) -> Any:
        whole = start.whole(params, context.constants)
        return denoising.loss(whole, batch, key, predict=predict, config=config.loss)

    open_latents = functools.partial(restated, base)
    dataset = pipeline.make_dataset(
        data, latents=open_latents(data), host=common.host(mesh)
    )
    validate = video.make_validation(
        settings, data, predict=predict, mesh=mesh, open_latents=open_latents
    )
    evaluate = None
    if validate is not None:
        evaluate = lambda params: validate(start.whole(params, start.base))  # noqa: E731
    return loop.TrainJob(
        name="finetune",
        loss=step.Contextual(loss, start.base),
        params=start.params,
        shardings=start.shardings,
        mesh=mesh,
        key=jax.random.fold_in(jax.random.key(config.seed), 1),
        iterator=iter(dataset),
        measure=functools.partial(video.work, settings.model),
        identity=config_lib.to_dict(config) | {"base": base.digest},
        may_differ=common.MAY_DIFFER,
        evaluate=evaluate,
    )


def restated(base: models.VideoModel, data: pipeline.PackedDataConfig) -> list[Any]:
    """The latents of a split, with the base's statistics.

    Raises:
      DatasetError: no dataset, or latents of another encoder.
    """
    statistics: autoencoder.LatentStatistics = base.config.statistics
    mean, std = (np.array(a, np.float32) for a in (statistics.mean, statistics.std))
    digest = base.config.autoencoder
    return [
        Restated(latents.open_latents(path, data.split, digest=digest), mean, std)
        for path in (data.path, *data.also)
    ]


def export(
    config: Config, base: models.VideoModel, *, params: Any, workdir: pathlib.Path
) -> None:
    """Write `workdir/model`, and `workdir/adapters` where there are some."""
    if jax.process_index() != 0:
        return
    if config.lora is not None:
        models.save_adapters(
            workdir / "adapters",
            params,
            form=config.lora,
            config=base.config.transformer,
            base=base.digest,
        )
        params = lora_lib.merge(base.params, params, config.lora)
    models.save_video_model(
        workdir / "model",
        params,
        config=base.config,
        autoencoder_dir=model_io.find_model(config.base) / models.AUTOENCODER,
        vocabulary=base.tokenizer,
    )
