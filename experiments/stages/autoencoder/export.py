"""The model that a stage of the autoencoder leaves."""

import dataclasses
from typing import Any

from experiments.stages import runtime
from soraflax import buckets
from soraflax.nn import autoencoder
from soraflax.pretrained import models


def export(
    workdir: buckets.Folder,
    params: Any,
    *,
    sizes: autoencoder.AutoencoderConfig,
    statistics: autoencoder.LatentStatistics,
    result: dict[str, float],
) -> None:
    """Write `workdir/model` and `workdir/result.json`; all processes call it."""
    facts = {"latents": dataclasses.asdict(statistics), "validation": result}
    params = runtime.heeding_signals(params)
    models.save_autoencoder(workdir / "model", params, config=sizes, metadata=facts)
    runtime.write_json(workdir / "result.json", result)
    runtime.barrier("exported")
