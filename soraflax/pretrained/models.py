"""Trained models on disk: the autoencoder's, and the video model's that contains it.

    AE/model/       config.json  params.safetensors
    DIT/model/      config.json  params.safetensors      a transformer by itself
    TUNED/adapters/ config.json  params.safetensors      adapters of one
    VIDEO/model/    config.json  params.safetensors  vocabulary.model
                    autoencoder/ config.json  params.safetensors

`model_io` defines the files; here is what their configurations say. Both are complete:
nothing else is needed to encode, decode or generate.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta
from jax.sharding import Mesh

from soraflax import config as config_lib
from soraflax import sharding, tokenizer
from soraflax.diffusion import process as process_lib
from soraflax.diffusion import schedule
from soraflax.nn import autoencoder, dit, experts, lora
from soraflax.ops import batch_invariance, packing
from soraflax.pretrained import io as model_io
from soraflax.pretrained import migration

VOCABULARY = "vocabulary.model"
AUTOENCODER = "autoencoder"
ENCODER = ("encoder", "moments", "linear_in")


@dataclasses.dataclass(frozen=True)
class VideoModelConfig:
    """Everything about a trained transformer but its parameters.

    Attributes:
      transformer: its sizes.
      statistics: of the latents it was trained on; its tokens are normalised by them.
      autoencoder: digest of the encoder those latents are of (`encoder_digest`).
      row: capacity of a row in training; generation packs rows alike.
      text_length: most tokens of a caption, end-of-text included.
      reference_fps: frame rate at which positions count latent frames.
      process: a name in `diffusion.process.PROCESSES`.
      prediction: what the transformer outputs.
      shift: of noise levels by a segment's token count.
      window: latent frames of the longest clips in training; 0 where that is not known.
        Longer videos are made in windows of so many.
      boundary: of two experts of `transformer`'s sizes (`nn.experts`), whose parameters
        are `{"high": ..., "low": ...}`; None where there is one transformer.
    """

    transformer: dit.DiTConfig
    statistics: autoencoder.LatentStatistics
    autoencoder: str
    row: packing.RowShape
    text_length: int = 64
    reference_fps: float = 8.0
    process: str = "rectified_flow"
    prediction: str = "velocity"
    shift: schedule.TokenCountShift = dataclasses.field(
        default_factory=schedule.TokenCountShift
    )
    window: int = 0
    boundary: float | None = None

    def __post_init__(self) -> None:
        process_lib.make(self.process, self.prediction)
        if self.boundary is not None:
            experts.ExpertsConfig(self.transformer, self.boundary)
        channels, expected = len(self.statistics.mean), self.transformer.latent_channels
        if channels != expected:
            raise ValueError(
                f"statistics of {channels} channels, latents of {expected}"
            )


@dataclasses.dataclass(frozen=True)
class AutoencoderModel:
    """A trained autoencoder.

    Attributes:
      config: its sizes.
      params: its parameters.
      digest: of its parameters.
      statistics: of its latents; None if they were not measured.
    """

    config: autoencoder.AutoencoderConfig
    params: Any
    digest: str
    statistics: autoencoder.LatentStatistics | None = None

    @functools.cached_property
    def encoder_digest(self) -> str:
        """Of what makes the latents, which are stamped with it; see below."""
        return encoder_digest(self.params)

    @functools.cached_property
    def encode(self) -> Any:
        """Compiled: video `[B, T, H, W, 3]` in [-1, 1] to mean `[B, t, h, w, z]`."""
        module = autoencoder.Autoencoder(self.config)

        def encode(params: Any, video: Any) -> Any:
            return module.apply({"params": params}, video, method="encode")[0]

        return functools.partial(jax.jit(encode), self.on_device)

    @functools.cached_property
    def decode(self) -> Any:
        """Compiled: latent `[B, t, h, w, z]` to uint8 video `[B, T, H, W, 3]`."""
        module = autoencoder.Autoencoder(self.config)

        def decode(params: Any, latent: Any) -> Any:
            video: Any = batch_invariance.map_rows(
                lambda part: module.apply({"params": params}, part, method="decode"),
                latent,
            )
            video = jnp.clip((video + 1.0) * 127.5, 0.0, 255.0)
            return jnp.round(video).astype(jnp.uint8)

        return functools.partial(jax.jit(decode), self.on_device)

    @functools.cached_property
    def on_device(self) -> Any:
        """The parameters, where computation takes place."""
        return jax.device_put(self.params)


@dataclasses.dataclass(frozen=True)
class TransformerModel:
    """A transformer by itself, whose text and latents come from elsewhere.

    Attributes:
      config: its sizes.
      params: its parameters.
      digest: of its parameters.
    """

    config: dit.DiTConfig
    params: Any
    digest: str


@dataclasses.dataclass(frozen=True)
class AdaptersModel:
    """Adapters of a transformer, apart from it (`nn.lora`).

    Attributes:
      config: sizes of that transformer.
      form: of the adapters.
      params: theirs.
      base: digest of the model that they were trained on.
      digest: of their parameters.
    """

    config: dit.DiTConfig
    lora_config: lora.LoraConfig
    params: Any
    base: str
    digest: str


@dataclasses.dataclass(frozen=True)
class VideoModel:
    """A trained transformer with all that it needs.

    Attributes:
      config: what it is.
      params: the transformer's parameters.
      autoencoder: of its latents.
      tokenizer: of its captions.
      digest: of its parameters.
    """

    config: VideoModelConfig
    params: Any
    autoencoder: AutoencoderModel
    tokenizer: tokenizer.Tokenizer
    digest: str


def encoder_digest(params: Any) -> str:
    """Digest of the parameters that make latents.

    A decoder trained further on the same encoder leaves it, and with it the latents and
    the transformers trained on them, as they were.
    """
    return model_io.digest({name: params[name] for name in ENCODER if name in params})


def save_autoencoder(
    directory: str | os.PathLike[str],
    params: Any,
    *,
    config: autoencoder.AutoencoderConfig,
    metadata: Mapping[str, Any] | None = None,
) -> str:
    """Write a trained autoencoder.

    Args:
      directory: where.
      params: nested dict of arrays.
      config: its sizes.
      facts: what else its configuration should say, such as how good it is.

    Returns:
      Its digest.
    """
    record = {"kind": "autoencoder", "model": config_lib.to_dict(config)}
    return model_io.save_model(directory, params, config=dict(metadata or {}) | record)


def load_autoencoder(directory: str | os.PathLike[str]) -> AutoencoderModel:
    """Read what `save_autoencoder` wrote, there or in its `model/`.

    Raises:
      FileNotFoundError, ModelError: see `model_io.load_model`.
      ConfigError: the configuration is of another version of the autoencoder.
    """
    record = _config_of(directory, kind="autoencoder")
    config = config_lib.to_dataclass(
        record, autoencoder.AutoencoderConfig, path="autoencoder"
    )
    params, metadata = model_io.load_model(directory, like=autoencoder_shapes(config))
    statistics = metadata.get("latents")
    if statistics is not None:
        statistics = config_lib.to_dataclass(
            statistics, autoencoder.LatentStatistics, path="latents"
        )
    digest = model_io.model_digest(directory)
    return AutoencoderModel(config, params, digest, statistics)


def save_transformer(
    directory: str | os.PathLike[str],
    params: Any,
    *,
    config: dit.DiTConfig,
    metadata: Mapping[str, Any] | None = None,
) -> str:
    """Write a transformer by itself; arguments and result as of `save_autoencoder`."""
    record = {"kind": "transformer", "model": config_lib.to_dict(config)}
    return model_io.save_model(directory, params, config=dict(metadata or {}) | record)


def load_transformer(directory: str | os.PathLike[str]) -> TransformerModel:
    """Read what `save_transformer` wrote, there or in its `model/`.

    Raises:
      FileNotFoundError, ModelError: see `model_io.load_model`.
      ConfigError: the configuration is of another version of the transformer.
    """
    record = _config_of(directory, kind="transformer")
    config = config_lib.to_dataclass(record, dit.DiTConfig, path="transformer")
    params, _ = model_io.load_model(directory, like=transformer_shapes(config))
    return TransformerModel(config, params, model_io.model_digest(directory))


def save_adapters(
    directory: str | os.PathLike[str],
    params: Any,
    *,
    lora_config: lora.LoraConfig,
    config: dit.DiTConfig,
    base: str,
) -> str:
    """Write adapters by themselves.

    Args:
      directory: where.
      params: of `lora.init`.
      form: of them.
      config: sizes of the transformer that they adapt.
      base: its digest.

    Returns:
      Their digest.
    """
    record = {"kind": "lora", "lora": config_lib.to_dict(lora_config), "base": base}
    record |= {"model": config_lib.to_dict(config)}
    return model_io.save_model(directory, params, config=record)


def load_adapters(directory: str | os.PathLike[str]) -> AdaptersModel:
    """Read what `save_adapters` wrote, there or in its `model/`.

    Raises:
      FileNotFoundError, ModelError: see `model_io.load_model`.
      ConfigError: of another version of the transformer or of the adapters.
    """
    sizes = _config_of(directory, kind="lora")
    config = config_lib.to_dataclass(sizes, dit.DiTConfig, path="model")
    record = model_io.model_config(directory)
    lora_config = config_lib.to_dataclass(
        record.get("lora", {}), lora.LoraConfig, path="lora"
    )
    like = lora.shapes(transformer_shapes(config), lora_config)
    params, _ = model_io.load_model(directory, like=like)
    digest = model_io.model_digest(directory)
    return AdaptersModel(config, lora_config, params, record.get("base", ""), digest)


def save_video_model(
    directory: str | os.PathLike[str],
    params: Any,
    *,
    config: VideoModelConfig,
    autoencoder_dir: str | os.PathLike[str],
    vocabulary: tokenizer.Tokenizer,
) -> str:
    """Write a trained transformer with its autoencoder and vocabulary.

    Returns:
      The digest of its parameters.

    Raises:
      ModelError: the autoencoder is not the one its latents came from.
    """
    autoencoder_path = model_io.find_model(autoencoder_dir)
    _check_encoder(autoencoder_path, load_autoencoder(autoencoder_path), config=config)
    record = {"kind": "video", "model": config_lib.to_dict(config)}
    files = {VOCABULARY: vocabulary.model, AUTOENCODER: autoencoder_path}
    return model_io.save_model(directory, params, config=record, files=files)


def load_video_model(directory: str | os.PathLike[str]) -> VideoModel:
    """Read what `save_video_model` wrote, there or in its `model/`.

    Raises:
      FileNotFoundError, ModelError: see `model_io.load_model`.
      ConfigError: the configuration is of another version of the model.
    """
    directory = model_io.find_model(directory, kind="video")
    record = _config_of(directory, kind="video")
    config = config_lib.to_dataclass(record, VideoModelConfig, path="model")
    codec = load_autoencoder(directory / AUTOENCODER)
    _check_encoder(directory / AUTOENCODER, codec, config=config)
    shapes = transformer_shapes(config.transformer)
    if config.boundary is not None:
        shapes = dict.fromkeys(experts.NAMES, shapes)
    params, _ = model_io.load_model(directory, like=shapes)
    return VideoModel(
        config=config,
        params=params,
        autoencoder=codec,
        tokenizer=tokenizer.Tokenizer.load(directory / VOCABULARY),
        digest=model_io.model_digest(directory),
    )


def example_row(config: dit.DiTConfig) -> packing.Packed:
    """Two clips and an image of noise, with captions, packed in one row.

    Enough to initialise a transformer and to see what packing is:

        >>> module = dit.DiT(config)
        >>> row = example_row(config)
        >>> params = module.init(jax.random.key(0), row)["params"]
        >>> prediction = module.apply({"params": params}, row)  # [1, N, P]

    In `prediction` every segment has what it would have in a row of its own.
    """
    rng = np.random.default_rng(0)
    segments = []
    for grid in ((3, 2, 2), (1, 4, 4), (2, 3, 4)):
        sizes = [n * size for n, size in zip(grid, config.patch, strict=True)]
        latent = rng.normal(size=(*sizes, config.latent_channels)).astype(np.float32)
        text = rng.integers(1, 100, size=4).astype(np.int32)
        if config.text is None:
            text = rng.normal(size=(4, config.text_width)).astype(np.float32)
        segments.append(packing.Segment.from_latent(latent, text, patch=config.patch))
    shape = packing.RowShape.fitting([segments], align=8)
    packed = packing.assemble([segments], shape)
    return packed.replace(levels=np.full_like(packed.levels, 0.5))


def transformer_shapes(config: dit.DiTConfig) -> Any:
    """ShapeDtypeStructs of a transformer's parameters."""
    return meta.unbox(boxed_transformer(config))


