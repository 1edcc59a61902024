"""Wan's published weights trained further on one's own clips: adapters, or all of them.

Claim     converted weights learn from a folder of clips in three commands.
Hardware  not measured yet; the same file runs on one GPU or a TPU mesh.
Command   soraflax prepare --input CLIPS --output DATASET
          python -m data_pipelines.embed --dataset DATASET --text-encoder WAN
              --output FEATURES
          soraflax train --config=wan_finetune --config.base=WAN
              --config.data.path=DATASET --config.data.features=FEATURES
              --workdir=TUNED
Result    not measured yet.

WAN is what `soraflax convert` wrote of the whole published folder; process, shift and
reference rate are its own (`follow_base`). TUNED/model is a video model again,
TUNED/adapters what was added to it, which `soraflax convert --to wan2.1` writes for
diffusers. `:full` trains all parameters; `:tiny` is the size that tests train.
"""

import dataclasses
from typing import Any

from ml_collections import config_dict

from data_pipelines import latents, pipeline, transforms
from experiments.configs import _wan
from experiments.stages import run_config
from experiments.stages.video import config as video_config
from soraflax import config as config_lib
from soraflax import sharding
from soraflax.nn import lora
from soraflax.ops import packing
from soraflax.train import denoising, loop, optimizer

SIZES = ("lora", "full", "tiny")
ROW = packing.RowShape(tokens=32_768, text=8_192, segments=16, align=128)
# Captions of converted weights are padded to 512 features each.
TINY_ROW = dataclasses.replace(_wan.TINY_ROW, text=1024)
FIT = transforms.FitConfig(max_tokens=32_760, max_frames=81, fps=16.0)


def get_config(size: str = "lora") -> config_dict.ConfigDict:
    if size not in SIZES:
        raise ValueError(f"size {size!r}: {config_lib.nearest(size, SIZES)}")
    tiny, full = size == "tiny", size == "full"
    fit = transforms.FitConfig(max_tokens=256, max_frames=17) if tiny else FIT
    groups: dict[str, Any] = {
        "data": pipeline.PackedDataConfig(
            rows=8 if tiny else 1,
            row=TINY_ROW if tiny else ROW,
            captions=transforms.CaptionConfig(max_length=512),
        ),
        "cache": latents.LatentCacheConfig(fit=fit),
        "loss": denoising.DenoisingConfig(),
        "optimizer": optimizer.OptimizerConfig(
            learning_rate=1e-5 if full else 1e-4, warmup=20, weight_decay=0.0
        ),
        "train": loop.TrainConfig(
            steps=2 if tiny else 2000, log_every=1 if tiny else 10, ema_decay=0.99
        ),
        "evaluation": video_config.VideoEvaluationConfig(batches=1),
        "mesh": sharding.MeshConfig(),
    }
    if not full:
        groups["lora"] = lora.LoraConfig(
            rank=4 if tiny else 32,
            alpha=4.0 if tiny else 32.0,
            targets=("stack/*_attention/*/kernel", "stack/*/mlp/*/kernel"),
        )
    config = run_config.to_config_dict("finetune", groups, base="", follow_base=True)
    config.data.seed = config.get_ref("seed")
    return config
