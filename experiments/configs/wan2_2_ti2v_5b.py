"""Wan 2.2's transformer of 5 billion parameters, for text and images, on TPU slices.

Claim     a step fits on each of the slices below.
Hardware  none was at hand; presets name a slice by its chips.
Command   soraflax plan --config=wan2_2_ti2v_5b:v6e-64 \\
              --topology v6e:8x8
Result    in docs/planning.md; `python -m experiments.benchmarks.pod_plans` makes the
figures.

Its autoencoder compresses 4 x 16 x 16, so a row of 65,536 tokens holds two clips of 121
frames at 1280 x 704 (27,280 tokens each), or many shorter ones. Text comes as in
`wan2_1_t2v_14b.py`.
"""

from typing import Any

from data_pipelines import transforms
from experiments.configs import _wan
from soraflax import sharding
from soraflax.nn import dit
from soraflax.ops import packing

RECIPE = _wan.Recipe(
    model=dit.VARIANTS["wan2_2_ti2v_5b"],
    row=packing.RowShape(tokens=65_536, text=8_192, segments=16, align=128),
    fit=transforms.FitConfig(max_tokens=27_280, max_frames=121, fps=24.0),
    learning_rate=1e-4,
)
PRESETS = {
    "v5p-64": _wan.Preset(sharding.MeshConfig(fsdp=-1, context=4), rows=2),
    "v6e-64": _wan.Preset(sharding.MeshConfig(fsdp=-1, context=8), rows=2),
}


def get_config(preset: str = "v6e-64") -> Any:
    return _wan.make(RECIPE, PRESETS, name=preset)
