"""soraflax: video generation with packed diffusion transformers, in JAX and Flax.

The names below are loaded when they are first used; `import soraflax` alone loads
neither JAX nor Flax.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Autoencoder": "soraflax.nn.autoencoder",
    "AutoencoderConfig": "soraflax.nn.autoencoder",
    "DiT": "soraflax.nn.dit",
    "DiTConfig": "soraflax.nn.dit",
    "Generator": "soraflax.generation.generator",
    "Packed": "soraflax.ops.packing",
    "Prompt": "soraflax.generation.generator",
    "SamplingConfig": "soraflax.generation.generator",
    "Segment": "soraflax.ops.packing",
    "assemble": "soraflax.ops.packing",
    "make_mesh": "soraflax.sharding",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'soraflax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