def boxed_transformer(config: dit.DiTConfig) -> Any:
    """The same, boxed: with the logical names of their axes (`sharding.Named`)."""
    module, row = dit.DiT(config), jax.tree.map(jnp.asarray, example_row(config))
    return _boxed(lambda key: module.init(key, row)["params"])


def transformer_shardings(
    config: dit.DiTConfig,
    mesh: Mesh,
    *,
    rules: sharding.AxisRules = sharding.DEFAULT_RULES,
) -> Any:
    """NamedSharding of every parameter of a transformer.

    Raises:
      ValueError: a size does not divide over its mesh axes.
    """
    return sharding.param_shardings(boxed_transformer(config), mesh, rules=rules)


def autoencoder_shapes(config: autoencoder.AutoencoderConfig) -> Any:
    """ShapeDtypeStructs of an autoencoder's parameters."""
    module = autoencoder.Autoencoder(config)
    frames, height, width = config.video_shape(2, 2, 2)
    video = jnp.zeros((1, frames, height, width, 3))
    return meta.unbox(_boxed(lambda key: module.init(key, video)["params"]))


def _boxed(init: Any) -> Any:
    with sharding.no_mesh():
        return jax.eval_shape(lambda: init(jax.random.key(0)))


def _config_of(directory: str | os.PathLike[str], *, kind: str) -> Any:
    record = model_io.model_config(directory)
    if record.get("kind") != kind:
        raise model_io.ModelError(
            f"{directory}: holds a model of kind {record.get('kind')!r}, not {kind!r}"
        )
    if "model" not in record:
        raise model_io.ModelError(f"{directory}: its configuration has no 'model'")
    return migration.migrate(record["model"], kind)


def _check_encoder(
    directory: pathlib.Path, codec: AutoencoderModel, *, config: VideoModelConfig
) -> None:
    if codec.encoder_digest != config.autoencoder:
        raise model_io.ModelError(
            f"{directory}: encoder {codec.encoder_digest[:12]}, but the transformer "
            f"was trained on latents of {config.autoencoder[:12]}"
        )
