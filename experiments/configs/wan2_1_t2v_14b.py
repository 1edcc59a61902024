"""Wan 2.1's transformer of 14 billion parameters on TPU pods.

Claim     a step fits, and is bound by matrix products, on each of the pods below.
Hardware  none was at hand; presets name a pod by its chips.
Command   soraflax plan --config=wan2_1_t2v_14b:v5p-512 \\
              --topology v5p:8x8x8
Result    in docs/planning.md; `python -m experiments.benchmarks.pod_plans` makes the
figures.

A row holds 131,072 tokens, four clips of 81 frames at 832 x 480 (32,760 tokens each,
with 512 text tokens) or many shorter ones. `context` splits it, so that a chip sees
16,384 or 32,768 tokens. Text comes as UMT5's features, 512 of a caption, made once by
`python -m data_pipelines.embed` (`--config.data.features`, `--config.text_encoder`).

`:million` is one clip of 1,048,576 tokens on `v5p:8x8x8`.
"""

import dataclasses
from typing import Any

from data_pipelines import transforms
from experiments.configs import _wan
from soraflax import sharding
from soraflax.nn import dit
from soraflax.ops import packing

RECIPE = _wan.Recipe(
    model=dit.VARIANTS["wan2_1_t2v_14b"],
    row=packing.RowShape(tokens=131_072, text=8_192, segments=16, align=128),
    fit=transforms.FitConfig(max_tokens=32_760, max_frames=81, fps=16.0),
    learning_rate=1e-4,
)
MILLION = dataclasses.replace(
    RECIPE,
    row=packing.RowShape(tokens=1_048_576, text=512, segments=1, align=128),
    fit=transforms.FitConfig(max_tokens=1_048_576, max_frames=1169, fps=16.0),
)
FOUR = sharding.MeshConfig(fsdp=-1, context=4)
EIGHT = sharding.MeshConfig(fsdp=-1, context=8)
PRESETS = {
    "v5p-64": _wan.Preset(FOUR, rows=2),
    "v5p-512": _wan.Preset(EIGHT, rows=2),
    "v6e-256": _wan.Preset(EIGHT, rows=2),
    "v6e-512": _wan.Preset(dataclasses.replace(EIGHT, data=2), rows=2),
    "tpu7x-64": _wan.Preset(FOUR, rows=4),
    "million": _wan.Preset(sharding.MeshConfig(fsdp=1, context=-1, tensor=8)),
}


def get_config(preset: str = "v5p-512") -> Any:
    recipe = MILLION if preset == "million" else RECIPE
    return _wan.make(recipe, PRESETS, name=preset)
