"""The fine-tuned video model, and its adapters."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from data_pipelines import pipeline
from experiments.stages import runtime
from experiments.stages.finetune import config as stage_config
from experiments.stages.video import data as video_data
from experiments.stages.video import export as video_export
from soraflax import buckets
from soraflax.nn import lora
from soraflax.pretrained import arrays, models, slices, training_data
from soraflax.pretrained import io as model_io


def tuned_config(
    base: models.VideoModelConfig,
    *,
    seen: training_data.TrainingData | None,
    text_length: int,
) -> models.VideoModelConfig:
    """The base's configuration with what the model has seen since.

    Args:
      base: of the model that training started from.
      seen: data of both trainings.
      text_length: most tokens of a caption, of which an own text encoder takes any
        number; features keep the base's.
    """
    if base.transformer.text is None:
        text_length = base.text_length
    text_length = max(base.text_length, text_length)
    return dataclasses.replace(base, trained_on=seen, text_length=text_length)


def merged(base: Any, adapters: Any, *, config: lora.LoraConfig) -> Any:
    """`lora.merge`, of which one layer at a time is on the devices, when it is written.

    Args:
      base: all parameters, on a mesh; those without adapters are given as they are.
      adapters: as of `lora.init`.
      config: their scale.
    """
    added = model_io.named_leaves(adapters)
    flat = model_io.named_leaves(base)
    for path, a in added.items():
        layer, _, name = path.rpartition("/")
        if name == lora.A:
            kernel = f"{layer}/kernel"
            pair = a, added[f"{layer}/{lora.B}"]
            flat[kernel] = _merged(flat[kernel], pair, config=config)
    return model_io.unflatten(flat)


def _merged(
    kernel: jax.Array, pair: tuple[jax.Array, jax.Array], *, config: lora.LoraConfig
) -> arrays.LazyArray:
    def parts() -> Iterator[np.ndarray]:
        stacked = kernel.ndim > 2
        for row in range(kernel.shape[0]) if stacked else (None,):
            yield from slices.host_pieces(
                _merge_row(kernel, pair, row=row, config=config)
            )

    return arrays.LazyArray(kernel.shape, np.dtype(kernel.dtype), parts)


@functools.partial(jax.jit, static_argnames="config")
def _merge_row(
    kernel: jax.Array,
    pair: tuple[jax.Array, jax.Array],
    *,
    row: int | None,
    config: lora.LoraConfig,
) -> jax.Array:
    """A kernel with its adapters; of a stack, that of one layer."""
    tree = {"kernel": kernel, lora.A: pair[0], lora.B: pair[1]}
    if row is not None:
        tree = jax.tree.map(lambda x: x[row], tree)
    return lora.merge(
        {"layer": {"kernel": tree.pop("kernel")}}, {"layer": tree}, config=config
    )["layer"]["kernel"]


def export(
    config: stage_config.FinetuneRunConfig,
    base: models.VideoModel,
    *,
    data: pipeline.PackedDataConfig,
    latents: Sequence[Any],
    text: video_data.TextSource,
    params: Any,
    workdir: buckets.Folder,
) -> None:
    """Write `workdir/model`, and `workdir/adapters` where there are some.

    All processes call it; parameters stay on the mesh.
    """
    if config.lora is not None:
        models.save_adapters(
            workdir / "adapters",
            params,
            lora_config=config.lora,
            config=base.config.transformer,
            base=base.digest,
        )
        params = merged(base.params, params, config=config.lora)
    seen = base.config.trained_on
    with runtime.together("describing the data"):
        if seen is not None and jax.process_index() == 0:  # which writes
            seen = seen.merged(video_export.measure_data(latents, data.captions))
    models.save_video_model(
        workdir / "model",
        runtime.heeding_signals(params),
        config=tuned_config(
            base.config, seen=seen, text_length=data.captions.max_length
        ),
        autoencoder_dir=model_io.find_model(config.base) / models.AUTOENCODER,
        vocabulary=base.tokenizer,
        files=text.files,
    )
