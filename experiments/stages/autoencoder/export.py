"""The model that a stage of the autoencoder leaves."""

import dataclasses
import pathlib
from typing import Any

import jax

from experiments.stages import runtime
from soraflax.nn import autoencoder
from soraflax.pretrained import models


def export(
    workdir: pathlib.Path,
    params: Any,
    *,
    sizes: autoencoder.AutoencoderConfig,
    statistics: autoencoder.LatentStatistics,
    result: dict[str, float],
) -> None:
    """Write `workdir/model`, of parameters on the host, and `workdir/result.json`."""
    if jax.process_index() == 0:
        facts = {"latents": dataclasses.asdict(statistics), "validation": result}
        models.save_autoencoder(workdir / "model", params, config=sizes, metadata=facts)
    runtime.write_json(workdir / "result.json", result)
    runtime.barrier("exported")
