"""Wan 2.1's transformer of 1.3 billion parameters, on a small slice or one host.

Claim     a step fits on each of the slices below.
Hardware  none was at hand; presets name a slice by its chips.
Command   soraflax plan --config=wan2_1_t2v_1_3b:v6e-16 \\
              --topology v6e:4x4
Result    in docs/planning.md; `python -m experiments.benchmarks.pod_plans` makes the
figures.

A row holds 32,768 tokens: one clip of 81 frames at 832 x 480, or many shorter ones.
Text comes as in `wan2_1_t2v_14b.py`.
"""

from typing import Any

from data_pipelines import transforms
from experiments.configs import _wan
from soraflax import sharding
from soraflax.nn import dit
from soraflax.ops import packing

RECIPE = _wan.Recipe(
    model=dit.VARIANTS["wan2_1_t2v_1_3b"],
    row=packing.RowShape(tokens=32_768, text=8_192, segments=16, align=128),
    fit=transforms.FitConfig(max_tokens=32_760, max_frames=81, fps=16.0),
    learning_rate=2e-4,
)
PRESETS = {
    "v5e-16": _wan.Preset(sharding.MeshConfig(fsdp=-1), rows=4),
    "v5p-8": _wan.Preset(sharding.MeshConfig(fsdp=-1), rows=4),
    "v6e-16": _wan.Preset(sharding.MeshConfig(fsdp=-1), rows=4),
}


def get_config(preset: str = "v6e-16") -> Any:
    return _wan.make(RECIPE, PRESETS, name=preset)
