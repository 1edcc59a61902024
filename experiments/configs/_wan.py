"""The shared part of the configs of Wan's transformers.

Text comes as features of a text encoder, UMT5 for the full sizes: `text_encoder` names
it, and `data.features` what `python -m data_pipelines.embed` made with it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from data_pipelines import latents, pipeline, transforms
from experiments.stages import run_config
from experiments.stages.video import config as stage_config
from soraflax import config as config_lib
from soraflax import sharding
from soraflax.diffusion import schedule
from soraflax.nn import dit
from soraflax.ops import packing
from soraflax.train import denoising, loop, optimizer

REFERENCE_TOKENS = 32_760  # 81 frames at 832 x 480
TINY_ROW = packing.RowShape(tokens=512, text=256, segments=16)


@dataclasses.dataclass(frozen=True)
class Preset:
    """The layout of a model over a pod.

    Attributes:
      mesh: sizes of the mesh's axes.
      rows: rows of a batch, for each batch shard.
      remat: remat policy.
    """

    mesh: sharding.MeshConfig
    rows: int = 1
    remat: str = "full"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A model and the sizes of its training data.

    Attributes:
      model: sizes of the transformer.
      row: capacity of a row.
      fit: limits of a clip's size.
      learning_rate: peak of the schedule.
    """

    model: dit.DiTConfig
    row: packing.RowShape
    fit: transforms.FitConfig
    learning_rate: float


def make(recipe: Recipe, presets: Mapping[str, Preset], *, name: str) -> Any:
    """The ConfigDict of a recipe under a preset, or of `tiny`, which tests train.

    Raises:
      ValueError: no such preset, naming the nearest.
    """
    tiny = name == "tiny"
    if not tiny and name not in presets:
        hint = config_lib.nearest(name, [*presets, "tiny"])
        raise ValueError(f"preset {name!r}: {hint}")
    preset = Preset(sharding.MeshConfig(), rows=8) if tiny else presets[name]
    model = dataclasses.replace(
        shrink(recipe.model) if tiny else recipe.model, remat=preset.remat
    )
    fit = transforms.FitConfig(max_tokens=256, max_frames=17) if tiny else recipe.fit
    row = TINY_ROW if tiny else recipe.row
    groups = {
        "data": pipeline.PackedDataConfig(
            rows=preset.rows,
            row=row,
            look_ahead=64,
            reference_fps=fit.fps or 16.0,
            captions=transforms.CaptionConfig(max_length=16 if tiny else 512),
        ),
        "cache": latents.LatentCacheConfig(fit=fit),
        "model": model,
        "loss": denoising.DenoisingConfig(
            shift=schedule.TokenCountShift(base=3.0, base_tokens=REFERENCE_TOKENS)
        ),
        "optimizer": optimizer.OptimizerConfig(
            learning_rate=recipe.learning_rate, warmup=1000, weight_decay=0.1
        ),
        "train": loop.TrainConfig(
            steps=100_000,
            checkpoint_every=1000,
            checkpoint_minutes=12,  # about sqrt(2 x 10 s to save x 8 h to a failure)
            keep_period=10_000,
            stall_minutes=0 if tiny else 20,
            ema_decay=0.9999,
        ),
        "evaluation": stage_config.VideoEvaluationConfig(batches=8),
        "mesh": preset.mesh,
    }
    config = run_config.to_config_dict(
        "video", groups, autoencoder="", text_encoder="", distributed=not tiny
    )
    config.data.patch = config.model.get_ref("patch")
    config.cache.patch = config.model.get_ref("patch")
    config.data.seed = config.get_ref("seed")
    if tiny:
        config.train.update(steps=2, log_every=1)
        config.evaluation.batches = 1
    return config


def shrink(model: dit.DiTConfig) -> dit.DiTConfig:
    """The same architecture in the sizes of `tiny`."""
    tiny = dit.VARIANTS["tiny"]
    sizes = {
        name: getattr(tiny, name)
        for name in ("latent_channels", "width", "depth", "heads", "mlp")
    }
    return dataclasses.replace(
        model,
        **sizes,
        text_width=tiny.text_width,
        frequency_width=tiny.frequency_width,
        attention_block=tiny.attention_block,
        attention="auto",
        dtype=tiny.dtype,
    )
