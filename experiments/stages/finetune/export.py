"""The fine-tuned video model, and its adapters."""

import pathlib
from typing import Any

import jax

from experiments.stages.finetune import config as stage_config
from soraflax.nn import lora
from soraflax.pretrained import io as model_io
from soraflax.pretrained import models


def export(
    config: stage_config.FinetuneRunConfig,
    base: models.VideoModel,
    *,
    params: Any,
    workdir: pathlib.Path,
) -> None:
    """Write `workdir/model`, and `workdir/adapters` where there are some."""
    if jax.process_index() != 0:
        return
    if config.lora is not None:
        models.save_adapters(
            workdir / "adapters",
            params,
            lora_config=config.lora,
            config=base.config.transformer,
            base=base.digest,
        )
        params = lora.merge(base.params, params, config=config.lora)
    models.save_video_model(
        workdir / "model",
        params,
        config=base.config,
        autoencoder_dir=model_io.find_model(config.base) / models.AUTOENCODER,
        vocabulary=base.tokenizer,
    )
